"""Images: whether they are there, pulled when they are not, and whether they have a Python for us.

A pull may take longer than any launch may, so it runs in a thread with an event loop of its own and goes on
when the launch that wanted it is given up. Launches that find it under way answer `throttled`: the same again
later, when it may be there.
"""

import base64
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread
from pydantic_core import to_json

from providers.container.config import ContainerConfig, Registry
from providers.container.engine import Engine, segment
from providers.errors import Fault, ProviderError

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
    said = {
        "username": registry.username,
        "password": registry.password.read(),
        "serveraddress": registry.server,
    }
    return base64.urlsafe_b64encode(to_json(said)).decode()


def python_version(said: bytes) -> tuple[int, int] | None:
    """What `PYTHON_SAYS` printed; None when that is no version."""
    found = re.fullmatch(rb"\s*(\d+) (\d+) \d+\s*", said)
    return None if found is None else (int(found[1]), int(found[2]))


class _Pull:
    """One pull, in a thread of its own."""

    def __init__(self, work: Callable[["_Pull"], Any]) -> None:
        self.progress = "begun"
        self.error: ProviderError | None = None
        self.over = threading.Event()
        self.unwanted = threading.Event()  # the provider was closed
        self.ended_at = 0.0
        self._work = work
        threading.Thread(target=self._run, name="everpool-pull", daemon=True).start()

    def _run(self) -> None:
        try:
            anyio.run(self._work, self)
        except ProviderError as error:
            self.error = error
        finally:
            self.ended_at = time.monotonic()
            self.over.set()

    def note(self, line: Mapping[str, Any]) -> None:
        """Take one line of what the engine says."""
        words = " ".join(str(line.get(name) or "") for name in ("id", "status", "progress", "stream"))
        self.progress = " ".join(words.split())[:120] or self.progress


class Images:
    """The images that containers are made of."""

    def __init__(self, provider: str, config: ContainerConfig, engine: Engine) -> None:
        self._provider, self._config, self._engine = provider, config, engine
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
        return (
            pull is not None
            and pull.over.is_set()
            and pull.error is None
            and time.monotonic() - pull.ended_at < FRESH_S
        )

    async def _look(self, image: str) -> str | None:
        answer = await self._engine.call("look", "GET", f"/images/{segment(image)}/json", allow=(404,))
        return None if answer.status == 404 else str(answer.json()["Id"])

    async def _pulled(self, image: str) -> None:
        pull = self._pulls.get(image)
        if pull is None or pull.over.is_set():

            async def work(pull: _Pull) -> None:
                await self._pull(pull, image)

            pull = self._pulls[image] = _Pull(work)
        await anyio.to_thread.run_sync(pull.over.wait, WAIT_S, abandon_on_cancel=True)
        if not pull.over.is_set():
            text = f"image {image} is still being pulled: {pull.progress}"
            raise ProviderError(Fault.THROTTLED, text, retry_after_s=AGAIN_S)
        if pull.error is not None:
            raise ProviderError(pull.error.fault, pull.error.detail, pull.error.retry_after_s)

    async def _pull(self, pull: _Pull, image: str) -> None:
        """Runs in the pull's own thread and event loop, so with an engine's connection of its own."""
        name, tag = split_tag(image)
        host = registry_host(image)
        # To that registry and no other: the engine sends it to whichever the image's name names.
        known = next((one for one in self._config.registries if one.server == host), None)
        headers = {} if known is None else {"X-Registry-Auth": registry_auth(known)}
        engine = Engine(self._provider, self._config.engine, self._config.socket)
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
        async for line in engine.lines(
            "POST", "/images/create", query=query, headers=headers, timeout_s=timeout_s
        ):
            said = line.get("error") or (line.get("errorDetail") or {}).get("message")
            if said:
                raise engine.failure("pull", f"pull {image}", 200, str(said).encode())
            if pull.unwanted.is_set():
                return
            pull.note(line)
