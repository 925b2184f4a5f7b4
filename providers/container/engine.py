"""The engine's API on its socket: found, its version negotiated, its answers judged."""

import os
import re
import stat
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import anyio
from pydantic_core import from_json

from providers.container.faults import Call, fault_of, message_of
from providers.errors import Fault, ProviderError
from providers.http import Answer, Http
from providers.redaction import log_unknown_answer, redacted

# What we say is the same in all of these: 1.40 is docker 19.03 (and podman 3), 1.47 docker 27.
# An engine that is newer still understands some of them, since MinAPIVersion lags years behind.
OURS_MIN, OURS_MAX = (1, 40), (1, 47)
CONNECTIONS_MAX = 32
TURN_WITHIN_S = 30.0  # how long a call waits while so many others are under way
SAID_CHARS_MAX = 500
Kind = Literal["docker", "podman"]
Version = tuple[int, int]


def candidates(engine: Literal["auto", "docker", "podman"], environment: Mapping[str, str]) -> list[Path]:
    """Where the engine's socket may be, likeliest first.

    Args:
        engine: which engine is wanted.
        environment: of this process: DOCKER_HOST and XDG_RUNTIME_DIR are looked at.
    """
    runtime = environment.get("XDG_RUNTIME_DIR")
    docker, podman = [Path("/var/run/docker.sock")], [Path("/run/podman/podman.sock")]
    if runtime:
        docker.append(Path(runtime, "docker.sock"))
        podman.append(Path(runtime, "podman", "podman.sock"))
    named = environment.get("DOCKER_HOST", "")
    first = [Path(named.removeprefix("unix://"))] if named.startswith("unix:///") else []
    return first + (docker if engine != "podman" else []) + (podman if engine != "docker" else [])


def negotiated(theirs: Version, theirs_min: Version) -> Version:
    """The version of the API to speak: the newest that both know.

    Raises:
        ProviderError: rejected; there is none.
    """
    chosen = min(theirs, OURS_MAX)
    if chosen < max(OURS_MIN, theirs_min):
        text = (
            f"the engine speaks API {_shown(theirs_min)} to {_shown(theirs)}, "
            f"everpool {_shown(OURS_MIN)} to {_shown(OURS_MAX)}: "
        )
        old = theirs < OURS_MIN
        text += "use a newer engine (docker 19.03, podman 3 or later)" if old else "use a newer everpool"
        raise ProviderError(Fault.REJECTED, text)
    return chosen


def version_of(text: object) -> Version | None:
    """A version of the API as the engine says it, such as "1.41"."""
    found = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", str(text))
    return None if found is None else (int(found[1]), int(found[2]))


def _shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


@dataclass(slots=True)
class _Client:
    """Connections to one socket."""

    http: Http
    calls: int = 0  # under way
    is_retired: bool = False  # closed when the last of them is over


class Engine:
    """One engine. Connects when it is first asked, and again after its socket was away.

    Args:
        provider: what the config calls the provider, for logs.
        wanted: which engine.
        socket: its socket; None: looked for.
        secrets: what may not be seen in errors and logs; asked when there is something to say.
    """

    def __init__(
        self,
        provider: str,
        wanted: Literal["auto", "docker", "podman"],
        socket: Path | None,
        secrets: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._provider, self._wanted, self._given = provider, wanted, socket
        self._secrets = secrets
        self._client: _Client | None = None
        # Waited for here, so that a full pool of connections is never taken for an engine that is away.
        self._turns = anyio.Semaphore(CONNECTIONS_MAX)
        self._socket: Path | None = None
        self._prefix = ""
        self._kind: Kind = "docker"
        self._about: dict[str, Any] = {}
        self._connecting = anyio.Lock()

    @property
    def kind(self) -> Kind:
        """Which engine it is, once it was asked anything."""
        return self._kind

    @property
    def about(self) -> Mapping[str, Any]:
        """What it said to GET /version, once it was asked anything."""
        return self._about

    async def target(self, path: str) -> tuple[str, str]:
        """The socket, and the path with the API's version before it. Raises ProviderError."""
        await self._connected()
        return str(self._socket), f"{self._prefix}{path}"

    async def call(
        self,
        call: Call,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object | None = None,
        allow: tuple[int, ...] = (),
        timeout_s: float = 30.0,
    ) -> Answer:
        """Ask one thing; an answer that is no success and not in `allow` is raised.

        Raises:
            ProviderError: what `fault_of` makes of the answer; not_sent or credentials when the socket can't
                be used; unknown when no answer came, or one that no rule knows.
        """
        async with self._using(f"{method} {path}", timeout_s) as http:
            answer = await http.call(
                method,
                f"{self._prefix}{path}",
                query=query,
                headers=headers,
                json=json,
                timeout_s=timeout_s,
            )
        if answer.ok or answer.status == 304 or answer.status in allow:
            return answer
        raise self.failure(call, f"{method} {path}", answer.status, answer.body)

    async def look(self, path: str) -> Answer:
        """GET something; a 404 is an answer. Raises ProviderError."""
        return await self.call("look", "GET", path, allow=(404,))

    async def make_exec(self, path: str, body: object) -> Answer:
        """POST something about an exec. Raises ProviderError."""
        return await self.call("exec", "POST", path, json=body)

    def refused(self, what: str, status: int, body: bytes) -> ProviderError:
        """What an answer about an exec that is no success means."""
        return self.failure("exec", what, status, body)

    async def lines(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> AsyncGenerator[dict[str, Any]]:
        """Ask for something that is told in JSON lines. Raises ProviderError as `call` does."""
        what = f"{method} {path}"
        async with (
            self._using(what, timeout_s) as http,
            http.stream(
                method, f"{self._prefix}{path}", query=query, headers=headers, timeout_s=timeout_s
            ) as (head, pieces),
        ):
            held = b""
            async for piece in pieces:
                held += piece
                *whole, held = held.split(b"\n") if head.ok else (held,)
                if len(held) > 2**20:
                    raise ProviderError(Fault.UNKNOWN, f"{what}: a line of more than 1 MiB")
                for line in whole:
                    if line.strip():
                        yield _object(line, what)
            if not head.ok:
                raise self.failure("pull", what, head.status, held)
            if held.strip():
                yield _object(held, what)

    def failure(self, call: Call, what: str, status: int, body: bytes) -> ProviderError:
        """What to raise for an answer that is no success; one that nobody knows is put into the log."""
        secrets = tuple(self._secrets())
        message = message_of(body)
        fault = fault_of(call, status, message)
        if fault is None:
            log_unknown_answer(self._provider, what, status=status, code="", raw=body, secrets=secrets)
        said = redacted(message, secrets)[:SAID_CHARS_MAX]
        return ProviderError(fault or Fault.UNKNOWN, f"{_short(what)}: {status}: {said}")

    async def aclose(self) -> None:
        """Close the connections; they are opened again when something is asked."""
        client, self._client = self._client, None
        if client is not None:
            await client.http.aclose()

    @asynccontextmanager
    async def _using(self, what: str, timeout_s: float) -> AsyncGenerator[Http]:
        """The client for one call. One that finds no engine is not used for another call."""
        within_s = min(TURN_WITHIN_S, timeout_s * 0.8)
        with anyio.move_on_after(within_s) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            text = f"{what}: {CONNECTIONS_MAX} other calls are under way for {within_s:g} s"
            raise ProviderError(Fault.NOT_SENT, text)
        try:
            client = await self._connected()
            client.calls += 1
            try:
                yield client.http
            except ProviderError as error:
                if error.fault is Fault.NOT_SENT:
                    self._retire(client)
                raise
            finally:
                client.calls -= 1
                if client.is_retired and not client.calls:
                    with anyio.CancelScope(shield=True):
                        await client.http.aclose()
        finally:
            self._turns.release()

    def _retire(self, client: _Client) -> None:
        client.is_retired = True
        if self._client is client:
            self._client = None

    async def _connected(self) -> _Client:
        if self._client is not None:
            return self._client
        async with self._connecting:
            if self._client is not None:
                return self._client
            socket = found_socket(self._given, self._wanted)
            http = Http("http://engine", uds=str(socket), connections_max=CONNECTIONS_MAX)
            try:
                await self._greet(http, socket)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await http.aclose()
                raise
            self._socket, self._client = socket, _Client(http)
            return self._client

    async def _greet(self, http: Http, socket: Path) -> None:
        answer = await http.call("GET", "/version", timeout_s=10.0)
        if not answer.ok:
            text = f"GET /version on {socket}: {answer.status}: {message_of(answer.body)[:SAID_CHARS_MAX]}"
            raise ProviderError(Fault.UNKNOWN, text)
        about = answer.json()
        theirs = version_of(about.get("ApiVersion")) if isinstance(about, dict) else None
        if theirs is None:
            raise ProviderError(Fault.REJECTED, f"{socket} is no container engine's: it has no ApiVersion")
        lowest = version_of(about.get("MinAPIVersion")) or OURS_MIN
        self._prefix = f"/v{_shown(negotiated(theirs, lowest))}"
        parts = [str(one.get("Name", "")).lower() for one in about.get("Components") or []]
        self._kind = "podman" if any("podman" in part for part in parts) else "docker"
        if self._wanted not in ("auto", self._kind):
            raise ProviderError(Fault.REJECTED, f"{socket} is {self._kind}'s, and engine is {self._wanted!r}")
        self._about = about


def found_socket(given: Path | None, wanted: Literal["auto", "docker", "podman"]) -> Path:
    """The socket to use.

    Raises:
        ProviderError: not_sent; there is none. credentials; it is there and not for us. rejected; it is no
            socket, or DOCKER_HOST names an engine that is not reached by one.
    """
    named = os.environ.get("DOCKER_HOST", "")
    if given is None and named and not named.startswith("unix:///"):
        text = (
            f"DOCKER_HOST is {redacted(named)[:100]!r}, which is no unix:///PATH: set `socket` in the config"
        )
        raise ProviderError(Fault.REJECTED, text)
    places = [given] if given is not None else candidates(wanted, os.environ)
    for path in places:
        try:
            mode = path.stat().st_mode
        except PermissionError as error:
            raise ProviderError(Fault.CREDENTIALS, f"{path} is in a directory that is not for us") from error
        except OSError:
            continue
        if not stat.S_ISSOCK(mode):
            raise ProviderError(Fault.REJECTED, f"{path} is no socket")
        if not os.access(path, os.R_OK | os.W_OK):
            text = f"{path} is not for us: be root, or join its group (usermod -aG docker USER)"
            raise ProviderError(Fault.CREDENTIALS, text)
        return path
    names = ", ".join(str(path) for path in places)
    raise ProviderError(Fault.NOT_SENT, f"no container engine listens: there is no {names}")


def segment(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _short(what: str) -> str:
    """Ids of 64 hexadecimal digits as users write them, with 12."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", what)


def _object(line: bytes, what: str) -> dict[str, Any]:
    try:
        found = from_json(line)
    except ValueError as error:
        raise ProviderError(Fault.UNKNOWN, f"{what}: no JSON: {line[:80]!r}") from error
    if not isinstance(found, dict):
        raise ProviderError(Fault.UNKNOWN, f"{what}: no object: {line[:80]!r}")
    return found


__all__ = ["Engine", "candidates", "found_socket", "negotiated", "segment", "version_of"]
