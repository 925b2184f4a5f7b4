"""What both clients share: where the daemon is, what comes back, and how streams are taken apart."""

import base64
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import httpx2 as httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import from_json

from actors.events import Request
from actors.spec import FilePut
from controller.client_reach import is_untrusted, not_reached, not_there, wrong_url
from controller.client_views import TaskView

Json = dict[str, Any]
Params = Mapping[str, str | int | float | bool | None]
Address = str | os.PathLike[str]
Stream = Literal["stdout", "stderr"]
T = TypeVar("T")

LONG_POLL_S = 50.0
READ_TIMEOUT_S = 60.0  # of streams: the daemon says something every 15 s
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0
LATER = (
    429,
    502,
    503,
    504,
)  # a follower tries these again; a proxy says some of them
STREAM_TIMEOUT = httpx.Timeout(READ_TIMEOUT_S, connect=10.0)
HEADERS = {"Content-Type": "application/json"}
CURSOR = "X-Everpool-Cursor"
_STRANGE = "what answers at {where} is not everpool, or a release whose answers this one can't read"


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
    """Everything that followed from one Request. With `more`, the log goes on after `cursor`."""

    request_id: str
    kind: str
    pool: str
    status: Literal["pending", "running", "success", "failed"]
    seq: int
    at: float
    ended_by: int | None = None
    ended_at: float | None = None
    error: str | None = None
    end: Json | None = None  # the terminal Fact
    log: tuple[Entry, ...] = ()
    cursor: int = 0
    more: bool = False

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
        """From a path or a URL; None: see `default_address`. Raises EverpoolError."""
        text = os.fspath(address) if address is not None else default_address()
        if "://" in text and not text.startswith(("unix:", "/", ".")):
            if problem := wrong_url(text):
                raise EverpoolError(0, problem)
            try:
                httpx.URL(text)
            except httpx.InvalidURL as error:
                raise EverpoolError(0, f"{text!r} is no URL: {error}") from error
            return cls(None, text, _sound(token if token is not None else _token_of_environment()))
        if "\0" in text:
            raise EverpoolError(0, f"{text!r} can't be a path: it has a zero byte")
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

    def read(self, decode: Callable[[bytes], T], response: httpx.Response, fine: Sequence[int] = ()) -> T:
        """What an answer says. Raises EverpoolError, also when it is nothing that the daemon would say."""
        return self.made(partial(decode, checked(response, fine)), response.status_code)

    def made(self, make: Callable[[], T], status: int = 200) -> T:
        """What is made of an answer that the daemon has to have given. Raises EverpoolError."""
        try:
            return make()
        except (ValueError, TypeError, KeyError) as error:
            raise EverpoolError(status, _STRANGE.format(where=self.path or self.url)) from error

    def failed(self, error: httpx.RequestError, repeatable: bool = True) -> EverpoolError:
        """What a failed connection means for a user, who may have asked for what must not be done twice."""
        where = self.path or self.url
        if isinstance(error, httpx.DecodingError):
            return EverpoolError(502, _STRANGE.format(where=where))
        if isinstance(error, httpx.LocalProtocolError):  # its text has what we sent, tokens too
            return EverpoolError(0, f"what was asked of {where} can't be sent: a header of it is ill-formed")
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
    except UnicodeDecodeError as error:
        raise EverpoolError(0, f"{named} is no token file: it is not text") from error


def _sound(token: str | None) -> str | None:
    """A token without spaces around it. Raises EverpoolError when it can be none; it is not quoted."""
    if token is None:
        return None
    token = token.strip()
    if not all("!" <= char <= "~" for char in token):
        raise EverpoolError(0, "the token has characters that no token has: look at how it was copied")
    return token


def trusted(ca_file: Address | None, url: str) -> ssl.SSLContext | bool:
    """What vouches for a daemon: a file of certificates (PEM), or the system's.

    $EVERPOOL_CA_FILE may name the file as well. Raises EverpoolError.
    """
    if not url.startswith("https://"):
        return False  # there is nothing to vouch for, and reading the system's certificates takes long
    place = os.fspath(ca_file) if ca_file is not None else os.environ.get("EVERPOOL_CA_FILE")
    try:
        return ssl.create_default_context(cafile=place or None)
    except OSError as error:  # SSLError is one
        why = error.strerror or "it has no certificates (PEM)"
        raise EverpoolError(0, f"the file of certificates {place} can't be used: {why}") from error


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


def several(some: str | Sequence[str]) -> list[str]:
    """Names or patterns, of which one may be given by itself: its letters are not meant."""
    return [some] if isinstance(some, str) else list(some)


def named(name: str) -> str:
    """A name as a segment of a path. Raises EverpoolError for one that would lead elsewhere."""
    if name in ("", ".", ".."):
        raise EverpoolError(0, f"{name!r} is no name that the daemon could know")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise EverpoolError(0, f"{name!r} is no name: it has characters that can't be sent") from error


def inside(path: str) -> str:
    """A path of several segments, each as `named`, or empty. Raises EverpoolError."""
    named(path)
    return "/".join(segment and named(segment) for segment in path.split("/"))


def clean(params: Params) -> dict[str, str]:
    """Query parameters without those that are None."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in params.items()
        if value is not None
    }


def problem(status: int, body: bytes, headers: httpx.Headers) -> EverpoolError:
    """The error in an answer."""
    if 300 <= status < 400:
        place = headers.get("Location", "")[:200] or "nowhere"
        return EverpoolError(status, f"what answers is not everpool: it sends on, to {place}")
    try:
        told = from_json(body)
    except ValueError:
        told = {}
    told = told if isinstance(told, dict) else {}
    plain = " ".join(body.decode("utf-8", "replace").split())[:200]
    text = told.get("error") or plain or f"HTTP status {status}"
    detail = told.get("detail")
    lines = [str(one) for one in detail] if isinstance(detail, list) else []
    after, cursor = headers.get("Retry-After", ""), headers.get(CURSOR, "")
    kind = EventsPruned if status == 410 and cursor.isdecimal() and len(cursor) < 20 else EverpoolError
    error = kind(status, str(text), lines, float(after) if after.isdecimal() else None)
    if isinstance(error, EventsPruned):
        error.cursor = int(cursor)
    return error


def checked(response: httpx.Response, fine: Sequence[int] = ()) -> bytes:
    """The body of an answer that is no error, or one that is `fine`; read it first."""
    status = response.status_code
    if status not in fine and not is_answer(response):
        if response.is_success:
            raise EverpoolError(status, _STRANGE.format(where=response.url))
        raise problem(status, response.content, response.headers)
    return response.content


def is_answer(response: httpx.Response) -> bool:
    """Whether it can be what was asked for: the daemon has no pages for programs, and never no body."""
    page = response.headers.get("Content-Type", "").startswith("text/html")
    return response.is_success and response.status_code != 204 and not page


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
