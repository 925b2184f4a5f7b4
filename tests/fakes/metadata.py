"""Metadata servers as machines of ec2 and of compute engine see them, one application per machine.

A machine is told apart by the address it asks: give each its own port (`MetadataServers`), and the guest the
vendor's own variable, AWS_EC2_METADATA_SERVICE_ENDPOINT or GCE_METADATA_HOST.

Sources: paths and forms of ec2 are those of AWS's own mock (schemas/aemm-metadata-default-values.json) and of
the EC2 user guide; those of compute engine are of its guide "View and query VM metadata".
"""

import email.utils
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs

from tests.fakes.controls import Controls, Environ, Faulty, StartResponse, WSGIApp
from tests.fakes.serving import served

Headers = list[tuple[str, str]]
TTL_MAX_S = 21_600
AWS_ROLE = "fake-role"
REASONS = {
    200: "OK", 301: "Moved Permanently", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable",
}  # fmt: skip


class _Metadata:
    """What both have: a clock that may be wrong, planned failures, answers.

    Attributes:
        controls: what goes wrong next; the calls are "token" and "get" for ec2, the key for compute engine.
        garbage: answers make no sense while it is set.
        clock_ahead_s: the vendor's clock minus ours.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.controls = Controls()
        self.garbage = False
        self.clock_ahead_s = 0.0
        self._now = now
        self._changed = threading.Condition()
        self._closed = False
        self._app = Faulty(
            self._answer,
            self.controls,
            name=self._call,
            refused=lambda _: self._failing(503),
            broken=lambda _: self._failing(503),
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._app(environ, start_response)

    def close(self) -> None:
        """Let everybody go who waits for a change."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def time(self) -> float:
        """The vendor's clock."""
        return self._now() + self.clock_ahead_s

    def _call(self, environ: Environ) -> str:
        raise NotImplementedError

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raise NotImplementedError

    def _failing(self, status: int) -> WSGIApp:
        return lambda _, start_response: self._say(start_response, status, "")

    def _say(
        self, start_response: StartResponse, status: int, text: str, headers: Headers | None = None
    ) -> Iterable[bytes]:
        body = secrets.token_bytes(200) if self.garbage else text.encode()
        start_response(
            f"{status} {REASONS[status]}",
            [
                ("Date", email.utils.formatdate(self.time(), usegmt=True)),
                ("Content-Length", str(len(body))),
                *(headers or [("Content-Type", "text/plain")]),
            ],
        )
        return [body]


class Imds(_Metadata):
    """Instance metadata of ec2, version 2 only: a token is demanded, as with HttpTokens=required.

    Args:
        instance_id, instance_type, zone, lifecycle, local_ipv4: of the machine; lifecycle: spot, on-demand.
        extra: further values by path below /latest/meta-data/.
        now: our clock.
    """

    def __init__(
        self,
        instance_id: str = "i-1234567890abcdef0",
        *,
        instance_type: str = "m4.xlarge",
        zone: str = "us-east-1a",
        lifecycle: str = "spot",
        local_ipv4: str = "172.16.34.43",
        extra: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(now)
        self._tokens: dict[str, float] = {}
        self._lock = threading.Lock()
        self._values: dict[str, str] = {
            "instance-id": instance_id,
            "instance-type": instance_type,
            "instance-life-cycle": lifecycle,
            "instance-action": "none",
            "local-ipv4": local_ipv4,
            "placement/availability-zone": zone,
            "placement/region": zone[:-1],
            "services/domain": "amazonaws.com",
            "services/partition": "aws",
            f"iam/security-credentials/{AWS_ROLE}": json.dumps(
                {
                    "Code": "Success",
                    "LastUpdated": "2020-04-02T18:50:40Z",
                    "Type": "AWS-HMAC",
                    "AccessKeyId": "ASIAFAKE",
                    "SecretAccessKey": "fake/secret",
                    "Token": "fake-session-token",
                    "Expiration": "2099-04-02T00:49:51Z",
                }
            ),
            **(extra or {}),
        }

    def notice(self, within_s: float | None = 120.0, action: str = "terminate") -> None:
        """Say that the machine will be taken; None: at once, as for hibernation. Said again: it moved."""
        at = _aws_time(self.time() + (within_s or 0.0))
        with self._lock:
            self._values["spot/instance-action"] = json.dumps({"action": action, "time": at})
            if action == "terminate":
                self._values["spot/termination-time"] = at
            self._values["instance-action"] = action

    def rebalance(self) -> None:
        """Recommend to rebalance: an early word without a time."""
        said = json.dumps({"noticeTime": _aws_time(self.time())})
        with self._lock:
            self._values["events/recommendations/rebalance"] = said

    def withdraw(self) -> None:
        """Take every word back."""
        with self._lock:
            self._values["instance-action"] = "none"
            for path in ("spot/instance-action", "spot/termination-time", "events/recommendations/rebalance"):
                self._values.pop(path, None)

    def expire_tokens(self) -> None:
        """No token that was given is good any more."""
        with self._lock:
            self._tokens.clear()

    def _call(self, environ: Environ) -> str:
        return "token" if environ["PATH_INFO"] == "/latest/api/token" else "get"

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/latest/api/token":
            return self._token(environ, start_response)
        token = environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN", "")
        with self._lock:
            good = self._tokens.get(token, 0.0) > self._now()
            value = self._value(path.removeprefix("/latest/meta-data/")) if good else None
        if not good:
            return self._error(start_response, 401)
        if method != "GET":
            return self._error(start_response, 405)
        if value is None or not path.startswith("/latest/meta-data/"):
            return self._error(start_response, 404)
        return self._say(start_response, 200, value, [("Content-Type", "text/plain"), ("Server", "EC2ws")])

    def _value(self, path: str) -> str | None:
        if path.rstrip("/") in self._values:  # botocore asks for values with a slash, and is answered
            return self._values[path.rstrip("/")]
        folder = path.rstrip("/") + "/" if path else ""
        names = {rest.partition("/") for rest in self._below(folder)}
        return "\n".join(sorted(name + slash for name, slash, _ in names)) or None

    def _below(self, folder: str) -> Iterable[str]:
        return (path.removeprefix(folder) for path in self._values if path.startswith(folder))

    def _token(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return self._error(start_response, 405)
        if "HTTP_X_FORWARDED_FOR" in environ:
            return self._error(start_response, 403)
        given = environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS", "")
        if not given.isdecimal() or not 1 <= int(given) <= TTL_MAX_S:
            return self._error(start_response, 400)
        token = secrets.token_urlsafe(42)
        with self._lock:
            self._tokens[token] = self._now() + int(given)
        headers = [
            ("Content-Type", "text/plain"),
            ("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", given),
            ("Server", "EC2ws"),
        ]
        return self._say(start_response, 200, token, headers)

    def _error(self, start_response: StartResponse, status: int) -> Iterable[bytes]:
        page = (
            '<?xml version="1.0" encoding="iso-8859-1"?>\n<html xmlns="http://www.w3.org/1999/xhtml">'
            f"<head><title>{status} - {REASONS[status]}</title></head>"
            f"<body><h1>{status} - {REASONS[status]}</h1></body></html>\n"
        )
        return self._say(start_response, status, page, [("Content-Type", "text/html"), ("Server", "EC2ws")])


class GceMetadata(_Metadata):
    """Metadata of compute engine, with waiting for changes.

    Args:
        name, instance_id, zone, machine_type, project: of the machine.
        attributes: its own metadata, such as a startup script.
        token: of its service account.
        now: our clock.
    """

    def __init__(
        self,
        name: str = "fake-1",
        *,
        instance_id: int = 4_011_223_344_556_677,
        zone: str = "us-central1-a",
        machine_type: str = "e2-small",
        project: str = "fake-project",
        attributes: Mapping[str, str] | None = None,
        token: str = "fake-token",
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(now)
        number = "123456789012"
        account = "fake@fake-project.iam.gserviceaccount.com"
        self._values: dict[str, str] = {
            "project/project-id": project,
            "project/numeric-project-id": number,
            "universe/universe-domain": "googleapis.com",
            "instance/id": str(instance_id),
            "instance/name": name,
            "instance/hostname": f"{name}.{zone}.c.{project}.internal",
            "instance/zone": f"projects/{number}/zones/{zone}",
            "instance/machine-type": f"projects/{number}/machineTypes/{machine_type}",
            "instance/preempted": "FALSE",
            "instance/maintenance-event": "NONE",
            "instance/scheduling/preemptible": "TRUE",
            "instance/scheduling/automatic-restart": "FALSE",
            "instance/scheduling/on-host-maintenance": "TERMINATE",
            "instance/service-accounts/default/email": account,
            "instance/service-accounts/default/scopes": "https://www.googleapis.com/auth/cloud-platform\n",
            "instance/service-accounts/default/aliases": "default\n",
            "instance/service-accounts/default/token": json.dumps(
                {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}, separators=(",", ":")
            ),
            **{f"instance/attributes/{key}": value for key, value in (attributes or {}).items()},
        }
        self._versions: dict[str, int] = {}

    def notice(self, within_s: float | None = None) -> None:
        """Say that it is being preempted. The vendor tells no time here: 30 s are left, best effort."""
        self.put("instance/preempted", "TRUE")

    def maintenance(self, event: str = "TERMINATE_ON_HOST_MAINTENANCE") -> None:
        """Announce an event of its host: that, MIGRATE_ON_HOST_MAINTENANCE or NONE."""
        self.put("instance/maintenance-event", event)

    def withdraw(self) -> None:
        """Take every word back."""
        self.put("instance/preempted", "FALSE")
        self.put("instance/maintenance-event", "NONE")

    def put(self, path: str, value: str) -> None:
        """Set a value, below /computeMetadata/v1/."""
        with self._changed:
            if self._values.get(path) != value:
                self._values[path] = value
                self._versions[path] = self._versions.get(path, 0) + 1
                self._changed.notify_all()

    def _call(self, environ: Environ) -> str:
        path: str = environ["PATH_INFO"]
        return path.removeprefix("/computeMetadata/v1/")

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        flavor = environ.get("HTTP_METADATA_FLAVOR") == "Google"
        if path == "/":
            return self._found(start_response, "0.1/\ncomputeMetadata/\n", "/")
        if not flavor or "HTTP_X_FORWARDED_FOR" in environ:
            return self._error(start_response, 403)
        if not path.startswith("/computeMetadata/v1/"):
            return self._error(start_response, 404)
        path = path.removeprefix("/computeMetadata/v1/")
        query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        if path and not path.endswith("/") and path not in self._values and self._below(path + "/"):
            return self._say(start_response, 301, "", [("Location", f"/computeMetadata/v1/{path}/")])
        if query.get("wait_for_change") == "true":
            self._wait(path, query)
        with self._changed:
            return self._found_at(path, query, start_response)

    def _found_at(self, path: str, query: dict[str, str], start_response: StartResponse) -> Iterable[bytes]:
        value = self._values.get(path)
        if value is not None:
            is_json = path.endswith("/token")
            return self._found(start_response, value, self._etag(path), is_json=is_json)
        below = self._below(path) if not path or path.endswith("/") else {}
        if not below:
            return self._error(start_response, 404)
        if query.get("recursive") == "true":
            return self._found(start_response, json.dumps(_tree(below)), self._etag(path), is_json=True)
        names = {rest.partition("/")[:2] for rest in below}
        listing = "".join(f"{name}{slash}\n" for name, slash in sorted(names))
        return self._found(start_response, listing, self._etag(path))

    def _below(self, folder: str) -> dict[str, str]:
        return {
            path.removeprefix(folder): value
            for path, value in self._values.items()
            if path.startswith(folder)
        }

    def _etag(self, path: str) -> str:
        versions = [(name, at) for name, at in sorted(self._versions.items()) if name.startswith(path)]
        return hashlib.sha256(f"{path} {versions}".encode()).hexdigest()[:16]

    def _wait(self, path: str, query: dict[str, str]) -> None:
        """Return when the value is another than `last_etag`'s, or after `timeout_sec`."""
        within_s = float(query["timeout_sec"]) if "timeout_sec" in query else None
        with self._changed:
            known = query.get("last_etag", self._etag(path))
            self._changed.wait_for(lambda: self._closed or self._etag(path) != known, within_s)

    def _found(
        self, start_response: StartResponse, text: str, etag: str, *, is_json: bool = False
    ) -> Iterable[bytes]:
        headers = [
            ("Metadata-Flavor", "Google"),
            ("Content-Type", "application/json" if is_json else "application/text"),
            ("ETag", etag),
            ("Server", "Metadata Server for VM"),
            ("X-XSS-Protection", "0"),
            ("X-Frame-Options", "SAMEORIGIN"),
        ]
        return self._say(start_response, 200, text, headers)

    def _error(self, start_response: StartResponse, status: int) -> Iterable[bytes]:
        page = f"<!DOCTYPE html><html lang=en><title>Error {status} ({REASONS[status]})!!1</title></html>\n"
        headers = [("Content-Type", "text/html; charset=UTF-8"), ("Server", "Metadata Server for VM")]
        if status != 403:
            headers.append(("Metadata-Flavor", "Google"))
        return self._say(start_response, status, page, headers)


class MetadataServers:
    """Servers of many machines, a port each. May be used from any thread."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[_Metadata, ExitStack]] = {}
        self._lock = threading.Lock()

    def start(self, ref: str, app: _Metadata) -> str:
        """Serve a machine's metadata; returns the base URL, without a slash at the end."""
        stack = ExitStack()
        url = stack.enter_context(served(app))
        with self._lock:
            self._running[ref] = (app, stack)
        return url

    def stop(self, ref: str) -> None:
        """End a machine's server; nothing happens when there is none."""
        with self._lock:
            app, stack = self._running.pop(ref, (None, ExitStack()))
        if app is not None:
            app.close()
        stack.close()

    def close(self) -> None:
        """End all."""
        for ref in list(self._running):
            self.stop(ref)


def _aws_time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _tree(below: dict[str, str]) -> dict[str, Any]:
    """Values as `recursive=true` gives them: nested, names in camel case."""
    tree: dict[str, Any] = {}
    for path, value in below.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(_camel(folder), {})
        lists, numbers = name in ("scopes", "aliases"), name in ("id", "numeric-project-id")
        place[_camel(name)] = value.split() if lists else int(value) if numbers else value
    return tree


def _camel(name: str) -> str:
    first, *others = name.split("-")
    return first + "".join(word.capitalize() for word in others)
