"""Whole runs: the daemon's own actors, against what can be said by hand."""

import json
from pathlib import Path

import pytest

from actors.spec import HealthCheck, Image, PoolSpec, Step
from controller.simulation.resting import RestingProvider
from controller.simulation.trial import Load, Report, Scenario, Scripted, Trial, unhurried
from providers.model import Listing
from providers.simulated.config import Delay, Faults, SimulatedConfig, SimulatedOffer
from providers.simulated.series import Trace

HOUR_S = 3600.0
DAY_S = 86_400.0
ZERO = Delay(most_s=0)
MINUTE = Delay(least_s=60, most_s=60)


def exact(*offers: SimulatedOffer, **keys: object) -> SimulatedConfig:
    """A cloud without chance: calls take no time and a boot a minute."""
    settings = {
        "offers": offers or (SimulatedOffer(spot=0.36, on_demand=1.08),),
        "call_delay": ZERO,
        "boot_delay": MINUTE,
        "end_delay": ZERO,
        "visible_within_s": 0,
        "notice_s": None,
    }
    return SimulatedConfig.model_validate(settings | keys)


def spec(nodes: int, **keys: object) -> PoolSpec:
    return PoolSpec.model_validate({"provider": "sim", "nodes": nodes, **keys})


def report_of(pool: PoolSpec, config: SimulatedConfig, seconds: float, **keys: object) -> Report:
    scenario = {"pools": {"p": pool}, "providers": {"sim": config}, "seconds": seconds} | keys
    return Trial(Scenario(**scenario)).run()  # type: ignore[arg-type]


def test_a_quiet_day_costs_nodes_times_price_times_time_to_the_second() -> None:
    report = report_of(spec(3), exact(), DAY_S)
    pool = report.pools[0]
    # 0.36 dollars an hour are 100 micro-dollars a second; a begun second counts whole.
    assert pool.cost_micro_usd == 3 * 100 * 86_400
    assert pool.on_demand_micro_usd == 3 * 300 * 86_400
    assert pool.cost_percent_of_on_demand == round(100 / 3, 3)
    assert (pool.preemptions, pool.launches, pool.launches_refused, pool.whole_again.count) == (0, 3, 0, 0)
    assert pool.whole_first_after_s is not None
    assert 60 <= pool.whole_first_after_s <= 66  # a boot, and at most an interval until it is seen
    assert pool.availability == (DAY_S - pool.whole_first_after_s) / DAY_S
    assert pool.below_min_share == pytest.approx(1 - pool.availability) and pool.is_whole_at_end
    assert (report.bugs, report.seconds, pool.machine_hours_spot) == ((), DAY_S, 72)


def test_a_preemption_without_a_word_costs_one_boot_of_availability() -> None:
    scripts = {"sim": [Scripted(after_s=HOUR_S, machines=(1,))]}
    pool = report_of(spec(2, allocation="spot"), exact(), DAY_S, scripts=scripts).pools[0]
    assert (pool.preemptions, pool.launches, pool.launches_per_loss) == (1, 3, 1)
    assert pool.whole_again.count == 1 and pool.whole_again.max_s is not None
    assert 60 <= pool.whole_again.max_s <= 66
    assert pool.whole_first_after_s is not None and pool.availability is not None
    short_s = pool.whole_first_after_s + pool.whole_again.max_s
    assert pool.availability == pytest.approx(1 - short_s / DAY_S, abs=1e-12)
    paid_s = round(
        pool.cost_micro_usd / 100
    )  # one machine for an hour, one all day, one from soon after the loss
    assert 0 <= HOUR_S + DAY_S + (DAY_S - HOUR_S) - paid_s <= 6


def test_a_notice_that_is_longer_than_a_boot_costs_no_availability() -> None:
    scripts = {"sim": [Scripted(after_s=HOUR_S, machines=(1,), within_s=120)]}
    pool = report_of(spec(2, allocation="spot"), exact(), DAY_S, scripts=scripts).pools[0]
    assert (pool.preemptions, pool.launches, pool.whole_again.count) == (1, 3, 0)


def test_a_notice_that_is_withdrawn_is_no_preemption() -> None:
    scripts = {"sim": [Scripted(after_s=HOUR_S, machines=(1,), within_s=120, withdraw_after_s=5)]}
    pool = report_of(spec(2), exact(), DAY_S, scripts=scripts).pools[0]
    assert (pool.preemptions, pool.whole_again.count) == (0, 0)


def test_a_trace_takes_machines_and_gives_them_back(tmp_path: Path) -> None:
    file = tmp_path / "z-a_t_1.json"
    file.write_text(json.dumps({"metadata": {"gap_seconds": HOUR_S}, "data": [2, 2, 1, 0, 0, 2]}))
    offer = SimulatedOffer(zone="z-a", spot=0.36, on_demand=1.08, capacity=Trace(path=file))
    only_spot = report_of(spec(2, allocation="spot"), exact(offer), 6 * HOUR_S).pools[0]
    assert only_spot.preemptions == 2  # one at two hours, the other at three
    assert only_spot.ready_share is not None and only_spot.whole_first_after_s is not None
    lost = (only_spot.whole_first_after_s * 2 + HOUR_S + 2 * 2 * HOUR_S) / (12 * HOUR_S)
    again = 2 * 900 / (12 * HOUR_S)  # at most, until a market is tried again
    assert lost - 0.01 <= 1 - only_spot.ready_share <= lost + again + 0.01
    assert only_spot.launches_refused > 0
    both = report_of(spec(2), exact(offer), 6 * HOUR_S).pools[0]
    assert both.availability is not None and both.availability > 0.98
    assert both.machine_hours_on_demand > 0


def test_the_same_seed_has_the_same_figures_and_another_has_others() -> None:
    config = SimulatedConfig(preemptions_per_hour=0.2)
    first, again = (report_of(spec(2), config, DAY_S, seed=7) for _ in range(2))
    assert first == again
    other = report_of(spec(2), config.model_copy(update={"seed": 1}), DAY_S, seed=8)
    assert other.journal_sha256 != first.journal_sha256


def test_nothing_is_noticed_later_because_listings_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    config = exact(preemptions_per_hour=0.5, boot_delay=Delay(least_s=180, most_s=180))
    rested = report_of(spec(1, allocation="spot"), config, DAY_S).pools[
        0
    ]  # of one node: no two losses overlap
    monkeypatch.setattr(RestingProvider, "_is_at_rest", lambda self: False)
    restless = report_of(spec(1, allocation="spot"), config, DAY_S).pools[0]
    assert (
        rested.preemptions > 5 and restless.preemptions > 5
    )  # luck differs: calls are drawn in another order
    assert rested.whole_again.median_s == pytest.approx(restless.whole_again.median_s, abs=3)
    assert rested.whole_first_after_s == pytest.approx(restless.whole_first_after_s, abs=3)


def test_listings_rest() -> None:
    """An hour of the daemon's interval would be 720 listings."""
    asked = []

    class Counting(RestingProvider):
        async def observe(self, owner: str) -> Listing:
            asked.append(owner)
            return await super().observe(owner)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("controller.simulation.trial.RestingProvider", Counting)
        report_of(spec(1), exact(), HOUR_S)
    assert len(asked) < 150


def test_tasks_are_done_and_attempts_are_lost() -> None:
    scripts = {"sim": [Scripted(after_s=HOUR_S, machines=(1,))]}
    load = Load(tasks=10, seconds=1800)
    pool = report_of(spec(2, allocation="spot"), exact(), 4 * HOUR_S, scripts=scripts, load=load).pools[0]
    assert pool.tasks is not None
    assert (pool.tasks.asked, pool.tasks.done, pool.tasks.failed, pool.tasks.attempts_lost) == (10, 10, 0, 1)
    # Eleven attempts on two machines, one of them cut short two minutes before its end.
    assert pool.tasks.all_done_after_s == pytest.approx(6 * 1800, abs=2 * 65)


def test_tasks_that_are_not_over_have_no_end() -> None:
    pool = report_of(spec(1), exact(), HOUR_S, load=Load(tasks=3, seconds=1800)).pools[0]
    assert pool.tasks is not None
    assert (pool.tasks.done, pool.tasks.all_done_after_s) == (1, None)


def test_a_pool_that_can_never_be_filled_says_why() -> None:
    pool = report_of(spec(2, vcpus=64), exact(), HOUR_S).pools[0]
    assert (pool.availability, pool.ready_share, pool.below_min_share) == (0, 0, 1)
    assert (pool.launches, pool.whole_first_after_s, pool.on_demand_usd) == (0, None, None)
    assert pool.why_short is not None and "vcpus" in pool.why_short
    none = exact(SimulatedOffer(spot=0.1, capacity=0))
    assert "capacity" in (report_of(spec(1), none, HOUR_S).pools[0].why_short or "")
    broken = Image(steps=(Step(phase="x", run="sim-sleep 1 3"),))
    parked = report_of(spec(1).model_copy(update={"image": broken}), exact(), DAY_S).pools[0]
    assert (parked.why_short or "").startswith("parked: ")


def test_an_empty_pool_has_no_availability() -> None:
    pool = report_of(spec(0), exact(), HOUR_S).pools[0]
    assert (pool.availability, pool.ready_share, pool.cost_micro_usd, pool.is_whole_at_end) == (
        None,
        None,
        0,
        True,
    )


def test_pools_share_what_is_sold() -> None:
    narrow = exact(SimulatedOffer(spot=0.36, capacity=3))
    scenario = Scenario(pools={"a": spec(2), "b": spec(2)}, providers={"sim": narrow}, seconds=HOUR_S)
    report = Trial(scenario).run()
    assert sorted(pool.is_whole_at_end for pool in report.pools) == [False, True]
    assert sum(pool.cost_micro_usd for pool in report.pools) <= 3 * 100 * 3600


def test_a_run_can_be_stopped_with_the_figures_so_far() -> None:
    scenario = Scenario(pools={"p": spec(1)}, providers={"sim": exact()}, seconds=3660 * DAY_S)

    def look(seconds: float) -> None:
        if seconds > 1:
            trial.stop()

    trial = Trial(scenario, look)
    report = trial.run()
    assert 1 < report.seconds < DAY_S and report.asked_seconds == 3660 * DAY_S
    assert report.pools[0].launches == 1 and trial.courses["p"].seconds == report.seconds
    early = Trial(scenario)
    early.stop()
    assert early.run().seconds == 0


def test_checks_that_pass_are_left_out_and_those_that_fail_are_not() -> None:
    passes = spec(1, health=HealthCheck(run="test -w /"))
    assert unhurried(passes).health is None
    fails = spec(1, health=HealthCheck(run="sim-sleep 1 1"))
    assert unhurried(fails).health == fails.health


def test_a_cloud_with_faults_runs_as_its_config_says() -> None:
    faults = Faults(launch_unknown_made=0.2, terminate_ignored=0.2, listing_incomplete=0.1, cuts_per_hour=0.5)
    report = report_of(spec(3), SimulatedConfig(preemptions_per_hour=0.5, faults=faults), DAY_S)
    assert report.bugs == () and report.pools[0].preemptions > 10
    assert (report.pools[0].availability or 0) > 0.9
