"""The vendor's own SDK does what our adapter does, and both say the same: `python vastai_sdk.py URL KEY`.

It searches, creates, shows, labels and destroys at the (fake) vendor at URL, through a recorder of its own;
what it sent is compared field by field with what our adapter sent for the same intent. That is read from
stdin: an object of requests, each {"method", "path", "query", "body"}, under the names search, search_bids,
create, bid, list, destroy and user.

Prints one JSON object: the names of the checks, those that failed, and the differences that are known and
meant, each with its reason. It needs vastai, and nothing of this project.
"""

import json
import re
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any

# The same wish, in the words of the vendor's command line and as keys of our config.
QUERY = (
    "gpu_name in [RTX_4090] num_gpus in [1] gpu_ram>=20 cpu_ram>=16 cpu_cores_effective>=4 inet_down>=200 "
    "inet_up>=200 reliability>=0.95 duration>=2 cuda_max_good>=12.1 geolocation in [US] dph_total<=2 "
    "disk_space>=32 rented=false"
)
CONFIG: dict[str, Any] = {
    "gpu_names": ["RTX_4090"],
    "num_gpus": [1],
    "min_vram_gb": 20,
    "min_memory_gb": 16,
    "min_vcpus": 4,
    "min_inet_mbps": 200,
    "min_reliability": 0.95,
    "min_days": 2,
    "cuda_min": 12.1,
    "countries": ["US"],
    "max_price": 2,
    "disk_gb": 32,
    "offers_max": 50,
    "image": "vastai/base-image:@vastai-automatic-tag",
    "env": {"HF_HOME": "/data"},
}
REGISTRY = ("bob", "registry-password", "ghcr.io")
# Ours alone, and meant.
OURS = {
    "target_state": "the vendor's document has it: the state to begin with, said so that no default matters"
}
Sent = dict[str, Any]


class Recorder(BaseHTTPRequestHandler):
    """Passes requests on, and takes them down."""

    upstream = ""
    sent: list[Sent]

    def do(self) -> None:
        """Pass one on."""
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        url = urllib.parse.urlsplit(self.path)
        self.sent.append(
            {
                "method": self.command,
                "path": url.path,
                "query": dict(urllib.parse.parse_qsl(url.query)),
                "body": json.loads(body) if body else None,
            }
        )
        request = urllib.request.Request(self.upstream + self.path, body or None, method=self.command)
        for name in ("Authorization", "Content-Type"):
            if self.headers.get(name):
                request.add_header(name, self.headers[name])
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self._tell(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as error:
            with error:
                self._tell(error.code, error.headers["Content-Type"], error.read())

    def _tell(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    do_GET = do_PUT = do_POST = do_DELETE = do


class Judge:
    """What was looked at, and what it came to."""

    def __init__(self) -> None:
        self.checks: list[str] = []
        self.failed: list[str] = []
        self.differences: list[str] = []

    def holds(self, what: str, true: object) -> None:
        """One check."""
        self.checks.append(what)
        if not true:
            self.failed.append(what)

    def compare(self, what: str, theirs: Sent, ours: Sent) -> None:
        """Two requests for the same: method, path, and each field of query and body."""
        self.holds(f"{what}: method {theirs['method']}", theirs["method"] == ours["method"])
        paths = [re.sub(r"/\d+", "/{id}", one["path"].rstrip("/")) for one in (theirs, ours)]
        self.holds(f"{what}: path {theirs['path']}, ours {ours['path']}", paths[0] == paths[1])
        for part in ("query", "body"):
            self._fields(f"{what}: {part}", theirs[part] or {}, ours[part] or {})

    def _fields(self, what: str, theirs: Sent, ours: Sent) -> None:
        for name in sorted({*theirs, *ours}):
            if name not in ours and plain(theirs[name]) in (None, False, {}):
                self.differences.append(f"{what}.{name}: the SDK says {theirs[name]!r} for what is not given")
            elif name not in theirs and name in OURS:
                self.differences.append(f"{what}.{name}: ours is {ours[name]!r}: {OURS[name]}")
            else:
                a, b = plain(theirs.get(name)), plain(ours.get(name))
                self.holds(
                    f"{what}.{name}" if a == b else f"{what}.{name}: the SDK {a!r}, ours {b!r}", a == b
                )


def plain(value: Any) -> Any:
    """A value without what does not count: JSON within text, numbers as text."""
    if isinstance(value, str):
        try:
            return plain(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def judge(url: str, key: str, ours: dict[str, Sent]) -> Judge:
    """Let the SDK do all of it, and compare."""
    vastai: Any = import_module("vastai")
    verdict = Judge()
    sent: list[Sent] = []
    handler = type("Here", (Recorder,), {"upstream": url, "sent": sent})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sdk = vastai.VastAI(
            api_key=key, server_url=f"http://127.0.0.1:{server.server_port}", retry=1, quiet=True
        )
        walk(sdk, sent, ours, verdict)
        server.shutdown()
    return verdict


def walk(sdk: Any, sent: list[Sent], ours: dict[str, Sent], verdict: Judge) -> None:
    """The life of two machines, by the SDK."""
    wish = {"order": "dph_total", "limit": CONFIG["offers_max"], "storage": CONFIG["disk_gb"]}
    found = sdk.search_offers(query=QUERY, type="on-demand", **wish)
    verdict.compare("search", sent[-1], ours["search"])
    sdk.search_offers(query=QUERY, type="bid", **wish)
    verdict.compare("search for bids", sent[-1], ours["search_bids"])
    verdict.holds(
        "search: the SDK reads offers", found and all(one["gpu_name"] == "RTX 4090" for one in found)
    )

    made: list[int] = []
    for what, price in (("create", None), ("bid", ours["bid"]["body"]["price"])):
        body = ours[what]["body"]
        answer = sdk.create_instance(
            id=found[len(made)]["id"],
            image=CONFIG["image"],
            disk=CONFIG["disk_gb"],
            env=CONFIG["env"] | {"EVERPOOL_MARKS": body["env"]["EVERPOOL_MARKS"]},
            price=price,
            label=body["label"],
            onstart_cmd=body["onstart"],
            login="-u {} -p {} {}".format(*REGISTRY),
            ssh=True,
            direct=True,
            cancel_unavail=True,
        )
        verdict.holds(f"{what}: the SDK reads the new contract", answer.get("success") is True)
        made.append(answer["new_contract"])
        verdict.compare(what, sent[-1], ours[what])
    sdk.show_instances()
    verdict.compare("list", sent[-1], ours["list"])
    shown = {row["id"]: row for row in sdk.show_instances()}
    one = shown.get(made[0], {})
    verdict.holds("show: the SDK sees both machines", set(made) <= set(shown))
    verdict.holds("show: its label", one.get("label") == ours["create"]["body"]["label"])
    verdict.holds("show: its environment", one.get("extra_env") == ours["create"]["body"]["env"])
    verdict.holds("show: by id", sdk.show_instance(made[0])["id"] == made[0])
    verdict.holds("show: a bid is a bid", shown.get(made[1], {}).get("is_bid") is True)
    verdict.holds("show: a way in", "ssh://root@" in str(sdk.ssh_url(made[0])))
    verdict.holds("label", sdk.label_instance(made[0], "another").get("success") is True)
    verdict.holds("label: as it was set", sdk.show_instance(made[0])["label"] == "another")
    for contract in made:
        verdict.holds(f"destroy {contract}", sdk.destroy_instance(contract).get("success") is True)
    verdict.compare("destroy", sent[-1], ours["destroy"])
    verdict.holds("destroy: all are gone", not set(made) & {row["id"] for row in sdk.show_instances()})
    verdict.holds("user: the SDK reads it", sdk.show_user().get("id"))
    verdict.compare("user", sent[-1], ours["user"])


def main(url: str, key: str) -> int:
    """Judge; 0 when nothing failed."""
    verdict = judge(url, key, json.load(sys.stdin))
    said = {"checks": verdict.checks, "failed": verdict.failed, "differences": verdict.differences}
    sys.stdout.write(json.dumps(said) + "\n")
    return 1 if verdict.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
