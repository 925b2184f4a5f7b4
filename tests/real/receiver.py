"""A receiver of webhooks in a thread of the test: it notes what comes, and fails when told to."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from actors.events import Envelope
from controller.client import verify_webhook

SECRET = "only-we-two-know-this"


@dataclass(slots=True)
class Receiver:
    """Where it is, what it took (in order, each body verified), what it refused, and what it answers now."""

    port: int = 0
    status: int = 204
    taken: list[Envelope] = field(default_factory=list)
    refused: int = 0

    @property
    def seqs(self) -> list[int]:
        """Of what it took, in order."""
        return [one.seq for one in self.taken]

    def config(self, directory: Path, name: str, *events: str) -> str:
        """TOML of a webhook that is sent here."""
        secret = directory / "webhook.secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        return (
            f'\n[webhooks.{name}]\nurl = "http://127.0.0.1:{self.port}/x"\n'
            f'secret = {{ file = "{secret}" }}\nevents = {list(events)}\ntimeout_s = 2\n'
        )


@contextmanager
def receiving() -> Iterator[Receiver]:
    """One that listens on loopback until it is left."""
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            verify_webhook(SECRET, dict(self.headers), body)
            if receiver.status < 300:
                receiver.taken.append(Envelope.model_validate_json(body))
            else:
                receiver.refused += 1
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """What came is noted above."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
