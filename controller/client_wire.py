"""What both clients share: where the daemon is, what comes back, and how streams are taken apart."""

import base64
import os
import secrets
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx2 as httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import from_json

from actors.events import Request
from actors.spec import FilePut
from controller.client_reach import is_untrusted, not_reached, not_there
from controller.client_views import TaskView

Json = dict[str, Any]
Params = Mapping[str, str | int | float | bool | None]
Address = str | os.PathLike[str]
Stream = Literal["stdout", "stderr"]

LONG_POLL_S = 50.0
READ_TIMEOUT_S = 60.0  # of streams: the daemon says something every 15 s
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0
LATER = (429, 503)  # a follower tries these again
STREAM_TIMEOUT = httpx.Timeout(READ_TIMEOUT_S, connect=10.0)
HEADERS = {"Content-Type": "application/json"}
CURSOR = "X-Everpool-Cursor"


class EverpoolError(Exception):
    """The daemon refused something.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        message: one line.
        detail: more lines.
        retry_after_s: when it may work.
    """

    def __init__(
        self, status: int, message: str, detail: Sequence[str] = (), retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.detail = tuple(detail)
        self.retry_after_s = retry_after_s


class NotRunning(EverpoolError):
    """No daemon answers."""


class EventsPruned(EverpoolError):
    """Events behind the cursor of a follower are forgotten; or the cursor is ahead of the daemon's journal.

    Attributes:
        cursor: after this seq nothing is missing.
    """

    cursor: int = 0


class TimedOut(EverpoolError):
    """What was waited for did not come in time; the work goes on."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")  # a newer daemon may say more


class Submitted(_Answer):
    """What became of one Request. `error` says why it was not taken."""

    request_id: str
    status: Literal["accepted", "duplicate", "conflict", "refused", "invalid"]
    seq: int | None = None
    ended_by: int | None = None
    code: int = 202
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the Request is durable."""
        return self.status in ("accepted", "duplicate")


class Entry(_Answer):
    """One line of an operation's log."""

    seq: int
    at: float
    kind: str
    level: str
    message: str


class Operation(_Answer):
    """Everything that followed from one Request."""

    request_id: str
    kind: str
    pool: str
    status: Literal["pending", "running", "success", "failed"]
    ended_by: int | None = None
    error: str | None = None
    end: Json | None = None  # the terminal Fact
    log: tuple[Entry, ...] = ()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("success", "failed")


class LogLine(_Answer):
    """One line of output."""

    attempt: int
    stream: str
    n: int
    at: float
    text: str
    overwrite: bool = False
    cut: bool = False
    dropped: int = 0
    lost_bytes: int = 0
    lost_lines: int = 0
    cursor: str | None = None


class TaskPage(NamedTuple):
    """Some tasks, newest first. `cursor` goes on after them; None: there are no more."""

    tasks: list[TaskView]
    cursor: int | None = None


SUBMITTED: TypeAdapter[list[Submitted]] = TypeAdapter(list[Submitted])


@dataclass(frozen=True, slots=True)
class Target:
    """Where a daemon listens: a unix socket's path, or a URL with a token."""

    path: str | None
    url: str
    token: str | None = None

    @classmethod
    def parse(cls, address: str | os.PathLike[str] | None, token: str | None) -> "Target":
        """From a path or a URL; None: see `default_address`."""
        text = os.fspath(address) if address is not None else default_address()
        if text.startswith(("http://", "https://")):
            return cls(None, text, token if token is not None else _token_of_environment())
        return cls(text.removeprefix("unix:"), "http://everpool", None)

    @property
    def headers(self) -> dict[str, str]:
        """Sent with each request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def probe(self) -> None:
        """Raise NotRunning when nobody listens on the unix socket.

        The sync transport leaves a socket open behind when it can't connect.
        """
        if self.path is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(10)
            try:
                probe.connect(self.path)
            except OSError as error:
                raise self.failed(httpx.ConnectError(str(error))) from error

    def failed(self, error: httpx.TransportError, repeatable: bool = True) -> EverpoolError:
        """What a failed connection means for a user, who may have asked for what must not be done twice."""
        where = self.path or self.url
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            if self.path is None:
                kind = EverpoolError if is_untrusted(str(error)) else NotRunning
                return kind(0, not_reached(self.url, str(error)))
            return NotRunning(0, not_there(self.path))
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(0, f"the daemon on {where} did not answer in time")
        unsure = "" if repeatable else "; it may be done: look before you ask for it again"
        if (
            self.path is None
            and self.url.startswith("http://")
            and "without sending a response" in str(error)
        ):
            unsure = f"; if it has TLS, its address is https://{self.url.removeprefix('http://')}{unsure}"
        return EverpoolError(0, f"the connection to {where} broke: {str(error).rstrip('.')}{unsure}")


def default_address() -> str:
    """Where a daemon is looked for.

    $EVERPOOL_ADDRESS, $EVERPOOL_URL or $EVERPOOL_SOCKET, as the command reads them; else the first socket
    that is there: of this user's daemon, of the service, of root's.
    """
    for variable in ("EVERPOOL_ADDRESS", "EVERPOOL_URL", "EVERPOOL_SOCKET"):
        if given := os.environ.get(variable):
            return given
    own = Path("~/.local/state/everpool/api.sock").expanduser()
    places = [own, Path("/run/everpool/api.sock"), Path("/var/lib/everpool/api.sock")]
    if os.geteuid() == 0:
        places = [*places[1:], own]
    usual = places[1] if os.geteuid() == 0 else own
    return str(next((place for place in places if place.exists()), usual))


def _token_of_environment() -> str | None:
    """$EVERPOOL_TOKEN, or what is in the file that $EVERPOOL_TOKEN_FILE names. Raises EverpoolError."""
    named = os.environ.get("EVERPOOL_TOKEN_FILE")
    token = os.environ.get("EVERPOOL_TOKEN")
    if token or not named:
        return token
    try:
        return Path(named).read_text().strip()
    except OSError as error:
        raise EverpoolError(0, f"{named} can't be read: {error.strerror}") from error


def trusted(ca_file: Address | None, url: str) -> ssl.SSLContext | bool:
    """What vouches for a daemon: a file of certificates (PEM), or the system's.

    $EVERPOOL_CA_FILE may name the file as well. Raises OSError, SSLError.
    """
    if not url.startswith("https://"):
        return False  # there is nothing to vouch for, and reading the system's certificates takes long
    place = os.fspath(ca_file) if ca_file is not None else os.environ.get("EVERPOOL_CA_FILE")
    return ssl.create_default_context(cafile=place or None)


def with_id(request: Request) -> Request:
    """The same Request with an id, so that sending it again is harmless."""
    if request.request_id:
        return request
    named: Request = request.model_copy(update={"request_id": f"r-{secrets.token_hex(8)}"})
    return named


def body_of(requests: Sequence[Request]) -> bytes:
    """A list of Requests as JSON."""
    return b"[" + b",".join(one.model_dump_json().encode() for one in requests) + b"]"


def file_put(path: str, content: bytes | Path, *, mode: int = 0o644) -> FilePut:
    """A file that is to be there before a task starts, from bytes or from a file of ours."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    return FilePut(path=path, data=base64.b64encode(data).decode(), mode=mode)


def clean(params: Params) -> dict[str, str]:
    """Query parameters without those that are None."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in params.items()
        if value is not None
    }


def problem(status: int, body: bytes, headers: httpx.Headers) -> EverpoolError:
    """The error in an answer."""
    try:
        told = from_json(body)
    except ValueError:
        told = {}
    told = told if isinstance(told, dict) else {}
    text = told.get("error") or body.decode("utf-8", "replace")[:200] or f"HTTP status {status}"
    after, cursor = headers.get("Retry-After", ""), headers.get(CURSOR, "")
    kind = EventsPruned if status == 410 and cursor.isdecimal() else EverpoolError
    error = kind(status, str(text), told.get("detail", ()), float(after) if after.isdecimal() else None)
    if isinstance(error, EventsPruned):
        error.cursor = int(cursor)
    return error


def checked(response: httpx.Response, fine: Sequence[int] = ()) -> bytes:
    """The body of an answer that is no error, or one that is `fine`; read it first."""
    if response.status_code >= 400 and response.status_code not in fine:
        raise problem(response.status_code, response.content, response.headers)
    return response.content


def may_wait(error: EverpoolError, connected: bool) -> bool:
    """Whether a follower should try again: always once it was connected, unless it asks for what is not."""
    return connected and (error.status == 0 or error.status in LATER)


class Patience:
    """Pauses between tries: longer and longer, until something came."""

    def __init__(self) -> None:
        self.pause_s = RETRY_FIRST_S
        self.connected = False

    def next(self) -> float:
        """Seconds to wait now."""
        pause, self.pause_s = self.pause_s, min(2 * self.pause_s, RETRY_MOST_S)
        return pause

    def came(self) -> None:
        """Something came."""
        self.pause_s, self.connected = RETRY_FIRST_S, True
