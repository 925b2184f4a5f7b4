"""Notices from the queue: whose, when, how often."""

import json
import time
from typing import Any

import anyio
import pytest

from providers.aws.adapter import AwsProvider
from providers.errors import Fault, ProviderError
from providers.model import Handle, Notice
from tests.providers.aws.account import OWNER, REGION, Account

pytestmark = pytest.mark.anyio
KEY = f"{OWNER}/pool/0/1/1"


async def listening(account: Account, **settings: Any) -> AwsProvider:
    """An adapter that has a queue and knows whose machines are ours."""
    provider = account.provider(queues={REGION: account.fake.make_queue()}, **settings)
    await provider.observe(OWNER)
    return provider


async def heard(provider: AwsProvider, number: int) -> list[tuple[str, Notice | None]]:
    """The next notices."""
    found = []
    with anyio.fail_after(20):
        async for one in provider.notices():
            found.append(one)
            if len(found) == number:
                return found
    raise AssertionError


async def silent(provider: AwsProvider) -> bool:
    """Whether the queue is asked and nothing is told."""
    with anyio.move_on_after(1.5):
        return (await anext(provider.notices())) is None
    return True


async def test_a_warning_is_a_notice_with_its_deadline(account: Account) -> None:
    provider = await listening(account)
    ref = account.fake.orphan(KEY)
    account.fake.preempt(ref, 120.0, end=False)
    [(key, notice)] = await heard(provider, 1)
    assert key == KEY
    assert notice is not None
    assert notice.reason == "spot interruption"
    assert notice.deadline_at is not None
    assert abs(notice.deadline_at - (time.time() + 120)) < 5
    [seen] = (await provider.observe(OWNER)).sightings
    assert seen.notice == notice


async def test_the_deadline_is_in_our_time_when_the_vendors_clock_is_another(account: Account) -> None:
    provider = await listening(account)
    ahead = AwsProvider("aws", provider._config, account.directory, b"", now=lambda: time.time() + 1000)
    account.made.append(ahead)
    await ahead.observe(OWNER)
    account.fake.preempt(account.fake.orphan(KEY), 120.0, end=False)
    [(_, notice)] = await heard(ahead, 1)
    assert notice is not None
    assert notice.deadline_at is not None
    assert abs(notice.deadline_at - (time.time() + 1120)) < 5


async def test_a_recommendation_is_an_early_word_or_ignored(account: Account) -> None:
    provider = await listening(account)
    ref = account.fake.orphan(KEY)
    account.fake.preempt(ref, None)
    early = Notice(reason="rebalance recommendation", deadline_at=None, early=True)
    assert await heard(provider, 1) == [(KEY, early)]
    account.fake.preempt(ref, 120.0, end=False)
    [(_, notice)] = await heard(provider, 1)
    assert notice is not None
    assert notice.deadline_at is not None
    assert not notice.early
    account.fake.preempt(ref, None)  # comes late, and takes nothing back
    deaf = await listening(account, rebalance="ignore")
    account.fake.preempt(account.fake.orphan(f"{OWNER}/pool/1/1/1"), None)
    assert await silent(deaf)
    [first, _] = (await provider.observe(OWNER)).sightings
    assert first.notice == notice


async def test_an_end_is_told_of_a_machine_that_had_an_early_word_only(account: Account) -> None:
    provider = await listening(account)
    ref = account.fake.orphan(KEY)
    account.fake.preempt(ref, None)
    await heard(provider, 1)
    detail = {"instance-id": ref, "state": "shutting-down"}
    account.fake.push(ref, "EC2 Instance State-change Notification", detail)
    [(_, notice)] = await heard(provider, 1)
    assert notice is not None
    assert (notice.reason, notice.early) == ("instance is shutting-down", False)


async def test_an_event_that_comes_twice_is_told_once(account: Account) -> None:
    provider = await listening(account)
    ref, other = account.fake.orphan(KEY), account.fake.orphan(f"{OWNER}/pool/1/1/1")
    kind, detail = (
        "EC2 Spot Instance Interruption Warning",
        {"instance-id": ref, "instance-action": "terminate"},
    )
    for _ in range(3):
        account.fake.push(ref, kind, detail, event_id="the-same")
    account.fake.preempt(other, 120.0, end=False)
    keys = [key for key, _ in await heard(provider, 2)]
    assert sorted(keys) == [KEY, f"{OWNER}/pool/1/1/1"]


async def test_what_was_handed_over_is_deleted_and_what_is_not_ours_is_left(account: Account) -> None:
    provider = await listening(account)
    stranger = account.fake.foreign(owner="somebody-else")
    account.fake.preempt(stranger, 120.0, end=False)
    account.fake.say("no JSON at all")
    account.fake.say(json.dumps({"detail-type": "something else", "detail": {}}))
    account.fake.preempt(account.fake.orphan(KEY), 120.0, end=False)
    stream = provider.notices()
    with anyio.fail_after(20):
        key, _ = await anext(stream)
    assert key == KEY
    assert account.fake.queued() == 4  # until it is surely taken
    with anyio.move_on_after(1.0):
        await anext(stream)
    assert account.fake.queued() == 3


async def test_old_messages_of_others_are_cleared_away(account: Account) -> None:
    provider = await listening(account)
    account.fake.preempt(account.fake.foreign(owner="somebody-else"), 120.0, end=False)
    account.fake.age_messages(3600)
    assert await silent(provider)
    assert account.fake.queued() == 0


async def test_an_end_that_nobody_announced_is_told_but_not_our_own(account: Account) -> None:
    provider = await listening(account)
    ours, taken = account.fake.orphan(KEY), account.fake.orphan(f"{OWNER}/pool/1/1/1")
    await provider.terminate([Handle(provider="aws", ref=ours, region=REGION)])
    for ref in (ours, taken):
        detail = {"instance-id": ref, "state": "shutting-down"}
        account.fake.push(ref, "EC2 Instance State-change Notification", detail)
    [(key, notice)] = await heard(provider, 1)
    assert key == f"{OWNER}/pool/1/1/1"
    assert notice is not None
    assert notice.reason == "instance is shutting-down"
    assert await silent(provider)


async def test_a_lost_push_is_silence_and_a_missing_queue_an_error(account: Account) -> None:
    provider = await listening(account)
    account.fake.controls.lose_push = True
    account.fake.preempt(account.fake.orphan(KEY), 120.0, end=False)
    assert await silent(provider)
    assert await silent(account.provider())  # no queue in the config
    missing = account.provider(queues={REGION: "https://sqs.us-east-1.amazonaws.com/123456789012/none"})
    with anyio.fail_after(20), pytest.raises(ProviderError) as caught:
        await anext(missing.notices())
    assert caught.value.fault is Fault.REJECTED


async def test_a_machine_is_ended_at_its_deadline(account: Account) -> None:
    ref = account.fake.orphan(KEY)
    account.fake.preempt(ref, 0.2)
    provider = account.provider()
    with anyio.fail_after(10):
        while True:
            [seen] = (await provider.observe(OWNER)).sightings
            if seen.ended_at is not None:
                break
            await anyio.sleep(0.05)
    assert seen.detail == "terminated: Server.SpotInstanceTermination"
