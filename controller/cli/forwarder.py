"""A door for a browser to a daemon that only has a unix socket: a port on loopback for as long as we run.

Whoever may use the socket is admin there, so a port that just passed bytes on would make every program of
this host admin. This one adds no right: what is not the page itself has to show the token of the page's URL,
and the daemon is shown that token with all that passes, and holds it to the token's scope and pools. One
request a connection, and none with a byte that two readers may take for different things, so that nothing can
hide behind one that was looked at.
"""

import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketStream

HEAD_BYTES_MAX = 32 * 1024
BODY_BYTES_MAX = 8 * 2**20
HEAD_WITHIN_S = 10.0
CONNECTIONS_MAX = 64
PIECE_BYTES = 64 * 1024
_OPEN = re.compile(
    r"/(web/[A-Za-z0-9_./-]*|favicon\.ico)?"
)  # less than the daemon has: with a token its /healthz tells all
_FIELD = re.compile(r"([A-Za-z0-9-]+):([\t -~]*)")  # a bare line feed ends a line for some servers
_LINE = re.compile(r"(GET|HEAD|POST|DELETE|PUT) (/[!-~]*) HTTP/1\.1")

_OURS = ("authorization", "connection", "expect")  # are said anew, or not at all


class NotPassed(Exception):
    """A request that is answered here. `status` as HTTP says it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request that may pass: what goes on, and how long its body is."""

    raw: bytes
    body_bytes: int


def passed(raw: bytes, token: str, hosts: Sequence[str]) -> Head:
    """The head to pass on.

    Args:
        raw: all up to the empty line, which is not part of it.
        token: what has to be shown.
        hosts: what may be called: another name is a page of somebody else that found our port.

    Raises:
        NotPassed: it may not.
    """
    try:
        first, *lines = raw.decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise NotPassed(400, "only ASCII may stand in the head of a request") from error
    line = _LINE.fullmatch(first)
    found = [_FIELD.fullmatch(one) for one in lines]
    fields = [(one[1].lower(), one[2].strip(" \t")) for one in found if one is not None]
    names = [name for name, _ in fields]
    if line is None or len(fields) < len(lines):
        raise NotPassed(400, "that is no request that passes here")
    known = dict(fields)
    if any(names.count(name) > 1 for name in ("host", "authorization", "content-length")):
        raise NotPassed(400, "a header is there twice")
    if known.get("host") not in hosts:
        raise NotPassed(403, "another host is meant")
    if known.get("origin", f"http://{known['host']}") not in {f"http://{host}" for host in hosts}:
        raise NotPassed(403, "another page asks")
    if "transfer-encoding" in known or "upgrade" in known:
        raise NotPassed(411, "say how long the body is")
    length = known.get("content-length", "0")
    if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
        raise NotPassed(413, f"at most {BODY_BYTES_MAX} bytes")
    path = line[2].partition("?")[0]
    shows = known.get("authorization", "")
    if shows:
        if not hmac.compare_digest(shows.encode(), f"Bearer {token}".encode()):
            raise NotPassed(401, "another token is wanted: open the URL that `everpool dashboard` printed")
    elif ".." in path or not _OPEN.fullmatch(path) or line[1] not in ("GET", "HEAD"):
        raise NotPassed(401, "show the token of the page's URL")
    kept = [f"{name}: {value}" for name, value in fields if name not in _OURS]
    ours = [f"authorization: Bearer {token}", "connection: close"]
    return Head("\r\n".join([first, *kept, *ours, "", ""]).encode(), int(length))


class Forwarder:
    """Passes requests from a port on loopback to a unix socket, see above."""

    def __init__(self, socket: str, token: str, hosts: Sequence[str]) -> None:
        self._socket, self._token, self._hosts = socket, token, hosts
        self._room = anyio.Semaphore(CONNECTIONS_MAX)

    async def __call__(self, browser: SocketStream) -> None:
        """Serve one connection."""
        async with browser, self._room:
            try:
                await self._serve(browser)
            except* (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                pass  # one of both left

    async def _serve(self, browser: SocketStream) -> None:
        try:
            with anyio.fail_after(HEAD_WITHIN_S):
                raw, rest = await _head(browser)
            head = passed(raw, self._token, self._hosts)
        except NotPassed as refused:
            await browser.send(_refusal(refused.status, str(refused)))
            return
        except TimeoutError:
            return
        try:
            daemon = await anyio.connect_unix(self._socket)
        except OSError:
            await browser.send(_refusal(502, "the daemon does not answer"))
            return
        async with daemon:
            await daemon.send(head.raw)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_body, browser, daemon, rest[: head.body_bytes], head.body_bytes)
                async for piece in daemon:
                    await browser.send(piece)
                tasks.cancel_scope.cancel()


async def _head(browser: ByteReceiveStream) -> tuple[bytes, bytes]:
    found = b""
    while (end := found.find(b"\r\n\r\n")) < 0:
        if len(found) > HEAD_BYTES_MAX:
            raise NotPassed(431, f"the head is longer than {HEAD_BYTES_MAX} bytes")
        found += await browser.receive(PIECE_BYTES)
    return found[:end], found[end + 4 :]


async def _body(browser: SocketStream, daemon: ByteSendStream, first: bytes, number: int) -> None:
    """Pass the body on, then look whether the browser stays: when it leaves, so do we."""
    left = number - len(first)
    if first:
        await daemon.send(first)
    try:
        while True:
            piece = await browser.receive(PIECE_BYTES)
            if left > 0:
                await daemon.send(piece[:left])
                left -= len(piece)
    except anyio.EndOfStream:
        await daemon.aclose()


def _refusal(status: int, text: str) -> bytes:
    """As the API refuses; the page tells by the header that no token has to be made for this port."""
    body = json.dumps({"error": text}).encode()
    head = (
        f"HTTP/1.1 {status} Not passed\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + b"X-Everpool-Door: dashboard\r\nConnection: close\r\n\r\n" + body
