"""A fake vendor on a real port of loopback, in threads of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.serving import WSGIRequestHandler, make_server

from tests.fakes.controls import WSGIApp


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as a vendor keeps them

    def send_header(self, keyword: str, value: str) -> None:
        """As usual, but a fake that has a clock of its own says the date instead of the server."""
        if keyword.lower() == "date":
            held: list[bytes] = self.__dict__.get("_headers_buffer", [])
            held[:] = [line for line in held if not line.lower().startswith(b"date:")]
        super().send_header(keyword, value)

    def log(self, type: str, message: str, *args: object) -> None:
        """Say nothing: connections are cut here on purpose."""


@contextmanager
def served(app: WSGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve a WSGI application; gives its URL, without a slash at the end."""
    server = make_server(host, port, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
