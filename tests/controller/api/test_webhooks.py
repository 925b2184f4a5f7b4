"""Webhooks of a served desk: replies, what is shown of them, tests, and changes of the config."""

from pathlib import Path

import anyio
import pytest

from actors.events import Administered, PoolPauseRequested, PoolResizeRequested, WebhookRemoved
from controller.client import AsyncClient, EverpoolError, verify_webhook
from controller.config_sections import WebhookConfig
from tests.controller.api.desk import SmallDesk
from tests.controller.journal.samples import until
from tests.controller.webhooks.receiver import SECRET, receiving, said

pytestmark = pytest.mark.anyio


def config(path: Path, url: str, *events: str) -> WebhookConfig:
    secret = path.parent / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    return WebhookConfig.model_validate(
        {"url": url, "secret": {"file": str(secret)}, "events": events, "timeout_s": 2}
    )


async def test_the_end_of_a_request_is_sent_to_whom_it_names(
    desk: SmallDesk, everpool: AsyncClient, path: Path
) -> None:
    async with receiving() as receiver, anyio.create_task_group() as tasks:
        desk.webhooks.apply({"pager": config(path, receiver.url)})
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: desk.webhooks.names() == ["pager"])
        await everpool.submit(PoolPauseRequested(request_id="p", pool="main", reply_to="pager"))
        await everpool.submit(PoolPauseRequested(request_id="q", pool="main", paused=False))
        await everpool.submit(PoolResizeRequested(request_id="r", pool="main", nodes=0, reply_to="pager"))
        await until(lambda: len(receiver.got) == 2)
        assert [one.envelope["ends"] for one in receiver.got] == [["p"], ["r"]]
        for one in receiver.got:
            verify_webhook(SECRET, one.headers, one.body)
        await until(lambda: desk.webhooks.views()[0]["behind"] == 0)
        (view,) = await everpool.webhooks()
        assert (view["delivered"], view["dropped"], view["replies"], view["last_status"]) == (2, 0, 0, 204)
        assert view["url"] == receiver.url.partition("/in")[0]  # what follows may be a secret
        assert not desk.webhooks.failing("pager")
        tasks.cancel_scope.cancel()


async def test_requests_from_before_a_restart_are_answered(desk: SmallDesk, path: Path) -> None:
    async with receiving() as receiver, anyio.create_task_group() as tasks:
        desk.webhooks.apply({"pager": config(path, receiver.url)})
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: "pager" in desk.records.of("webhook"))
        tasks.cancel_scope.cancel()
    async with receiving() as receiver, anyio.create_task_group() as tasks:
        desk.webhooks._hooks.clear()  # as if it had never lived
        resize = PoolResizeRequested(request_id="r", pool="main", nodes=0, reply_to="pager")
        await desk.submit([resize], "user")
        assert await desk.followers.ended("r", 10)
        desk.webhooks._early.clear()
        desk.webhooks.apply({"pager": config(path, receiver.url)})
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: len(receiver.got) == 1)
        assert receiver.got[0].envelope["ends"] == ["r"]
        tasks.cancel_scope.cancel()


async def test_webhooks_come_change_and_go_with_the_config(
    desk: SmallDesk, everpool: AsyncClient, path: Path
) -> None:
    async with receiving() as first, receiving() as second, anyio.create_task_group() as tasks:
        tasks.start_soon(desk.webhooks.run)
        await anyio.lowlevel.checkpoint()
        assert await everpool.webhooks() == []
        first.answers = [said(500)]
        desk.webhooks.apply({"pager": config(path, first.url, "pool_*")})
        await until(lambda: "pager" in desk.records.of("webhook"))
        await everpool.submit(PoolPauseRequested(request_id="p", pool="main"))
        await until(lambda: desk.webhooks.failing("pager"))
        desk.webhooks.apply({"pager": config(path, second.url, "pool_*")})  # it is tried there at once
        await until(lambda: len(second.got) == 2)
        assert second.kinds == ["pool_pause_requested", "pool_paused"]
        desk.webhooks.apply({})
        await until(lambda: "pager" not in desk.records.of("webhook"))
        assert await everpool.webhooks() == []
        tasks.cancel_scope.cancel()


async def test_what_waits_for_one_that_is_taken_away_is_counted_and_told(
    desk: SmallDesk, everpool: AsyncClient, path: Path
) -> None:
    async with receiving() as receiver, anyio.create_task_group() as tasks:
        receiver.answers = [said(500)] * 100
        desk.webhooks.apply({"pager": config(path, receiver.url, "pool_*")})
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: "pager" in desk.records.of("webhook"))
        pause = PoolPauseRequested(request_id="p", pool="main", reply_to="pager")
        await everpool.submit(pause)
        assert await desk.followers.ended("p", 10)
        await until(lambda: desk.webhooks.failing("pager"))
        assert await desk.webhooks.waiting(["pager"]) == {}
        assert await desk.webhooks.waiting([]) == {"pager": (2, 1)}  # asked for, and paused
        desk.webhooks.apply({})
        await until(lambda: "pager" not in desk.records.of("webhook"))
        (told,) = await everpool.events(kinds=["webhook_removed"])
        assert told.event == WebhookRemoved(webhook="pager", dropped=2, replies=1)
        tasks.cancel_scope.cancel()


async def test_one_that_is_back_at_once_loses_nothing(desk: SmallDesk, path: Path) -> None:
    async with receiving() as receiver, anyio.create_task_group() as tasks:
        receiver.answers = [said(500)]
        desk.webhooks.apply({"pager": config(path, receiver.url)})
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: "pager" in desk.records.of("webhook"))
        await desk.submit([PoolPauseRequested(request_id="p", pool="main", reply_to="pager")], "user")
        await until(lambda: desk.webhooks.failing("pager"))
        desk.webhooks.apply({})
        desk.webhooks.apply({"pager": config(path, receiver.url)})
        await until(lambda: len(receiver.got) == 2)
        assert receiver.got[1].envelope["ends"] == ["p"]
        tasks.cancel_scope.cancel()


async def test_one_that_was_taken_out_while_nobody_looked_is_told(
    desk: SmallDesk, everpool: AsyncClient, path: Path
) -> None:
    async with receiving() as receiver, anyio.create_task_group() as tasks:
        desk.webhooks.apply({"pager": config(path, receiver.url)})
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: "pager" in desk.records.of("webhook"))
        tasks.cancel_scope.cancel()
    resize = PoolResizeRequested(request_id="r", pool="main", nodes=0, reply_to="pager")
    await desk.submit([resize], "user")
    desk.webhooks._hooks.clear()  # as if it had never lived
    desk.webhooks.apply({})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: "pager" not in desk.records.of("webhook"))
        (told,) = await everpool.events(kinds=["webhook_removed"])
        assert told.event == WebhookRemoved(webhook="pager", dropped=None, replies=1)
        tasks.cancel_scope.cancel()


async def test_a_test_says_what_came_back_and_is_told(
    desk: SmallDesk, everpool: AsyncClient, path: Path
) -> None:
    async with receiving() as receiver, anyio.create_task_group() as tasks:
        desk.webhooks.apply({"pager": config(path, receiver.url)})
        tasks.start_soon(desk.webhooks.run)
        await until(lambda: desk.webhooks.names() == ["pager"])
        receiver.answers = [said(200, b"hello"), said(404, b"nobody here")]
        tried = await everpool.webhook_test("pager")
        assert (tried["taken"], tried["status"], tried["answer"]) == (True, 200, "hello")
        verify_webhook(SECRET, receiver.got[0].headers, receiver.got[0].body)
        assert receiver.got[0].envelope["event"]["kind"] == "webhook_tested"
        tried = await everpool.webhook_test("pager")
        assert (tried["taken"], tried["error"], tried["answer"]) == (False, "answered 404", "nobody here")
        told = await everpool.events(kinds=["webhook_tested"])
        assert [one.event.status for one in told] == [200, 404]  # type: ignore[union-attr]
        with pytest.raises(EverpoolError, match="no webhook 'pagr'"):
            await everpool.webhook_retry("pagr")
        assert (await everpool.webhook_retry("pager"))["name"] == "pager"
        (told_retry,) = await everpool.events(kinds=["administered"])
        assert told_retry.event == Administered(action="retry", detail="webhook pager")
        assert told_retry.principal != ""
        tasks.cancel_scope.cancel()
