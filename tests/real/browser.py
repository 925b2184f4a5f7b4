"""The page in a real browser: Debian's Chromium, without a head, against a real daemon on TCP.

What the console says, and what the page's own policy forbids, are failures.
"""

import json
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from actors.events import PoolRequested
from actors.spec import PoolSpec
from tests.real.rig import REPOSITORY, Rig, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
ADMIN = "a-token-of-the-config-file"
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)  # the default of a page does not hold for it
# What the browser itself says of an answer that is an error, or of a daemon that is down.
NETWORK = ("Failed to load resource:", "net::ERR_")
CLOUD = """
[providers.cloud]
type = "simulated"
seed = 4
notice_s = 20
boot_delay = {{ least_s = 0.2, more_s = 0.3, most_s = 2 }}
end_delay = {{ least_s = 0.3, more_s = 0.5, most_s = 3 }}
preemptions_per_hour = {rate}
offers = [
  {{ instance_type = "g5.xlarge", region = "eu-west-1", zone = "eu-west-1a", spot = 0.412, on_demand = 1 }},
  {{ instance_type = "g6.xlarge", region = "us-east-1", zone = "us-east-1d", spot = 0.389, on_demand = 1 }},
]
"""


def artefacts() -> Path:
    """Where screenshots are put: $EVERPOOL_ARTEFACTS, else a folder of the checkout."""
    place = Path(os.environ.get("EVERPOOL_ARTEFACTS") or REPOSITORY / "artefacts")
    place.mkdir(parents=True, exist_ok=True)
    return place


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """A daemon on TCP, and what a browser needs to look at it.

    Attributes:
        rig: the daemon.
        url: of the page.
    """

    def __init__(self, rig: Rig, *, preemptions_per_hour: float = 0) -> None:
        self.rig, port = rig, free_port()
        self.url = f"http://127.0.0.1:{port}/"
        token = rig.root / "token"
        token.write_text(f"{ADMIN}\n")
        token.chmod(0o600)
        rig.configure(
            daemon=f'listen = "127.0.0.1:{port}"\ntoken_file = "{token}"',
            rest=CLOUD.format(rate=preemptions_per_hour),
        )
        rig.start()

    def pool(self, name: str, nodes: int, **spec: Any) -> None:
        """Ask for a pool of machines that are made up, and do not wait."""
        whole = {"provider": "cloud", "nodes": nodes, "max_hourly_cost": 5000} | spec
        self.rig.client.submit(PoolRequested(pool=name, spec=PoolSpec.model_validate(whole)))

    def until_whole(self, name: str, nodes: int) -> None:
        """Wait until so many of its nodes are ready."""

        def ready() -> bool:
            return any(one["name"] == name and one["ready"] >= nodes for one in self.rig.client.pools())

        until(ready, f"{nodes} nodes of {name} are ready")

    def token(self, name: str, scope: str) -> str:
        """Make a token of this scope."""
        request = urllib.request.Request(
            f"{self.url}v1/tokens",
            json.dumps({"name": name, "scope": scope}).encode(),
            {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(json.load(answer)["token"])

    def at(self, route: str = "", token: str = ADMIN) -> str:
        """The address of a view, with a token that the page takes out of it."""
        return f"{self.url}#token={token}&{route}"


class Looking:
    """One tab, and what went wrong in it."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.wrong: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(word in message.text for word in NETWORK):
            self.wrong.append(f"{message.type}: {message.text}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser."""
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def looking(
    browser: Browser,
    *,
    width: int = 1366,
    height: int = 860,
    dark: bool = False,
    phone: bool = False,
    still: bool = False,
) -> Iterator[Looking]:
    """A tab of its own, with nothing wrong in it at its end."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844} if phone else {"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if still else "no-preference",
        device_scale_factor=2 if phone else 1,
        is_mobile=phone,
        has_touch=phone,
    )
    try:
        tab = Looking(context)
        yield tab
        assert tab.wrong == []
    finally:
        context.close()
