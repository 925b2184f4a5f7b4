"""Images: whether they are there, pulled when they are not, and whether they have a Python for us.

A pull may take longer than any launch may, so it runs in a thread with an event loop of its own and goes on
when the launch that wanted it is given up. Launches that find it under way wait a while, without a thread
each, and then answer `throttled`: the same again later, when it may be there.
"""

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any

import anyio
import anyio.from_thread
from anyio import RunFinishedError
from anyio.lowlevel import current_token
from pydantic_core import to_json

from providers.container.config import ContainerConfig, Registry
from providers.container.engine import Engine, segment
from providers.errors import Fault, ProviderError
from providers.logins import Login, Logins

WAIT_S = 60.0  # that a launch waits for a pull
AGAIN_S = 5.0
FRESH_S = 60.0  # with pull = "always": so long one pull is enough
PYTHON_MIN = (3, 8)
PYTHON_SAYS = "import sys; print(*sys.version_info[:3])"


def registry_host(image: str) -> str:
    """The registry that an image's name names."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else "docker.io"


def split_tag(image: str) -> tuple[str, str]:
    """An image's name as (repository, tag or digest); "latest" when it says none."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    head, colon, tag = image.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (image, "latest")


def registry_auth(registry: Registry) -> str:
    """The value of X-Registry-Auth. Raises ProviderError(credentials) when the password can't be read."""
    return _auth(Login(registry.server, registry.username, registry.password.read()))


def _auth(login: Login) -> str:
    said = {"username": login.username, "password": login.password, "serveraddress": login.server}
    return base64.urlsafe_b64encode(to_json(said)).decode()


def python_version(said: bytes) -> tuple[int, int] | None:
    """What `PYTHON_SAYS` printed; None when that is no version."""
    found = re.fullmatch(rb"\s*(\d+) (\d+) \d+\s*", said)
    return None if found is None else (int(found[1]), int(found[2]))


def secrets_of(config: ContainerConfig) -> Iterator[str]:
    """What of a config may not be seen in errors and logs, as far as it can be read now."""
    yield from config.env.values()
    for registry in config.registries:
        try:
            password = registry.password.read()
        except ProviderError:
            continue
        yield from _shown_as(Login(registry.server, registry.username, password))


def _shown_as(login: Login) -> tuple[str, ...]:
    """How a login may turn up in what an engine says."""
    return (login.password, f"{login.username}:{login.password}", _auth(login))


class _Pull:
    """One pull, in a thread of its own. Made in the event loop of those who wait for it.

    Raises ProviderError(not_sent) when there can be no thread.
    """

    def __init__(self, image: str, work: Callable[["_Pull"], Any]) -> None:
        self.progress = "begun"
        # What is to be told if it ends in a way that nobody thought of.
        self.error: ProviderError | None = ProviderError(Fault.UNKNOWN, f"image {image}: the pull broke off")
        self.ended_at: float | None = None
        self.over = anyio.Event()
        self.unwanted = threading.Event()  # the provider was closed
        self._image, self._work, self._token = image, work, current_token()
        try:
            threading.Thread(target=self._run, name="everpool-pull", daemon=True).start()
        except RuntimeError as error:
            raise ProviderError(Fault.NOT_SENT, f"image {image} can't be pulled: {error}") from error

    def _run(self) -> None:
        try:
            anyio.run(self._work, self)
            self.error = None
        except ProviderError as error:
            self.error = error
        except OSError as error:  # no event loop without descriptors
            self.error = ProviderError(Fault.NOT_SENT, f"image {self._image} can't be pulled: {error}")
        finally:
            self.ended_at = time.monotonic()
            with suppress(RunFinishedError):  # nobody waits any more
                anyio.from_thread.run_sync(self.over.set, token=self._token)

    def note(self, line: Mapping[str, Any]) -> None:
        """Take one line of what the engine says."""
        words = " ".join(str(line.get(name) or "") for name in ("id", "status", "progress", "stream"))
        self.progress = " ".join(words.split())[:120] or self.progress


class Images:
    """The images that containers are made of."""

    def __init__(self, provider: str, config: ContainerConfig, engine: Engine, logins: Logins) -> None:
        self._provider, self._config, self._engine = provider, config, engine
        self._logins = logins
        self._pulls: dict[str, _Pull] = {}
        self.proven: set[str] = set()  # ids of images whose Python was asked

    async def ready(self, image: str) -> str:
        """Make sure of an image; its id.

        Raises:
            ProviderError: rejected (there is none such), credentials (of the registry), throttled (it is
                still being pulled), not_sent (no registry answers), or what the engine's call raises.
        """
        there = await self._look(image)
        always = self._config.pull == "always" and not self._is_fresh(image)
        if there is not None and not always:
            return there
        if self._config.pull == "never":
            raise ProviderError(
                Fault.REJECTED, f'image {image} is not there: pull it, or set pull = "missing"'
            )
        await self._pulled(image)
        there = await self._look(image)
        if there is None:
            raise ProviderError(Fault.REJECTED, f"image {image} was pulled, and is not there")
        return there

    def close(self) -> None:
        """Let pulls end."""
        for pull in self._pulls.values():
            pull.unwanted.set()

    def _is_fresh(self, image: str) -> bool:
        pull = self._pulls.get(image)
        if pull is None or pull.ended_at is None or pull.error is not None:
            return False
        return time.monotonic() - pull.ended_at < FRESH_S

    async def _look(self, image: str) -> str | None:
        answer = await self._engine.call("look", "GET", f"/images/{segment(image)}/json", allow=(404,))
        return None if answer.status == 404 else str(answer.json()["Id"])

    async def _pulled(self, image: str) -> None:
        pull = self._pulls.get(image)
        if pull is None or pull.ended_at is not None:
            login = self._login(registry_host(image))  # here: who keeps it knows of no other thread

            async def work(pull: _Pull) -> None:
                await self._pull(pull, image, login)

            pull = self._pulls[image] = _Pull(image, work)
        with anyio.move_on_after(WAIT_S):
            await pull.over.wait()
        if pull.ended_at is None:
            text = f"image {image} is still being pulled: {pull.progress}"
            raise ProviderError(Fault.THROTTLED, text, retry_after_s=AGAIN_S)
        if pull.error is not None:
            raise ProviderError(pull.error.fault, pull.error.detail, pull.error.retry_after_s)

    def _login(self, host: str) -> Login | None:
        """Who we are to a registry: as the config says, else as is kept. May raise ProviderError."""
        for one in self._config.registries:
            if one.server == host:
                return Login(host, one.username, one.password.read())
        return self._logins.login(host)

    async def _pull(self, pull: _Pull, image: str, login: Login | None) -> None:
        """Runs in the pull's own thread and event loop, so with an engine's connection of its own."""
        name, tag = split_tag(image)
        # To that registry and no other: the engine sends it to whichever the image's name names.
        headers = {} if login is None else {"X-Registry-Auth": _auth(login)}
        hidden = (*secrets_of(self._config), *(() if login is None else _shown_as(login)))
        engine = Engine(self._provider, self._config.engine, self._config.socket, lambda: hidden)
        timeout_s = self._config.pull_timeout_s
        try:
            with anyio.fail_after(timeout_s):
                await self._listen(engine, pull, image, {"fromImage": name, "tag": tag}, headers)
        except TimeoutError as error:
            text = f"image {image} was not pulled in {timeout_s:g} s: {pull.progress}"
            raise ProviderError(Fault.THROTTLED, text) from error
        finally:
            with anyio.CancelScope(shield=True):
                await engine.aclose()

    async def _listen(
        self,
        engine: Engine,
        pull: _Pull,
        image: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> None:
        timeout_s = self._config.pull_timeout_s
        lines = engine.lines("POST", "/images/create", query=query, headers=headers, timeout_s=timeout_s)
        async with aclosing(lines):
            async for line in lines:
                said = line.get("error") or (line.get("errorDetail") or {}).get("message")
                if said:
                    raise engine.failure("pull", f"pull {image}", 200, str(said).encode())
                if pull.unwanted.is_set():
                    return
                pull.note(line)
