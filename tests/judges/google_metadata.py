"""google-auth's own metadata client asks a metadata server: `python google_metadata.py URL`.

Prints one JSON object: the names of the checks, and what each that failed had to say. It needs google-auth
and requests, and nothing of this project. The values it expects are those of `GceMetadata` by default.
"""

import json
import os
import sys
import urllib.parse
from collections.abc import Callable
from typing import Any

Check = Callable[[], object]


def main(url: str) -> int:
    """Run all checks against the server at `url`; 0 when none failed."""
    host = urllib.parse.urlsplit(url).netloc
    # google-auth reads them when it is imported
    os.environ.update(GCE_METADATA_HOST=host, GCE_METADATA_IP=host, GCE_METADATA_MTLS_MODE="none")
    from google.auth import compute_engine, exceptions
    from google.auth.compute_engine import _metadata
    from google.auth.transport import requests

    client: Any = _metadata  # google-auth has no types
    request = requests.Request()
    make: Any = compute_engine.Credentials
    credentials = make()

    def get(path: str, **more: object) -> Any:
        return client.get(request, path, retry_count=1, **more)

    def refused(path: str, **more: object) -> bool:
        try:
            get(path, **more)
        except exceptions.TransportError:
            return True
        return False

    def refreshed() -> bool:
        credentials.refresh(request)
        return bool(credentials.valid) and credentials.token == "fake-token"

    account = client.get_service_account_info(request)
    waiting = {"wait_for_change": "true", "timeout_sec": "1"}
    checks: dict[str, Check] = {
        "ping": lambda: client.ping(request, timeout=5, retry_count=1),
        "is_on_gce": lambda: client.is_on_gce(request),
        "project id": lambda: client.get_project_id(request) == "fake-project",
        "universe": lambda: client.get_universe_domain(request) == "googleapis.com",
        "account, aggregated": lambda: account["aliases"] == ["default"] and "@" in account["email"],
        "account, scopes": lambda: account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"],
        "token": lambda: client.get_service_account_token(request)[0] == "fake-token",
        "credentials": refreshed,
        "zone": lambda: get("instance/zone").startswith("projects/123456789012/zones/"),
        "preempted": lambda: get("instance/preempted") == "FALSE",
        "maintenance event": lambda: get("instance/maintenance-event") == "NONE",
        "waiting for a change": lambda: get("instance/preempted", params=waiting) == "FALSE",
        "instance, aggregated": lambda: isinstance(get("instance/", recursive=True)["id"], int),
        "listing": lambda: "preempted\n" in get("instance/"),
        "folder without a slash": lambda: "preempted\n" in get("instance"),
        "unknown key": lambda: refused("instance/nothing-such"),
        "none for an unknown key": lambda: (
            get("instance/nothing-such", return_none_for_not_found_error=True) is None
        ),
        "no flavor": lambda: refused("instance/id", headers={"metadata-flavor": "Nobody"}),
    }
    failed = []
    for name, check in checks.items():
        try:
            if not check():
                failed.append(name)
        except (exceptions.GoogleAuthError, KeyError, TypeError, ValueError) as error:
            failed.append(f"{name}: {error!r}")
    sys.stdout.write(json.dumps({"checks": list(checks), "failed": failed}) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
