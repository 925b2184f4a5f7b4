"""The one door to an account, before an account that answers as it is told."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from providers.contract import AgentChannel
from providers.errors import Fault, ProviderError
from providers.gateway import (
    CALL_TIMEOUT_S,
    CHECK_TIMEOUT_S,
    LAUNCH_TIMEOUT_S,
    OFFERS_FRESH_S,
    REFUSED_S,
    SWEEP_TIMEOUT_S,
    Gateway,
)
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
LEFTOVER = Leftover(kind="disk", handle=Handle(provider="acme", ref="d"), key="o/p/0/1.1/1")
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

    def __init__(self, batch_max: int = 3, terminate_batch_max: int = 1) -> None:
        self.capabilities = Capabilities(
            spot=True,
            notice_s=None,
            launch_batch_max=batch_max,
            terminate_batch_max=terminate_batch_max,
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
        self.refreshed: list[float] = []  # when offers were asked for
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
        self.refreshed.append(anyio.current_time())
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
        await self._called("leftovers", owner)
        return Leftovers(found=(LEFTOVER,))

    async def remove(self, leftover: Leftover) -> None:
        await self._called("remove", leftover.handle.ref)

    async def check(self, owner: str) -> Sequence[Check]:
        await self._called("check", owner)
        return (Check(what="room", ok=True, detail="some"),)

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
@pytest.mark.parametrize(
    ("what", "within_s"),
    [
        ("find", CALL_TIMEOUT_S),
        ("terminate", CALL_TIMEOUT_S),
        ("open", CALL_TIMEOUT_S),
        ("close", CALL_TIMEOUT_S),
        ("leftovers", SWEEP_TIMEOUT_S),
        ("remove", CALL_TIMEOUT_S),
        ("check", CHECK_TIMEOUT_S),
    ],
)
async def test_every_call_ends_in_time(what: str, within_s: float) -> None:
    account = Account()
    account.slow = True
    asked = ClusterOrder(cluster_id="c", owner="o", pool="p", region="r", public_key="k")
    async with opened(account) as (gateway, _):
        calls: dict[str, Callable[[], Any]] = {
            "find": lambda: gateway.find("a"),
            "terminate": lambda: gateway.terminate(Handle(provider="acme", ref="a")),
            "open": lambda: gateway.open_cluster(asked),
            "close": lambda: gateway.close_cluster(CLUSTER),
            "leftovers": gateway.leftovers,
            "remove": lambda: gateway.remove(LEFTOVER),
            "check": gateway.check,
        }
        started = anyio.current_time()
        with pytest.raises(ProviderError, match="no answer") as caught:
            await calls[what]()
        assert caught.value.fault is Fault.UNKNOWN
        assert anyio.current_time() - started == within_s


async def test_a_refused_terminate_is_raised() -> None:
    account = Account()
    account.refusals["a"] = ProviderError(Fault.CREDENTIALS, "no")
    async with opened(account) as (gateway, _):
        await gateway.terminate(Handle(provider="acme", ref="b"))
        with pytest.raises(ProviderError, match="credentials"):
            await gateway.terminate(Handle(provider="acme", ref="a"))


async def ends(gateway: Gateway, refs: Sequence[str]) -> dict[str, ProviderError | None]:
    """Terminate all of them at once."""
    said: dict[str, ProviderError | None] = {}

    async def one(ref: str) -> None:
        try:
            await gateway.terminate(Handle(provider="acme", ref=ref))
            said[ref] = None
        except ProviderError as error:
            said[ref] = error

    async with anyio.create_task_group() as tasks:
        for ref in refs:
            tasks.start_soon(one, ref)
    return said


async def test_terminates_that_come_together_share_calls_and_each_gets_its_own_outcome() -> None:
    account = Account(terminate_batch_max=3)
    refusal = account.refusals["c"] = ProviderError(Fault.THROTTLED, "no")
    async with opened(account) as (gateway, _):
        said = await ends(gateway, "abcde")
    assert sorted(len(refs) for refs in account.calls("terminate")) == [2, 3]
    assert sorted(sum(account.calls("terminate"), [])) == list("abcde")
    assert said == {"a": None, "b": None, "c": refusal, "d": None, "e": None}


async def test_a_terminate_call_that_fails_fails_for_its_whole_batch_and_no_other() -> None:
    account = Account(terminate_batch_max=2)
    async with opened(account) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None)
        account.failure = ProviderError(Fault.CREDENTIALS, "no")
        said = await ends(gateway, "abcd")
    first, second = account.calls("terminate")
    failed = {ref for ref, error in said.items() if error is not None}
    assert failed in (set(first), set(second)) and len(failed) == 2
    assert {error.fault for error in said.values() if error is not None} == {Fault.CREDENTIALS}


async def test_where_each_is_ended_by_itself_a_terminate_waits_for_no_other() -> None:
    account = Account()
    gateway = Gateway(account, owner="o", listener=Heard(), now=anyio.current_time)
    await gateway.terminate(Handle(provider="acme", ref="a"))  # also while the gateway does not run yet
    assert account.calls("terminate") == [["a"]]


@virtual
async def test_terminates_in_batches_go_before_other_calls() -> None:
    account = Account(terminate_batch_max=100)
    async with opened(account, calls_per_s=0.1, calls_burst=1) as (gateway, _):
        await anyio.sleep(0.1)  # the first listing and the first offers have the tokens there are
        async with anyio.create_task_group() as tasks:
            for i in range(3):
                tasks.start_soon(gateway.find, f"f{i}")
            await anyio.sleep(1)
            for i in range(50):
                tasks.start_soon(gateway.terminate, Handle(provider="acme", ref=f"t{i}"))
    kinds = [what for what, _ in account.asked]
    assert kinds == ["terminate", "find", "find", "find"]
    assert len(account.calls("terminate")[0]) == 50


async def test_leftovers_and_checks_are_asked_for_the_owner() -> None:
    account = Account()
    async with opened(account) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None)
        assert (await gateway.leftovers()).found == (LEFTOVER,)
        await gateway.remove(LEFTOVER)
        assert [check.what for check in await gateway.check()] == ["room"]
        account.failure = ProviderError(Fault.CONFLICT, "in use")
        with pytest.raises(ProviderError, match="in use"):
            await gateway.remove(LEFTOVER)
    assert account.asked == [("leftovers", "o"), ("remove", "d"), ("check", "o"), ("remove", "d")]


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
        await heard.until(lambda: gateway.trouble is not None)
        assert gateway.trouble is not None and "later" in gateway.trouble
        await heard.until(lambda: gateway.offers is not None)
        assert gateway.trouble is None
        await anyio.sleep(5)
        told = len(heard.of("offers"))
        await anyio.sleep(100)
        assert len(heard.of("offers")) == told
        account.prices = [2]
        await heard.until(lambda: len(heard.of("offers")) == told + 1)
        account.failure = ProviderError(Fault.UNKNOWN, "lost")
        await anyio.sleep(11)
        assert gateway.offers is not None
        assert [one.micro_usd_per_hour for one in gateway.offers] == [2]


@virtual
async def test_who_wants_offers_now_hears_when_they_came_though_they_are_as_before() -> None:
    account = Account()
    async with opened(account, offers_every_s=300) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None)
        first, told = gateway.offers_at, len(heard.of("offers"))
        await anyio.sleep(OFFERS_FRESH_S + 1)
        for _ in range(3):  # together they are one call
            gateway.refresh_offers()
        assert len(heard.of("offers")) == told
        await heard.until(lambda: len(heard.of("offers")) > told)
        assert first is not None and gateway.offers_at == first + OFFERS_FRESH_S + 1
        await anyio.sleep(290)
        assert (len(account.refreshed), len(heard.of("offers"))) == (2, told + 1)
        await anyio.sleep(20)  # and every so often, as before; nobody waited for these
        assert (len(account.refreshed), len(heard.of("offers"))) == (3, told + 1)


@virtual
async def test_fresh_offers_are_not_asked_for_again() -> None:
    account = Account()
    async with opened(account) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None)
        told = len(heard.of("offers"))
        gateway.refresh_offers()
        assert len(heard.of("offers")) == told + 1, "who asked need not wait"
        await anyio.sleep(OFFERS_FRESH_S - 1)
        assert len(account.refreshed) == 1


@virtual
async def test_offers_that_are_on_their_way_are_not_asked_for_twice() -> None:
    class Slow(Account):
        async def offers(self) -> Sequence[Offer]:
            offers = await super().offers()
            await anyio.sleep(20)
            return offers

    account = Slow()
    async with opened(account) as (gateway, heard):
        await anyio.sleep(10)
        gateway.refresh_offers()
        await heard.until(lambda: gateway.offers is not None)
        await anyio.sleep(100)
        assert len(account.refreshed) == 1
        assert len(heard.of("offers")) == 1


@virtual
async def test_a_provider_that_asks_us_to_wait_is_not_asked_for_offers_before() -> None:
    account = Account()
    async with opened(account, offers_every_s=100) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None)
        account.failure = ProviderError(Fault.THROTTLED, "later", retry_after_s=40)
        await anyio.sleep(20)
        told = len(heard.of("offers"))
        for _ in range(20):
            gateway.refresh_offers()
            await anyio.sleep(1)
        assert len(account.refreshed) == 2
        await heard.until(lambda: len(heard.of("offers")) > told)
        assert account.refreshed[2] - account.refreshed[1] == pytest.approx(40)


@virtual
@pytest.mark.parametrize(
    ("failure", "again_after_s"),
    [
        (ProviderError(Fault.UNKNOWN, "lost"), 1),
        (ProviderError(Fault.THROTTLED, "later", retry_after_s=40), 40),
        (ProviderError(Fault.CREDENTIALS, "who are you"), 300),
        (ProviderError(Fault.FUNDS, "pay first"), 300),
        (ProviderError(Fault.QUOTA, "no more searches today", retry_after_s=1800), 1800),
    ],
    ids=lambda value: value.fault.value if isinstance(value, ProviderError) else "",
)
async def test_offers_are_asked_for_again_when_there_is_a_hope(
    failure: ProviderError, again_after_s: float
) -> None:
    account = Account()
    account.failure = failure
    async with opened(account, offers_every_s=300) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None)
    first, second = account.refreshed
    assert second - first == pytest.approx(again_after_s)


@virtual
async def test_a_provider_that_asks_us_to_wait_is_not_listed_before() -> None:
    class Busy(Account):
        async def observe(self, owner: str) -> Listing:
            self.times.append(anyio.current_time())
            raise ProviderError(Fault.THROTTLED, "later", retry_after_s=90)

    account = Busy()
    async with opened(account, observe_every_s=5) as (gateway, _):
        for _ in range(100):
            await anyio.sleep(5)
            gateway.look()  # a hurry of ours does not move it
    waits = [after - before for before, after in pairwise(account.times)]
    assert len(waits) >= 4 and min(waits) >= 90


@virtual
async def test_a_provider_that_does_not_list_is_in_trouble_until_it_does() -> None:
    class Down(Account):
        failing = False

        async def observe(self, owner: str) -> Listing:
            if self.failing:
                raise ProviderError(Fault.NOT_SENT, "refused")
            return await super().observe(owner)

    account = Down()
    async with opened(account, observe_every_s=5) as (gateway, heard):
        await heard.until(lambda: gateway.observed_at is not None and gateway.offers is not None)
        assert gateway.trouble is None
        account.failing, before = True, len(heard.of("offers"))
        await heard.until(lambda: len(heard.of("offers")) > before)
        assert gateway.trouble is not None and "refused" in gateway.trouble
        account.failing = False
        await heard.until(lambda: len(heard.of("offers")) > before + 1)
        assert gateway.trouble is None


@virtual
async def test_one_failed_listing_is_no_trouble_and_is_made_again_soon() -> None:
    class Hiccup(Account):
        async def observe(self, owner: str) -> Listing:
            self.times.append(anyio.current_time())
            if len(self.times) == 2:
                raise ProviderError(Fault.UNKNOWN, "cut off")
            return await super().observe(owner)

    account = Hiccup()
    async with opened(account, observe_every_s=60) as (gateway, _):
        await anyio.sleep(70)
        assert gateway.trouble is None
    assert account.times[2] - account.times[1] == pytest.approx(1.0)


@virtual
async def test_an_account_that_is_refused_buys_nothing_for_a_while() -> None:
    account = Account()
    account.refusals["a"] = ProviderError(Fault.FUNDS, "pay first")
    async with opened(account, observe_every_s=5) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None)
        before = len(heard.of("offers"))
        with pytest.raises(ProviderError, match="pay first"):
            await gateway.launch(order("a"))
        assert gateway.trouble is not None and "pay first" in gateway.trouble
        assert len(heard.of("offers")) == before + 1
        await anyio.sleep(REFUSED_S + 10)
        assert gateway.trouble is None
        assert len(heard.of("offers")) == before + 2


@virtual
async def test_an_absence_is_believed_where_the_listing_was_whole_and_nowhere_else() -> None:
    class Parts(Account):
        async def observe(self, owner: str) -> Listing:
            whole = await super().observe(owner)
            return whole.model_copy(
                update={"complete": False, "unreachable": ("eu",), "scopes": ("us", "us-a")}
            )

    account = Parts()
    async with opened(account, observe_every_s=5) as (gateway, heard):
        gateway.watch("there", "there", -VISIBLE_S, "us", "us-b")
        gateway.watch("zonal", "zonal", -VISIBLE_S, "", "us-a")
        gateway.watch("dark", "dark", -VISIBLE_S, "eu", "eu-a")
        gateway.watch("left", "left", -VISIBLE_S, "ap", "ap-a")  # no region of the config any more
        gateway.watch("unknown", "unknown", -VISIBLE_S)
        await anyio.sleep(60)
    assert set(heard.of("absent")) == {"there", "zonal"}


@virtual
async def test_there_are_never_more_machines_than_may_be() -> None:
    account = Account(batch_max=1)  # machines_max is 10
    async with opened(account, observe_every_s=5) as (gateway, heard):
        await heard.until(lambda: gateway.offers is not None)
        outcomes, refusals = list[bool](), list[str]()

        async def launch(key: str) -> None:
            try:
                await gateway.launch(order(key))
            except ProviderError as error:
                refusals.append(str(error))
                outcomes.append(False)
            else:
                outcomes.append(True)

        async with anyio.create_task_group() as launching:
            for number in range(14):
                launching.start_soon(launch, f"k{number}")
        assert (outcomes.count(True), len(account.machines)) == (10, 10)
        assert set(refusals) == {"quota: machines_max of acme is reached: 10"}
        first = next(iter(account.machines))
        gateway.watch(first, first, 0)
        await launch("one more")
        assert not outcomes[-1]
        gateway.unwatch(first)
        await launch("in its place")
        assert outcomes[-1]
        await anyio.sleep(90)  # nobody watches the others: they are the sweep's
        await launch("much later")
        assert outcomes[-1]


@virtual
async def test_each_region_has_its_own_call() -> None:
    account = Account(batch_max=5)
    async with opened(account, observe_every_s=5) as (gateway, _):
        async with anyio.create_task_group() as launching:
            for number in range(6):
                one = order(f"k{number}")
                region = OFFER.model_copy(update={"region": "eu" if number % 2 else "us"})
                launching.start_soon(gateway.launch, one.model_copy(update={"offer": region}))
    assert sorted(len(keys) for keys in account.calls("launch")) == [3, 3]


@virtual
async def test_one_market_that_refuses_our_credentials_closes_no_other() -> None:
    account = Account()
    account.refusals["a"] = ProviderError(Fault.CREDENTIALS, "not this image")
    account.refusals["b"] = ProviderError(Fault.CREDENTIALS, "who are you")
    elsewhere = order("b").model_copy(update={"offer": OFFER.model_copy(update={"zone": "z"})})
    async with opened(account, observe_every_s=5) as (gateway, _):
        for _ in range(3):
            with pytest.raises(ProviderError, match="not this image"):
                await gateway.launch(order("a"))
        assert gateway.trouble is None
        with pytest.raises(ProviderError, match="who are you"):
            await gateway.launch(elsewhere)
        assert gateway.trouble is not None


@virtual
async def test_a_push_of_notices_that_fails_is_told_until_it_runs() -> None:
    class Mute(Account):
        failing = True

        async def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
            if self.failing:
                raise ProviderError(Fault.CREDENTIALS, "no such queue")
            yield "stranger", None
            await anyio.sleep_forever()

    account = Mute()
    async with opened(account, observe_every_s=5) as (gateway, _):
        await anyio.sleep(60)
        assert gateway.notices_error is not None and "no such queue" in gateway.notices_error
        account.failing = False
        await anyio.sleep(15)
        assert gateway.notices_error is None


@virtual
async def test_a_provider_that_wants_few_listings_gets_few() -> None:
    account = Account()
    account.capabilities = account.capabilities.model_copy(update={"observe_every_s": 30.0})
    async with opened(account, observe_every_s=5):
        await anyio.sleep(301)
    assert account.listings <= 12


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
