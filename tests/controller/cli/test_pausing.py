"""`pause` and `resume`, and `webhook`, as a user runs them."""

from collections.abc import Iterator

import pytest

from tests.controller.cli.running import Face, daemon
from tests.real.receiver import Receiver, receiving

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def test_a_pool_is_paused_and_resumed(house: Face) -> None:
    done = house("pause", "web")
    assert (done.code, done.out) == (0, "pool paused: web\n"), done.err
    assert house("pause", "web").out == "pool paused already: web\n"
    [shown] = [one for one in house("ps", "--json").json if one["name"] == "web"]
    assert (shown["status"], shown["status_code"]) == ("paused", 7)
    assert shown["paused"]["by"].startswith("unix:")
    assert "paused by unix:" in house("ps").out
    assert "`everpool resume web`" in house("explain", "web").out
    waits = house("run", "web", "--detach", "--", "true")
    assert waits.code == 0, waits.err
    assert house("resume", "web", "--json").json["event"]["kind"] == "pool_resumed"
    assert house("resume", "web").out == "pool resumed already: web\n"
    missing = house("pause", "wbe")
    assert missing.code != 0
    assert "web" in missing.err


def test_webhooks_are_listed_and_tried(face: Face, receiver: Receiver) -> None:
    with daemon(face):
        done = face("webhook", "list")
        assert (done.code, done.out) == (0, "")
        assert "[webhooks.NAME]" in done.err
        path = face.directory / "everpool.toml"
        path.write_text(path.read_text() + receiver.config(face.directory, "pager"))
        assert face("reload").code == 0
        assert face("webhook", "list").out.splitlines()[1].split()[:2] == ["pager", "ok"]
        done = face("webhook", "test", "pager")
        assert done.code == 0, done.err
        assert done.out.endswith("204\n")
        receiver.status = 404
        done = face("webhook", "test", "pager")
        assert (done.code, done.out) == (1, "")
        assert "answered 404" in done.err
        assert face("webhook", "retry", "pager").code == 0
        assert "no webhook 'page'" in face("webhook", "retry", "page").err
