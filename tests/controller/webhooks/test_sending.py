"""One POST to a real server: what it shows, and what is made of each answer."""

from pathlib import Path
from typing import Any

import pytest

from controller.client import WebhookInvalid, verify_webhook
from controller.config_sections import WebhookConfig
from controller.webhooks.sending import Sender, Tried
from tests.controller.webhooks.receiver import SECRET, Receiver, receiving, said

pytestmark = pytest.mark.anyio
AT = 1_700_000_000.0


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return holds(tmp_path / "secret", SECRET + "\n")


def holds(path: Path, text: str) -> Path:
    """A file that only we may read."""
    path.write_text(text)
    path.chmod(0o600)
    return path


async def sent(receiver: Receiver, secret: Path, **more: Any) -> Tried:
    """One try."""
    given = {"url": receiver.url, "secret": {"file": str(secret)}, "timeout_s": 0.3, **more}
    sender = Sender()
    try:
        return await sender.post("pager", WebhookConfig.model_validate(given), 7, b'{"seq": 7}', AT)
    finally:
        await sender.aclose()


async def test_who_has_the_secret_can_tell_that_it_is_ours(secret: Path) -> None:
    async with receiving() as receiver:
        assert await sent(receiver, secret) == Tried(204)
        got = receiver.got[0]
        assert (got.headers["everpool-webhook"], got.headers["everpool-event-seq"]) == ("pager", "7")
        assert got.headers["content-type"] == "application/json"
        verify_webhook(SECRET, got.headers, got.body, now=AT + 299)
        wrong: list[tuple[str, dict[str, str], bytes, float]] = [
            ("another-secret-xx", got.headers, got.body, AT),
            (SECRET, got.headers, got.body + b" ", AT),
            (SECRET, got.headers, got.body, AT + 301),
            (SECRET, {}, got.body, AT),
            (SECRET, {"Everpool-Signature": "t=1,t=2,v1=00"}, got.body, AT),
            (SECRET, {"Everpool-Signature": "v1=\u00e9"}, got.body, AT),
        ]
        for secret_of, headers, body, now in wrong:
            with pytest.raises(WebhookInvalid):
                verify_webhook(secret_of, headers, body, now=now)


async def test_a_changed_secret_counts_at_once(secret: Path) -> None:
    async with receiving() as receiver:
        await sent(receiver, secret)
        holds(secret, "another-secret-that-is-new")
        await sent(receiver, secret)
        verify_webhook("another-secret-that-is-new", receiver.got[1].headers, receiver.got[1].body, now=AT)
        holds(secret, "short")
        assert "fewer than 16" in (await sent(receiver, secret)).error
        holds(secret, "")
        assert "its secret" in (await sent(receiver, secret)).error
        assert len(receiver.got) == 2


@pytest.mark.parametrize(
    ("answer", "error", "status"),
    [
        (said(200, b"thanks"), "", 200),
        (said(200, b"x" * 100_000), "", 200),
        (said(302, b"", "Location: /elsewhere"), "redirects are not followed", 302),
        (said(410), "answered 410", 410),
        (said(500), "answered 500", 500),
        (b"nonsense\r\n\r\n", "no answer", None),
        (None, "no answer", None),
        (5.0, "no answer in 0.3 s", None),
    ],
)
async def test_an_answer(secret: Path, answer: Any, error: str, status: int | None) -> None:
    async with receiving() as receiver:
        receiver.answers = [answer]
        tried = await sent(receiver, secret)
        assert tried.status == status
        assert (error in tried.error) if error else tried.taken
        assert "hidden" not in tried.error
        assert len(receiver.got) == 1
        assert len(tried.answer) <= 1024


async def test_a_time_to_wait_is_heard(secret: Path) -> None:
    async with receiving() as receiver:
        receiver.answers = [said(503, b"", "Retry-After: 30"), said(503, b"", "Retry-After: soon")]
        assert (await sent(receiver, secret)).retry_after_s == 30
        assert (await sent(receiver, secret)).retry_after_s is None


async def test_nobody_is_there(secret: Path) -> None:
    async with receiving() as receiver:
        pass
    tried = await sent(receiver, secret)
    assert tried.error.startswith("no connection")
    assert "hidden" not in tried.error
