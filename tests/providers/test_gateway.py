"""The one door to an account, before an account that answers as it is told."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from providers.contract import AgentChannel
from providers.errors import Fault, ProviderError
from providers.gateway import CALL_TIMEOUT_S, LAUNCH_TIMEOUT_S, Gateway
from providers.model import (
    Capabilities,
    Check,
    ClusterHandle,
    ClusterOrder,
    Handle,
    InstanceType,
    Leftover,
    Leftovers,
    Listing,
    Machine,
    Notice,
    Offer,
    Order,
    Sighting,
    SightingState,
)
from providers.pace import RateLimit

VISIBLE_S = 60.0
CLUSTER = ClusterHandle(cluster_id="c", provider="acme", region="r", ssh_user="u")
OFFER = Offer(id="o", instance_type=InstanceType(name="i", vcpus=1, memory_gb=1), provider="acme")

pytestmark = pytest.mark.anyio
virtual = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)  # long waits, exact times


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Both loops; trio on a virtual clock."""
    if request.param == "asyncio":
        return "asyncio"
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Account:
    """A provider that answers as the test says, and remembers what it was asked and when."""

    name = "acme"

    def __init__(self, batch_max: int = 3) -> None:
        self.capabilities = Capabilities(
            spot=True,
            notice_s=None,
            launch_batch_max=batch_max,
            dead_man_switch=False,
            tags=True,
            billing_unit="second",
            visible_within_s=VISIBLE_S,
            machines_max=10,
            look_again_s=1.0,
        )
        self.asked: list[tuple[str, Any]] = []
        self.times: list[float] = []
        self.machines: dict[str, SightingState] = {}
        self.refs: dict[str, str] = {}  # of keys; else the key itself
        self.ended: dict[str, float] = {}
        self.refusals: dict[str, ProviderError] = {}  # by key
        self.failure: ProviderError | None = None  # of the next call
        self.slow = False  # calls do not come back
        self.complete = True
        self.prices = [1]
        self.pushed: list[tuple[str, Notice | None]] = []
        self.listings = 0

    async def _called(self, what: str, about: Any) -> None:
        self.asked.append((what, about))
        self.times.append(anyio.current_time())
        await anyio.lowlevel.checkpoint()
        if self.slow:
            await anyio.sleep_forever()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def calls(self, what: str) -> list[Any]:
        """What was asked of one kind."""
        return [about for name, about in self.asked if name == what]

    async def offers(self) -> Sequence[Offer]:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        await anyio.lowlevel.checkpoint()
        return [OFFER.model_copy(update={"micro_usd_per_hour": price}) for price in self.prices]

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        await self._called("open", order.cluster_id)
        return CLUSTER

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        await self._called("close", cluster.cluster_id)

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        await self._called("launch", [order.key for order in orders])
        for order in orders:
            if order.key not in self.refusals:
                self.machines[order.key] = "running"
        return [self.refusals.get(order.key) or Handle(provider="acme", ref=order.key) for order in orders]

    async def find(self, key: str) -> Sighting | None:
        await self._called("find", key)
        return self.sighting(key) if key in self.machines else None

    async def observe(self, owner: str) -> Listing:
        self.listings += 1
        await anyio.lowlevel.checkpoint()
        shown = tuple(self.sighting(key) for key in self.machines)
        unreachable = () if self.complete else ("eu",)
        return Listing(
            at=anyio.current_time(), sightings=shown, complete=self.complete, unreachable=unreachable
        )

    async def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        for one in self.pushed:
            yield one
        await anyio.sleep_forever()

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        await self._called("terminate", [handle.ref for handle in handles])
        return [self.refusals.get(handle.ref) for handle in handles]

    def attach(self, machine: Machine) -> AbstractAsyncContextManager[AgentChannel]:
        raise NotImplementedError

    async def leftovers(self, owner: str) -> Leftovers:
        return Leftovers()

    async def remove(self, leftover: Leftover) -> None:
        raise AssertionError

    async def check(self, owner: str) -> Sequence[Check]:
        return ()

    async def aclose(self) -> None:
        return

    def sighting(self, key: str) -> Sighting:
        """A machine as it is shown."""
        handle = Handle(provider="acme", ref=self.refs.get(key, key))
        state, ended_at = self.machines[key], self.ended.get(key)
        return Sighting(key=key, handle=handle, state=state, launched_at=0, ended_at=ended_at)


class Heard:
    """A listener that writes down."""

    def __init__(self) -> None:
        self.words: list[tuple[str, Any]] = []
        self.ends: list[tuple[float, bool]] = []
        self.changed = anyio.Event()

    def _hear(self, what: str, about: Any) -> None:
        self.words.append((what, about))
        self.changed.set()

    def seen(self, sighting: Sighting, at: float, lacked_at: float | None) -> None:
        self._hear("seen", (sighting.key, sighting.state))

    def absent(self, key: str, at: float, told: Sighting | None) -> None:
        self._hear("absent", key)
        self.ends.append((at, told is not None))

    def noticed(self, key: str, notice: Notice | None) -> None:
        self._hear("noticed", (key, notice))

    def listed(self, provider: str, listing: Listing) -> None:
        self._hear("listed", listing.complete)

    def offers_changed(self, provider: str) -> None:
        self._hear("offers", provider)

    def of(self, what: str) -> list[Any]:
        """What was heard of one kind."""
        return [about for name, about in self.words if name == what]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for words until something holds."""
        with anyio.fail_after(3600):
            while not holds():
                self.changed = anyio.Event()
                await self.changed.wait()


def order(key: str) -> Order:
    """One machine to launch."""
    return Order(
        key=key,
        owner="o",
        epoch=1,
        pool="p",
        node=0,
        instance_id=key,
        offer=OFFER,
        cluster=CLUSTER,
        public_key="k",
    )


@asynccontextmanager
async def opened(account: Account, **more: Any) -> AsyncIterator[tuple[Gateway, Heard]]:
    """A gateway that runs."""
    heard = Heard()
    gateway = Gateway(account, owner="o", listener=heard, now=anyio.current_time, **more)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateway.run)
        try:
            yield gateway, heard
        finally:
            tasks.cancel_scope.cancel()


async def outcomes(gateway: Gateway, keys: Sequence[str]) -> dict[str, Handle | ProviderError]:
    """Launch all of them at once."""
    ends: dict[str, Handle | ProviderError] = {}

    async def one(key: str) -> None:
        try:
            ends[key] = await gateway.launch(order(key))
        except ProviderError as error:
            ends[key] = error

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(one, key)
    return ends


# --- launches -------------------------------------------------------------------------------------


async def test_launches_that_come_together_share_calls_and_each_gets_its_own_outcome() -> None:
    account = Account(batch_max=3)
    account.refusals["k2"] = ProviderError(Fault.CAPACITY, "none left")
    keys = [f"k{i}" for i in range(7)]
    async with opened(account) as (gateway, _):
        ends = await outcomes(gateway, keys)
    assert sorted(len(batch) for batch in account.calls("launch")) == [1, 3, 3]
    assert sorted(key for batch in account.calls("launch") for key in batch) == keys
    for key, end in ends.items():
        if key == "k2":
            assert isinstance(end, ProviderError)
            assert end.fault is Fault.CAPACITY
        else:
            assert end == Handle(provider="acme", ref=key)


async def test_a_call_that_fails_fails_for_its_whole_batch_and_no_other() -> None:
    account = Account(batch_max=2)
    account.prices = []
    async with opened(account) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None and bool(heard.of("listed")))
        account.failure = ProviderError(Fault.THROTTLED, "later", retry_after_s=7)
        ends = await outcomes(gateway, ["a", "b", "c"])
    failed = [end for end in ends.values() if isinstance(end, ProviderError)]
    assert {(end.fault, end.retry_after_s) for end in failed} == {(Fault.THROTTLED, 7)}
    assert len(failed) in (1, 2)


@virtual
async def test_a_launch_without_an_answer_has_an_unknown_outcome() -> None:
    account = Account()
    account.slow = True
    async with opened(account) as (gateway, _):
        started = anyio.current_time()
        ends = await outcomes(gateway, ["a", "b"])
        took = anyio.current_time() - started
    assert all(isinstance(end, ProviderError) and end.fault is Fault.UNKNOWN for end in ends.values())
    assert LAUNCH_TIMEOUT_S <= took < LAUNCH_TIMEOUT_S + 1


async def test_fewer_outcomes_than_orders_leave_the_rest_unknown() -> None:
    class Short(Account):
        async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
            return (await super().launch(orders))[:1]

    async with opened(Short()) as (gateway, _):
        ends = await outcomes(gateway, ["a", "b"])
    faults = [end.fault for end in ends.values() if isinstance(end, ProviderError)]
    assert faults == [Fault.UNKNOWN]


async def test_a_caller_that_is_cancelled_takes_nobody_along() -> None:
    account = Account()
    async with opened(account) as (gateway, _), anyio.create_task_group() as tasks:
        impatient = anyio.CancelScope()

        async def gives_up() -> None:
            with impatient:
                await gateway.launch(order("a"))

        tasks.start_soon(gives_up)
        tasks.start_soon(outcomes, gateway, ["b"])
        await anyio.lowlevel.checkpoint()
        impatient.cancel()
        with anyio.fail_after(5):
            ends = await outcomes(gateway, ["c"])
    assert ends == {"c": Handle(provider="acme", ref="c")}
    assert {"b", "c"} <= set(account.machines)


async def test_launches_wait_for_the_gateway_to_run() -> None:
    account, ends = Account(), dict[str, Any]()
    gateway = Gateway(account, owner="o", listener=Heard(), now=anyio.current_time)
    async with anyio.create_task_group() as tasks:

        async def early() -> None:
            ends.update(await outcomes(gateway, ["a"]))
            tasks.cancel_scope.cancel()

        tasks.start_soon(early)
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(gateway.run)
    assert ends == {"a": Handle(provider="acme", ref="a")}


# --- other calls ----------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("what", ["find", "terminate", "open", "close"])
async def test_every_call_ends_in_time(what: str) -> None:
    account = Account()
    account.slow = True
    asked = ClusterOrder(cluster_id="c", owner="o", pool="p", region="r", public_key="k")
    async with opened(account) as (gateway, _):
        calls: dict[str, Callable[[], Any]] = {
            "find": lambda: gateway.find("a"),
            "terminate": lambda: gateway.terminate(Handle(provider="acme", ref="a")),
            "open": lambda: gateway.open_cluster(asked),
            "close": lambda: gateway.close_cluster(CLUSTER),
        }
        started = anyio.current_time()
        with pytest.raises(ProviderError, match="no answer") as caught:
            await calls[what]()
        assert caught.value.fault is Fault.UNKNOWN
        assert anyio.current_time() - started == CALL_TIMEOUT_S


async def test_a_refused_terminate_is_raised() -> None:
    account = Account()
    account.refusals["a"] = ProviderError(Fault.CREDENTIALS, "no")
    async with opened(account) as (gateway, _):
        await gateway.terminate(Handle(provider="acme", ref="b"))
        with pytest.raises(ProviderError, match="credentials"):
            await gateway.terminate(Handle(provider="acme", ref="a"))


# --- the rate of calls ----------------------------------------------------------------------------


@virtual
async def test_calls_keep_to_the_rate_and_terminates_go_first() -> None:
    limit, passed = RateLimit(0.5, 2, anyio.current_time), list[tuple[str, float]]()
    started = anyio.current_time()

    async def call(name: str, urgent: bool) -> None:
        await limit.take(urgent=urgent)
        passed.append((name, anyio.current_time() - started))

    async with anyio.create_task_group() as tasks:
        for i in range(5):
            tasks.start_soon(call, f"find {i}", False)
            await anyio.wait_all_tasks_blocked()
        for i in range(2):
            tasks.start_soon(call, f"terminate {i}", True)
            await anyio.wait_all_tasks_blocked()
    assert [name for name, _ in passed] == [
        "find 0",
        "find 1",
        "terminate 0",
        "terminate 1",
        "find 2",
        "find 3",
        "find 4",
    ]
    for (_, at), due in zip(passed, (0, 0, 2, 4, 6, 8, 10), strict=True):
        assert due <= at < due + 0.1


@virtual
async def test_a_waiting_call_that_is_cancelled_lets_the_next_one_through() -> None:
    limit, passed = RateLimit(1, 1, anyio.current_time), list[str]()

    async def call(name: str) -> None:
        await limit.take()
        passed.append(name)

    async with anyio.create_task_group() as tasks:
        await limit.take()
        impatient = anyio.CancelScope()

        async def gives_up() -> None:
            with impatient:
                await call("gives up")

        tasks.start_soon(gives_up)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(call, "next")
        await anyio.wait_all_tasks_blocked()
        impatient.cancel()
    assert passed == ["next"]
    assert anyio.current_time() < 3


@virtual
async def test_a_burst_is_saved_up_and_no_more() -> None:
    limit = RateLimit(10, 3, anyio.current_time)
    await anyio.sleep(1000)
    started = anyio.current_time()
    for _ in range(3):
        await limit.take()
    assert anyio.current_time() == started
    await limit.take()
    assert math.isclose(anyio.current_time() - started, 0.1, abs_tol=0.01)


# --- watching -------------------------------------------------------------------------------------


async def test_a_change_is_told_once() -> None:
    account = Account()
    account.machines = {"a": "pending", "stranger": "running"}
    async with opened(account, observe_every_s=0.01) as (gateway, heard):
        gateway.watch("a", "a", 0)
        await heard.until(lambda: bool(heard.of("seen")))
        told = len(heard.of("listed"))
        await heard.until(lambda: len(heard.of("listed")) > told + 5)
        account.machines["a"] = "running"
        await heard.until(lambda: len(heard.of("seen")) > 1)
        told = len(heard.of("listed"))
        await heard.until(lambda: len(heard.of("listed")) > told + 5)
    assert heard.of("seen") == [("a", "pending"), ("a", "running")]


@virtual
async def test_absence_needs_two_complete_listings_late_enough() -> None:
    account = Account()
    async with opened(account) as (gateway, heard):
        launched_at = anyio.current_time()
        gateway.watch("a", "a", launched_at)
        account.complete = False
        await anyio.sleep(VISIBLE_S * 3)  # however many incomplete ones: they prove nothing
        assert not heard.of("absent")
        account.complete = True
        before = len([whole for whole in heard.of("listed") if whole])
        await heard.until(lambda: bool(heard.of("absent")))
        whole = len([one for one in heard.of("listed") if one])
        assert whole - before == 2


@virtual
async def test_a_young_machine_may_be_missing() -> None:
    account = Account()
    async with opened(account, observe_every_s=5) as (gateway, heard):
        launched_at = anyio.current_time()
        gateway.watch("a", "a", launched_at)
        await heard.until(lambda: bool(heard.of("absent")))
        assert anyio.current_time() >= launched_at + VISIBLE_S
        assert len(heard.of("listed")) > 5


@virtual
async def test_one_that_is_seen_again_was_not_absent() -> None:
    account = Account()
    async with opened(account, observe_every_s=5) as (gateway, heard):
        gateway.watch("a", "a", anyio.current_time() - VISIBLE_S)
        await heard.until(lambda: bool(heard.of("listed")))
        account.machines["a"] = "running"
        await heard.until(lambda: bool(heard.of("seen")))
        del account.machines["a"]
        told = len(heard.of("listed"))
        await heard.until(lambda: bool(heard.of("absent")))
        assert len(heard.of("listed")) - told >= 2


@virtual
async def test_absence_is_told_again_until_nobody_watches() -> None:
    account = Account()
    async with opened(account, observe_every_s=5) as (gateway, heard):
        gateway.watch("a", "a", anyio.current_time() - VISIBLE_S)
        await heard.until(lambda: len(heard.of("absent")) == 3)
        gateway.unwatch("a")
        await anyio.sleep(100)
        assert len(heard.of("absent")) == 3


@virtual
async def test_a_machine_is_its_ref_and_not_its_key() -> None:
    account = Account()
    account.machines = {"a": "running"}
    account.refs["a"] = "twin"
    async with opened(account, observe_every_s=5) as (gateway, heard):
        gateway.watch("a", "mine", anyio.current_time() - VISIBLE_S)
        await heard.until(lambda: bool(heard.of("absent")))
        assert not heard.of("seen")
        gateway.watch("a", "twin", anyio.current_time())
        await heard.until(lambda: bool(heard.of("seen")))


@virtual
async def test_what_has_ended_by_the_vendors_word_is_gone_at_once() -> None:
    account = Account()
    account.machines = {"a": "running"}
    async with opened(account, observe_every_s=5) as (gateway, heard):
        gateway.watch("a", "a", anyio.current_time())
        await heard.until(lambda: bool(heard.of("seen")))
        account.ended["a"] = 7.0
        told = len(heard.of("listed"))
        await heard.until(lambda: bool(heard.of("absent")))
        assert len(heard.of("listed")) == told + 1
        assert heard.ends == [(7.0, True)]


@virtual
async def test_what_is_missing_ended_when_it_was_missing_first() -> None:
    account = Account()
    account.machines = {"a": "running"}
    async with opened(account, observe_every_s=5) as (gateway, heard):
        gateway.watch("a", "a", anyio.current_time() - VISIBLE_S)
        await heard.until(lambda: bool(heard.of("seen")))
        del account.machines["a"]
        left = anyio.current_time()
        await heard.until(lambda: bool(heard.of("absent")))
        ((ended_at, certain),) = heard.ends
        assert not certain
        assert left <= ended_at < anyio.current_time()  # the first of the two listings, not the second


@virtual
async def test_a_failed_listing_proves_nothing_and_the_next_comes() -> None:
    account = Account()
    failures = 0

    class Failing(Account):
        async def observe(self, owner: str) -> Listing:
            nonlocal failures
            failures += 1
            raise ProviderError(Fault.THROTTLED, "later")

    account = Failing()
    async with opened(account, observe_every_s=5) as (gateway, heard):
        gateway.watch("a", "a", anyio.current_time() - 1000)
        await anyio.sleep(100)
        assert failures >= 20
        assert not heard.of("absent")
        assert gateway.observed_at is None
        assert gateway.last_error is not None


@virtual
async def test_a_hurried_look_comes_soon_and_then_less_often() -> None:
    account = Account()
    async with opened(account, observe_every_s=60) as (gateway, heard):
        await anyio.sleep(1000)
        before = account.listings
        gateway.look()
        await anyio.sleep(2)
        soon = account.listings - before
        assert soon >= 2
        await anyio.sleep(300)
        assert account.listings - before < soon + 20
        told = len(heard.of("listed"))
        await anyio.sleep(600)
        assert len(heard.of("listed")) - told <= 11


# --- offers and notices ---------------------------------------------------------------------------


@virtual
async def test_offers_are_told_when_they_change_and_kept_when_a_refresh_fails() -> None:
    account = Account()
    account.failure = ProviderError(Fault.THROTTLED, "later")
    async with opened(account, offers_every_s=10) as (gateway, heard):
        await heard.until(lambda: bool(heard.of("offers")))
        await anyio.sleep(100)
        assert heard.of("offers") == ["acme"]
        account.prices = [2]
        await heard.until(lambda: len(heard.of("offers")) == 2)
        account.failure = ProviderError(Fault.UNKNOWN, "lost")
        await anyio.sleep(11)
        assert gateway.offers is not None
        assert [one.micro_usd_per_hour for one in gateway.offers] == [2]


@virtual
async def test_notices_of_watched_machines_are_passed_on() -> None:
    account = Account()
    notice = Notice(reason="spot")
    account.pushed = [("a", notice), ("stranger", notice), ("a", None)]
    heard = Heard()
    gateway = Gateway(account, owner="o", listener=heard, now=anyio.current_time)
    gateway.watch("a", "a", 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateway.run)
        await heard.until(lambda: len(heard.of("noticed")) == 2)
        tasks.cancel_scope.cancel()
    assert heard.of("noticed") == [("a", notice), ("a", None)]
