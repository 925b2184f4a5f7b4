"""A fake of Compute Engine, with token server, permissions and price list, from Google's discovery documents.

Every request and every answer is checked against the documents; what breaks them is in `controls.violations`.
"""

import email.utils
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import google.auth.jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from providers.gcp import names
from tests.fakes.controls import Controls, Environ, Faulty, StartResponse, WSGIApp
from tests.fakes.gcp.discovery import Document, Method, document, parameter_wrong
from tests.fakes.gcp.filters import BadFilter, parsed
from tests.fakes.gcp.partial import BadFields, selected, selector
from tests.fakes.gcp.routes import Routes
from tests.fakes.gcp.skus import SKUS
from tests.fakes.gcp.world import Machine, Refused, World
from tests.fakes.guests import Guests
from tests.fakes.metadata import MetadataServers
from tests.fakes.serving import served

PROJECT = "fake-project"
ACCOUNT = f"fake@{PROJECT}.iam.gserviceaccount.com"
AUDIENCE = "https://oauth2.googleapis.com/token"
PHRASES = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict",
    503: "Service Unavailable",
}  # fmt: skip
PAGE_MAX = 500


class FakeGcp:
    """One project of a fake Compute Engine, as a WSGI application.

    Args:
        guests: what runs behind machines; None: nothing does.
        metadata: the machines' metadata servers; None: there are none.
        ssh_port: where guests answer, each at an address of its own.
        now: the vendor's clock.

    Attributes:
        token_lives_s: of tokens that are given from now on.
        denied: permissions that the account does not have.
        bodies: of all inserts, of whatever, as (method, body).
        asked: of each call of the API: method, path, query.
    """

    def __init__(
        self,
        *,
        guests: Guests | None = None,
        metadata: MetadataServers | None = None,
        ssh_port: int = 22,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.controls = Controls()
        self.world = World(
            PROJECT, self.controls, guests=guests, metadata=metadata, ssh_port=ssh_port, now=now
        )
        self.token_lives_s = 3600.0
        self.key_refused = False
        self.denied: set[str] = set()
        self.bodies: list[tuple[str, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.page_max = PAGE_MAX
        self.filters_times = True  # whether a filter may ask for times
        self.project_api = True  # whether the API of Resource Manager is enabled
        self._documents = {
            name: document(name) for name in ("compute.v1", "cloudresourcemanager.v1", "cloudbilling.v1")
        }
        self._tokens: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._routes = Routes(self.world)
        self._private = _private_key()
        self._timers: list[threading.Timer] = []
        self._app = Faulty(
            self._answer, self.controls, name=self._name, refused=self._refused, broken=self._broken
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._app(environ, start_response)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve it; gives its URL. Leaving ends what runs behind its machines."""
        try:
            with served(self) as url:
                yield url
        finally:
            for timer in self._timers:
                timer.cancel()
            with self.world.lock:
                for machine in list(self.world.machines.values()):
                    self.world.remove(machine)

    # --- for tests --------------------------------------------------------------------------------

    def key_file(self) -> str:
        """The key of the project's service account (JSON)."""
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "f00",
                "private_key": pem.decode(),
                "client_email": ACCOUNT,
                "client_id": "1",
                "token_uri": AUDIENCE,
            }
        )

    def token(self) -> str:
        """A token that is good for a while."""
        token = f"ya29.fake-{next(self._numbers)}-{uuid.uuid4().hex}"
        self._tokens[token] = self.world.now() + self.token_lives_s
        return token

    def revoke(self) -> None:
        """No token that was given is good any more."""
        self._tokens.clear()

    def alive(self) -> list[str]:
        """The machines that there are, also stopped ones."""
        with self.world.lock:
            self.world.settle()
            return sorted(machine.name for machine in self.world.machines.values())

    def resources(self) -> list[str]:
        """Everything that is billed, or stays."""
        machines = self.alive()
        with self.world.lock:
            disks = [f"disk {name}" for _, name in self.world.disks]
            return sorted([*machines, *disks, *(f"firewall {name}" for name in self.world.firewalls)])

    def preempt(self, ref: str, within_s: float | None) -> None:
        """Take a machine: word in its metadata, an operation of the project, and after `within_s` it is gone.

        Args:
            ref: its name.
            within_s: None: when `end` says so.
        """
        with self.world.lock:
            self.world.settle()
            machine = self._machine(ref)
            if machine.metadata is not None:
                machine.metadata.notice(within_s)
            ends_at = float("inf") if within_s is None else self.world.now() + within_s
            if not self.controls.lose_push:
                target = f"zones/{machine.zone}/instances/{ref}"
                operation = self.world.operation(
                    "compute.instances.preempted", target, scope=f"zones/{machine.zone}", done_at=ends_at
                )
                operation.body["statusMessage"] = "Instance was preempted."
            if ends_at > self.world.now():
                machine.body["status"] = "STOPPING"
                machine.ends_at = ends_at
            else:
                self.end(ref)
        if within_s:
            timer = threading.Timer(within_s, self.end, (ref,))
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def end(self, ref: str) -> None:
        """The end of a preemption: deleted, or stopped, as its scheduling says."""
        with self.world.lock:
            found = [one for one in self.world.machines.values() if one.name == ref]
            for machine in found:
                if machine.body["scheduling"].get("instanceTerminationAction") == "DELETE":
                    self.world.remove(machine)
                else:
                    machine.ends_at = None
                    self.world.stop(machine, "")

    def kill(self, ref: str) -> None:
        """A machine vanishes without a word: somebody deleted it."""
        with self.world.lock:
            self.world.settle()
            self.world.remove(self._machine(ref))

    def crash(self, ref: str) -> None:
        """A machine's host fails: it is stopped, and stays."""
        with self.world.lock:
            self.world.settle()
            self.world.stop(self._machine(ref), "")

    def orphan(self, owner: str, key: str = "", *, zone: str = "us-central1-a") -> str:
        """A machine with our owner's marks, made behind our back; returns its name."""
        key = key or f"{owner}/pool/0/1/{next(self._numbers)}"
        return self._planted(names.machine_name(key), owner, names.Marks(owner=owner, key=key), zone)

    def foreign(self, owner: str, *, zone: str = "us-central1-a", like: str = "") -> str:
        """Somebody else's machine, whose name and labels look like `owner`'s; returns its name."""
        name = (like or f"everpool-{names.digest(owner)}")[:-2] + "zz"
        marks = names.Marks(owner=f"{owner}x", key=f"{owner}x/p/0/1/1")
        return self._planted(name, owner, marks, zone)

    def disk(self, owner: str, key: str, *, zone: str = "us-central1-a", cluster: str = "c1") -> str:
        """A disk with our owner's marks that no machine uses; returns its name."""
        ref = self.orphan(owner, key, zone=zone)
        with self.world.lock:
            machine = self._machine(ref)
            machine.body["disks"][0]["autoDelete"] = False
            marks = names.Marks(owner=owner, cluster=cluster, key=key)
            self.world.disks[zone, ref]["description"] = marks.text()
            self.world.remove(machine)
        return ref

    def _planted(self, name: str, owner: str, marks: names.Marks, zone: str) -> str:
        labels = {names.OWNER: names.label(owner), names.EPOCH: "1", names.PRICE: "1000"}
        body = {
            "name": name,
            "machineType": "e2-standard-2",
            "labels": labels,
            "scheduling": {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"},
            "description": marks.text(),
            "networkInterfaces": [{"accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}],
            "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"labels": labels}}],
        }
        with self.world.lock:
            return self.world.make(zone, body, runs_at=0.0).name

    def _machine(self, ref: str) -> Machine:
        return next(one for one in self.world.machines.values() if one.name == ref)

    # --- requests ---------------------------------------------------------------------------------

    def _found(self, environ: Environ) -> tuple[Document, Method, dict[str, str]] | None:
        for api in self._documents.values():
            if (found := api.find(environ["REQUEST_METHOD"], environ["PATH_INFO"])) is not None:
                return api, *found
        return None

    def _name(self, environ: Environ) -> str:
        if environ["PATH_INFO"] == "/token":
            return "token"
        found = self._found(environ)
        return found[1].name if found else "?"

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        raw = environ["wsgi.input"].read(length) if length else b""
        if len(raw) < length:  # whoever asked went away meanwhile
            return self._error(start_response, Refused(400, "parseError", "the body is cut"))
        if environ["PATH_INFO"] == "/token":
            return self._mint(raw, start_response)
        found = self._found(environ)
        if found is None:
            self.controls.violated(f"no such method: {environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
            return self._error(start_response, Refused(404, "notFound", "no such method"))
        api, method, parameters = found
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        with self.world.lock:
            self.asked.append((method.name, environ["PATH_INFO"], query))
        try:
            body = self._checked(api, method, parameters, query, environ, raw)
            mask = selector(query["fields"]) if "fields" in query else {}
            made = self._performed(method, parameters, query, body)
        except BadFields as error:
            self.controls.violated(f"{method.name}: fields {error}")
            return self._error(start_response, Refused(400, "invalidParameter", f"Invalid fields {error}"))
        except Refused as refused:
            return self._error(start_response, refused)
        except BadFilter as error:
            self.controls.violated(f"{method.name}: filter {error}")
            return self._error(start_response, Refused(400, "invalid", f"Invalid value for filter: {error}"))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # The document allows it, and the vendor demands more: a name, a token that it gave, …
            self.controls.violated(f"{method.name}: {error!r}")
            return self._error(start_response, Refused(400, "required", repr(error)))
        for wrong in api.wrong(method.response, made, sending=False):
            self.controls.violated(f"own answer of {method.name}: {wrong}")
        return self._say(start_response, 200, selected(made, mask))

    def _checked(
        self,
        api: Document,
        method: Method,
        parameters: Mapping[str, str],
        query: Mapping[str, str],
        environ: Environ,
        raw: bytes,
    ) -> Any:
        """The body, when the request is as the document has it and its token is good."""
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme != "Bearer" or self._tokens.get(token, 0.0) <= self.world.now():
            raise Refused(401, "authError", "Request had invalid authentication credentials.")
        wrong = list[str]()
        if api.api_version:
            version = environ.get("HTTP_X_GOOG_API_VERSION", "")
            if not version or version > api.api_version:
                wrong.append(f"X-Goog-Api-Version is {version!r}")
        for name, value in parameters.items():
            wrong.append(parameter_wrong(name, method.parameters[name], value) or "")
        for name, value in query.items():
            if name not in method.query:
                wrong.append(f"no query parameter {name}")
            else:
                wrong.append(parameter_wrong(name, method.query[name], value) or "")
        body = json.loads(raw) if raw else None
        if method.request:
            wrong += api.wrong(method.request, body, sending=True)
        elif body is not None:
            wrong.append("a body where there is none")
        wrong = [one for one in wrong if one]
        if wrong:
            for one in wrong:
                self.controls.violated(f"{method.name}: {one}")
            raise Refused(400, "invalid", "; ".join(wrong))
        return body

    def _performed(
        self, method: Method, parameters: Mapping[str, str], query: Mapping[str, str], body: Any
    ) -> Any:
        if method.name == "projects.testIamPermissions":
            if not self.project_api:
                raise Refused(403, "accessNotConfigured", "Cloud Resource Manager API has not been used")
            return {"permissions": [one for one in body["permissions"] if one not in self.denied]}
        if method.name == "services.skus.list":
            return self._skus(query)
        if parameters.get("project") != PROJECT and method.name not in ("images.getFromFamily", "images.get"):
            raise Refused(404, "notFound", f"The resource 'projects/{parameters['project']}' was not found")
        what, _, verb = method.name.partition(".")
        verb = {"insert": "create", "bulkInsert": "create", "aggregatedList": "list"}.get(verb, verb)
        launching = method.name in ("instances.insert", "instances.bulkInsert")
        uses = "compute.images.useReadOnly" if launching else ""
        if (needed := f"compute.{what}.{verb}") in self.denied or (needed := uses) in self.denied:
            message = f"Required '{needed}' permission for 'projects/{PROJECT}'"
            raise Refused(403, "forbidden", message)
        if method.name in ("instances.insert", "instances.bulkInsert", "firewalls.insert"):
            with self.world.lock:
                self.bodies.append((method.name, body))
        if method.name.endswith("perations.wait"):
            self._wait(parameters["operation"])
        with self.world.lock:
            self.world.settle()
            if "requestId" in query:
                return _copied(self._once(method, parameters, query, body))
            if not self.filters_times and ">" in query.get("filter", ""):
                raise Refused(400, "invalid", "Invalid value for field 'filter'")
            selects = parsed(query["filter"]) if "filter" in query else lambda one: True
            size = min(int(query.get("maxResults", self.page_max)), self.page_max)
            made = self._routes.answer(method.name, parameters, query, body, selects, size)
            return _copied(made)

    def _once(
        self, method: Method, parameters: Mapping[str, str], query: Mapping[str, str], body: Any
    ) -> Any:
        """Do what is asked unless this request id was heard before."""
        number = query["requestId"]
        try:
            is_valid = uuid.UUID(number).int != 0
        except ValueError:
            is_valid = False
        if not is_valid:
            self.controls.violated(f"{method.name}: requestId {number!r}")
            raise Refused(400, "invalid", "Invalid value for field 'requestId'")
        what = json.dumps([method.name, dict(parameters), body], sort_keys=True)
        known = self.world.requests.get(number)
        if known is not None:
            if known[0] != what:
                raise Refused(400, "invalid", f"requestId {number} was used with another request")
            return known[1].body
        operation = self._routes.change(method.name, parameters, body)
        self.world.requests[number] = (what, operation)
        return operation.body

    def _wait(self, name: str) -> None:
        """As the vendor: until it is over, but two minutes at most (here: two seconds)."""
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            with self.world.lock:
                self.world.settle()
                operation = self.world.operations.get(name)
                if operation is None or operation.body["status"] == "DONE":
                    return
            time.sleep(0.005)

    def _skus(self, query: Mapping[str, str]) -> Any:
        start, size = int(query.get("pageToken") or 0), 7
        token = str(start + size) if start + size < len(SKUS) else ""
        return {"skus": list(SKUS[start : start + size]), "nextPageToken": token}

    # --- answers ----------------------------------------------------------------------------------

    def _mint(self, raw: bytes, start_response: StartResponse) -> Iterable[bytes]:
        """The token server: a signed assertion for a token."""
        asked = dict(parse_qsl(raw.decode()))
        public = self._private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            if asked.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
                raise ValueError("grant_type")
            decode: Any = google.auth.jwt.decode  # without types
            claims = decode(asked["assertion"], certs=public, audience=AUDIENCE)
            if claims["iss"] != ACCOUNT or "cloud-platform" not in claims["scope"]:
                raise ValueError("issuer or scope")
        except (ValueError, KeyError) as error:
            self.controls.violated(f"token: {error}")
            self.key_refused = True
        if self.key_refused:
            said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            return self._say(start_response, 400, said)
        lives_s = int(self.token_lives_s)
        given: dict[str, object] = {
            "access_token": self.token(),
            "expires_in": lives_s,
            "token_type": "Bearer",
        }
        return self._say(start_response, 200, given)

    def _refused(self, call: str) -> WSGIApp:
        if call == "token":
            return lambda _, start: self._say(start, 429, {"error": "rate_limit_exceeded"})
        message = "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'"
        return lambda _, start: self._error(start, Refused(403, "rateLimitExceeded", message))

    def _broken(self, call: str) -> WSGIApp:
        return lambda _, start: self._error(start, Refused(503, "backendError", "Backend Error"))

    def _error(self, start_response: StartResponse, refused: Refused) -> Iterable[bytes]:
        one = {"message": refused.message, "domain": "global", "reason": refused.reason}
        body = {"error": {"code": refused.status, "message": refused.message, "errors": [one]}}
        return self._say(start_response, refused.status, body)

    def _say(self, start_response: StartResponse, status: int, body: Any) -> Iterable[bytes]:
        data = json.dumps(body).encode()
        start_response(
            f"{status} {PHRASES.get(status, 'Error')}",
            [
                ("Content-Type", "application/json; charset=UTF-8"),
                ("Content-Length", str(len(data))),
                ("Date", email.utils.formatdate(self.world.now(), usegmt=True)),
            ],
        )
        return [data]


@cache
def _private_key() -> rsa.RSAPrivateKey:
    """Of all fakes of a process: to make one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _copied(made: Any) -> Any:
    """As it is now: others go on changing it."""
    return json.loads(json.dumps(made))
