"""How the page is opened: nobody else of the host gets to know its token."""

import signal
from pathlib import Path
from urllib.parse import urlparse

import pytest

from controller.cli.dashboard import leading_to
from tests.controller.cli.running import Face, daemon, until

URL = "http://127.0.0.1:8000/#token=evp_a-b.c"


def test_only_we_can_read_where_it_leads() -> None:
    with leading_to(URL) as page:
        path = Path(urlparse(page).path)
        assert page.startswith("file:///") and path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert f'content="0; url={URL}"' in path.read_text()
    assert not path.parent.exists()


@pytest.mark.real
def test_a_browser_is_not_started_with_the_token(face: Face) -> None:
    browser = face.directory / "browser"
    browser.write_text(
        '#!/bin/sh\necho "$@" > "$HOME/asked"\ncp "${1#file://}" "$HOME/page" && touch "$HOME/read"\n'
    )
    browser.chmod(0o755)
    face.env["BROWSER"] = str(browser)
    with daemon(face):
        shown = face.start("dashboard", "--open")
        until(lambda: (face.directory / "read").exists())
        assert shown.stdout is not None
        url = shown.stdout.readline().strip()
        token = url.partition("#token=")[2]
        asked = (face.directory / "asked").read_text().strip()
        assert token and token not in asked and token in (face.directory / "page").read_text()
        assert "dashboard-" in face("token", "list").out
        shown.send_signal(signal.SIGTERM)
        shown.wait(20)
        assert "dashboard-" not in face("token", "list").out
        assert not Path(urlparse(asked).path).exists()
