"""Prices and capacities over time: traces, walks, and what a bad trace is answered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from providers.errors import Fault, ProviderError
from providers.model import Notice
from providers.simulated.config import Delay, SimulatedConfig, SimulatedOffer
from providers.simulated.series import Trace, Walk, course_of
from tests.providers.simulated.harness import QUICK, SimulatedHarness, cloud_of, faults_of

pytestmark = pytest.mark.anyio
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a trace file as those of the public data set are."""

    def written(*data: Any, gap_s: Any = 60) -> Path:
        path = tmp_path / "us-west-2a_v100_1.json"
        path.write_text(json.dumps({"metadata": {"gap_seconds": gap_s}, "data": list(data)}))
        return path

    return written


def only(**offer: Any) -> SimulatedConfig:
    """A cloud with this offer and no other, in which calls take no time."""
    return SimulatedConfig(
        offers=(SimulatedOffer.model_validate(offer),),
        call_delay=QUICK.call_delay,
        boot_delay=QUICK.boot_delay,
        end_delay=QUICK.end_delay,
        visible_within_s=0,
        notice_s=30,
    )


async def prices(here: SimulatedHarness) -> tuple[float | None, int]:
    offer = (await here.provider.offers())[0]
    return offer.spot_price, offer.micro_usd_per_hour


# --- series -------------------------------------------------------------------------------------


def test_a_sample_holds_until_the_next_and_the_trace_starts_over(write: Write) -> None:
    course = course_of(Trace(path=write(1, 4, 4, 0), scale=0.5), "seed")
    assert [course.at(age) for age in (0, 59.9, 60, 179.9, 180, 239.9, 240, 300)] == [
        0.5, 0.5, 2, 2, 0, 0, 0.5, 2,
    ]  # fmt: skip
    assert [course.next_change_s(age) for age in (0, 60, 130, 180, 240)] == [60, 180, 180, 240, 300]


def test_a_trace_may_begin_in_its_middle(write: Write) -> None:
    course = course_of(Trace(path=write(1, 4, 0), from_s=90), "seed")
    assert [course.at(age) for age in (0, 29.9, 30, 90, 150)] == [4, 4, 0, 1, 4]
    assert course.next_change_s(0) == 30


def test_what_never_changes_has_no_next_change(write: Write) -> None:
    assert course_of(Trace(path=write(3, 3)), "seed").next_change_s(0) is None
    assert course_of(3, "seed").next_change_s(0) is None
    assert course_of(Walk(least=2, most=2, every_s=10, step=1), "seed").next_change_s(0) is None


def test_a_walk_is_the_same_by_seed_stays_in_bounds_and_moves_by_steps() -> None:
    walk = Walk(least=0.2, most=0.5, every_s=60, step=0.05)
    course, again, other = (course_of(walk, seed) for seed in ("1", "1", "2"))
    values = [course.at(age) for age in range(0, 86_400, 20)]
    assert values == [again.at(age) for age in range(0, 86_400, 20)]
    assert values != [other.at(age) for age in range(0, 86_400, 20)]
    assert min(values) >= 0.2
    assert max(values) <= 0.5
    assert len(set(values)) > 1000
    assert all(abs(after - before) <= 0.05 + 1e-9 for before, after in zip(values, values[1:], strict=False))
    assert values[0] == values[1] == values[2] != values[3]


def test_a_walk_does_not_depend_on_when_it_is_looked_at() -> None:
    walk = Walk(least=0, most=100, every_s=60, step=10)
    often, seldom = course_of(walk, "1"), course_of(walk, "1")
    for age in range(0, 6000, 7):
        often.at(age)
    assert often.at(6000) == seldom.at(6000)


# --- bad ones -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1, 2]", "lacks metadata.gap_seconds, a number above 0"),
        ('{"data": [1]}', "lacks metadata.gap_seconds"),
        ('{"metadata": {"gap_seconds": 0}, "data": [1]}', "lacks metadata.gap_seconds"),
        ('{"metadata": {"gap_seconds": "60"}, "data": [1]}', "lacks metadata.gap_seconds"),
        ('{"metadata": {"gap_seconds": 60}}', "lacks data, a list"),
        ('{"metadata": {"gap_seconds": 60}, "data": []}', "lacks data, a list of one or more"),
        ('{"metadata": {"gap_seconds": 60}, "data": {"a": 1}}', "lacks data, a list"),
        ('{"metadata": {"gap_seconds": 60}, "data": [1, 2, -1]}', r"data\[2\] is no number of 0 or more"),
        ('{"metadata": {"gap_seconds": 60}, "data": [1, null]}', r"data\[1\] is no number"),
        ('{"metadata": {"gap_seconds": 60}, "data": [NaN]}', r"data\[0\] is no number"),
        ('{"metadata": {"gap_seconds": 60}, "data": [true]}', r"data\[0\] is no number"),
    ],
)
def test_a_bad_trace_is_told_when_the_config_is_read(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(ValidationError, match=complaint) as caught:
        SimulatedConfig.model_validate({"offers": [{"spot": 1, "capacity": {"path": str(path)}}]})
    assert [error["loc"] for error in caught.value.errors()] == [("offers", 0, "capacity", "trace")]
    assert str(path) in str(caught.value)


def test_a_trace_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path, complaint in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValidationError, match=f"can't be read: {complaint}"):
            Trace(path=path)


@pytest.mark.parametrize(
    ("offer", "complaint"),
    [
        ({"spot": {"least": 2, "most": 1, "every_s": 60, "step": 1}}, "least=2 exceeds most=1"),
        ({"spot": {"least": -1, "most": 1, "every_s": 60, "step": 1}}, "greater than or equal to 0"),
        ({"spot": {"least": 0, "most": 1, "every_s": 0, "step": 1}}, "greater than or equal to 1"),
        ({"spot": {"least": 0, "most": 1, "every": 60, "step": 1}}, "every_s\n  Field required"),
        ({"spot": -1}, "greater than or equal to 0"),
        ({"spot": 1, "capacity": -1}, "greater than or equal to 0"),
        ({"spot": 1, "capacity": 1.5}, "valid integer"),
        ({"spot": "cheap"}, "valid number"),
    ],
)
def test_a_bad_series_names_what_is_wrong_with_it(offer: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint) as caught:
        SimulatedOffer.model_validate(offer)
    assert len({error["loc"][:2] for error in caught.value.errors()}) == 1


def test_unlimited_is_no_price(write: Write) -> None:
    with pytest.raises(ValidationError, match="unlimited is for capacity"):
        SimulatedOffer(spot=Trace(path=write(1), unlimited=True))


def test_an_incident_needs_a_zone_that_is_there() -> None:
    with pytest.raises(ValidationError, match="zone 'nowhere', where nothing is sold"):
        SimulatedConfig.model_validate({"incidents": [{"at_s": 1, "what": "dark", "zone": "nowhere"}]})
    with pytest.raises(ValidationError, match="Input should be 'preempt'"):
        SimulatedConfig.model_validate({"incidents": [{"at_s": 1, "what": "flood"}]})


# --- prices -------------------------------------------------------------------------------------


async def test_offers_show_the_price_of_the_moment_and_machines_keep_theirs(write: Write) -> None:
    async with cloud_of(only(spot=Trace(path=write(1, 2), scale=0.36), on_demand=4)) as here:
        offer = (await here.provider.offers())[0]
        assert await prices(here) == (0.36, 360_000)
        [early] = faults_of(await here.provider.launch([here.order(0, offer)]))
        assert early == ""
        await anyio.sleep(60)
        assert await prices(here) == (0.72, 720_000)
        await here.provider.launch([here.order(1, offer)])  # by an offer that is old
        seen = sorted(one.micro_usd_per_hour for one in (await here.listed()).values())
        assert seen == [360_000, 720_000]
        await anyio.sleep(60.5)
        # 120.5 s at 100 micro-dollars a second, and 60.5 at 200: each to the begun second
        assert here.cloud.billed_micro_usd() == 121 * 100 + 61 * 200
        by_machine = [one.billed_micro_usd(here.cloud.timeline.now()) for one in here.cloud.machines.values()]
        assert by_machine == [12_100, 12_200]
        await here.provider.terminate([one.handle for one in (await here.listed()).values()])
        await anyio.sleep(1000)
        assert here.cloud.billed_micro_usd() == 121 * 100 + 61 * 200


async def test_what_is_billed_lies_between_the_times_that_are_shown() -> None:
    config = only(spot=0.36).model_copy(
        update={"shows_ended_s": 3600.0, "end_delay": Delay(least_s=1, more_s=9, most_s=60)}
    )
    async with cloud_of(config) as here:
        machines = await here.launched(20)
        await here.provider.terminate([here.cloud.handle(one) for one in machines])
        await anyio.sleep(100)
        seen = await here.listed()
        assert len(seen) == 20
        for machine in machines:
            shown = seen[machine.ref]
            assert shown.ended_at is not None
            seconds = shown.ended_at - shown.launched_at
            assert machine.billed_micro_usd(here.cloud.timeline.now()) == 100 * (int(seconds) + 1)


# --- capacity -----------------------------------------------------------------------------------


async def test_capacity_that_falls_takes_the_surplus_back_after_a_notice(write: Write) -> None:
    async with cloud_of(only(spot=1, on_demand=2, capacity=Trace(path=write(5, 2, 5)))) as here:
        offer = (await here.provider.offers())[0]
        outcomes = await here.provider.launch([here.order(node, offer) for node in range(6)])
        assert faults_of(outcomes) == ["", "", "", "", "", "capacity"]
        await anyio.sleep(61)
        noticed = [ref for ref, one in (await here.listed()).items() if one.notice is not None]
        assert len(noticed) == 3
        [refused] = await here.provider.launch([here.order(7, offer)])
        assert isinstance(refused, ProviderError)
        assert refused.fault is Fault.CAPACITY
        await anyio.sleep(30)
        left = await here.listed()
        assert len(left) == 2
        assert not set(left) & set(noticed)
        assert sum("preempted" in text for text in here.witness.seen) == 3
        await anyio.sleep(30)
        outcomes = await here.provider.launch([here.order(node, offer) for node in range(10, 14)])
        assert faults_of(outcomes) == ["", "", "", "capacity"]


async def test_without_notices_the_surplus_goes_at_once_and_not_the_youngest(write: Write) -> None:
    victims = set()
    for seed in range(8):
        config = only(spot=1, capacity=Trace(path=write(3, 2)))
        config = config.model_copy(update={"notice_s": None, "seed": seed})
        async with cloud_of(config) as here:
            await here.launched(3)
            await anyio.sleep(59.5)
            assert len(here.cloud.living) == 2
            victims |= set(here.cloud.machines) - set(here.cloud.living)
    assert victims == {"sim-000001", "sim-000002", "sim-000003"}


async def test_capacity_over_time_is_that_of_spot(write: Write) -> None:
    async with cloud_of(only(spot=1, on_demand=2, capacity=Trace(path=write(0, 1)))) as here:
        spot, on_demand = await here.provider.offers()
        orders = [here.order(0, spot), here.order(1, on_demand), here.order(2, on_demand)]
        assert faults_of(await here.provider.launch(orders)) == ["capacity", "", ""]


async def test_available_or_not_is_read_as_any_number(write: Write) -> None:
    trace = Trace(path=write(1, 0, gap_s=600), unlimited=True)
    async with cloud_of(only(spot=1, capacity=trace)) as here:
        assert len(await here.launched(50)) == 50
        await anyio.sleep(600)
        shown = (await here.listed()).values()
        assert all(isinstance(one.notice, Notice) for one in shown)
        await anyio.sleep(31)
        assert not here.cloud.living


async def test_an_empty_threat_comes_true_when_capacity_falls(write: Write) -> None:
    async with cloud_of(only(spot=1, capacity=Trace(path=write(1, 0)))) as here:
        [machine] = await here.launched()
        here.cloud.preempt(machine, 10, kill=False)
        await anyio.sleep(60)
        assert machine.ended_at is None
        await anyio.sleep(30)
        assert machine.ended_at is not None
