"""Days of a pool on a virtual clock: what its owner sees when markets close, turn dear or do not answer."""

from pathlib import Path

import pytest

from controller.simulation.trial import Scripted
from providers.simulated.config import Incident
from tests.controller.simulation.story import (
    BOOT_S,
    DAY_S,
    HOUR_S,
    MINUTE_S,
    SOON_S,
    Series,
    cloud,
    sold,
    tell,
)


@pytest.fixture
def series(tmp_path: Path) -> Series:
    return Series(tmp_path)


# --- a bad day ------------------------------------------------------------------------------------


def test_a_day_in_which_every_provider_fails_in_its_own_way(series: Series) -> None:
    """One loses all it has, one doubles its price, one answers throttled: still whole, and in its budget."""
    lost_s, dear_s, throttled_s, taken_s = 6 * HOUR_S, 8 * HOUR_S, 10 * HOUR_S, 10 * HOUR_S + 10 * MINUTE_S
    north = cloud(sold("north-1a", spot=0.30, capacity=series.open([1] * 6 + [0] * 18)))
    dear = series([0.35] * 8 + [0.70] * 16)
    south = cloud(
        sold("south-1a", spot=dear, on_demand=series([1.0] * 8 + [2.0] * 16)),
        incidents=[Incident(at_s=taken_s, what="preempt", share=1)],
    )
    east = cloud(
        sold("east-1a", spot=0.40, on_demand=1.10),
        incidents=[Incident(at_s=throttled_s, what="throttle", for_s=HOUR_S)],
    )
    looks = [
        lost_s - MINUTE_S,
        lost_s + 20,
        lost_s + SOON_S,
        dear_s - MINUTE_S,
        throttled_s + 5 * MINUTE_S,
        taken_s + 40,
        taken_s + 2 * SOON_S,
        DAY_S - MINUTE_S,
    ]
    told = tell(
        {"nodes": 4, "budget": {"per_day": 60}},
        {"north": north, "south": south, "east": east},
        DAY_S,
        looks,
    )
    calm, just_lost, again, late, throttled, taken, whole, end = (told.at(at) for at in looks)
    assert calm.ready == 4 and calm.told["status"] == "ready"

    # All of north is gone at once: four machines are on their way elsewhere within seconds. It is told.
    assert just_lost.ready == 0 and just_lost.told["there"]["starting"] >= 4
    assert (
        "0 of 4 nodes are ready" in just_lost.story and "waits for the machine's address" in just_lost.story
    )
    gone = just_lost.market("north-1a")
    assert gone["memory"]["losses"] == calm.where["north-1a/spot"] and not gone["allowed"]
    assert "took a machine" in gone["why"] and "asked again" in gone["why"]
    assert again.ready == 4 and not any(zone.startswith("north") for zone in again.zones)

    # By the time that the price doubles they run where it is cheapest, and what runs there keeps its price.
    assert late.where == {"south-1a/spot": 4}
    paid = {one["usd_per_hour"] for one in throttled.told["machines"] if one["status"] == "ready"}
    assert throttled.ready == 4 and max(paid) <= 0.40

    # Now south takes what it has, while east answers throttled and north has nothing: dear, but soon whole.
    assert taken.ready == 0 and taken.told["there"]["starting"] == 4, taken.story
    assert not taken.market("south-1a/sim/spot")["allowed"]
    assert whole.ready == 4 and set(whole.zones) == {"south-1a"}, whole.story
    tried = whole.market("east-1a/sim/spot")
    assert tried["held"] == 0 and tried["memory"]["last_fault"] == "throttled"
    assert all(one["why"] for look in (taken, whole) for one in look.told["markets"])

    # Whole again, on spot, and within what it may spend.
    assert end.ready == 4 and end.on_demand == 0, end.where
    assert end.told["money"]["usd_today"] <= 60 and end.told["money"]["reached"] is None
    assert told.figures.cost_usd <= 60
    assert told.figures.availability is not None and told.figures.availability > 0.985


# --- on demand ------------------------------------------------------------------------------------


def test_a_shortage_is_covered_on_demand_until_spot_holds_again(series: Series) -> None:
    """Two zones are closed together for two hours, one flickers before it opens for good."""
    first = [1] * 36 + [0] * 12 + [1, 0, 1, 0] + [1] * 92
    second = [1] * 24 + [0] * 36 + [1] * 84
    gap_s = 10 * MINUTE_S
    zones = cloud(
        sold("z-1a", spot=1.0, on_demand=3.0, capacity=series.open(first, gap_s)),
        sold("z-1b", spot=1.1, on_demand=3.0, capacity=series.open(second, gap_s)),
    )
    looks = [5 * HOUR_S, 6 * HOUR_S + SOON_S, 7.5 * HOUR_S, 12 * HOUR_S, 23 * HOUR_S]
    told = tell({"nodes": 3}, {"z": zones}, DAY_S, looks)
    before, covered, later, back, end = (told.at(at) for at in looks)
    assert before.where == {"z-1a/spot": 3}
    assert covered.ready == 3 and covered.on_demand == 3
    assert later.ready == 3 and later.on_demand == 3
    assert back.ready == 3 and back.on_demand == 0, back.where
    assert end.ready == 3 and end.on_demand == 0
    figures = told.figures
    assert figures.availability is not None and figures.cost_percent_of_on_demand is not None
    # Down for one boot at the start and one when the last zone closed; the way back costs none.
    assert figures.availability > 1 - 6 * SOON_S / DAY_S
    assert 34 < figures.cost_percent_of_on_demand < 50
    assert figures.machine_hours_on_demand < 3 * 4


def test_a_floor_on_demand_is_kept_through_a_storm(series: Series) -> None:
    """Spot machines last half an hour; two of five nodes are on demand all the time."""
    zones = cloud(
        sold("z-1a", spot=1.0, on_demand=3.0, capacity=series.open([1, 1, 0, 1], HOUR_S)),
        sold("z-1b", spot=1.2, on_demand=3.3),
    )
    storm = [Scripted(after_s=HOUR_S / 2, lifecycle="spot")]
    looks = [at * 7 * MINUTE_S for at in range(1, 60)]
    spec = {"nodes": 5, "on_demand": {"floor": 2}}
    told = tell(spec, {"z": zones}, 8 * HOUR_S, looks, scripts={"z": storm})
    assert told.figures.preemptions > 10
    assert all(look.on_demand >= 2 for look in told.looks.values())
    ceiling = tell(
        spec | {"on_demand": {"floor": 2, "ceiling": 2}},
        {"z": zones},
        8 * HOUR_S,
        looks,
        scripts={"z": storm},
    )
    assert all(look.on_demand == 2 for look in ceiling.looks.values())
    assert (ceiling.figures.ready_share or 0) <= (told.figures.ready_share or 0)


# --- where ----------------------------------------------------------------------------------------


def test_nodes_are_spread_over_zones_whatever_they_cost(series: Series) -> None:
    zones = cloud(
        sold("z-1a", spot=0.5, on_demand=3.0),
        sold("z-1b", spot=1.0, on_demand=3.0, capacity=series.open([1, 1, 0, 0, 1, 1, 1, 1])),
        sold("z-1c", spot=1.5, on_demand=3.0),
    )
    looks = [HOUR_S, 3 * HOUR_S, 7.5 * HOUR_S]
    told = tell({"nodes": 6, "spread": "zones"}, {"z": zones}, 8 * HOUR_S, looks)
    before, without, after = (told.at(at) for at in looks)
    assert before.zones == {"z-1a": 2, "z-1b": 2, "z-1c": 2}
    assert without.ready == 6 and max(without.zones.values()) - min(without.zones.values()) <= 1
    assert after.ready == 6


def test_a_gang_is_together_and_moves_together(series: Series) -> None:
    zones = cloud(
        sold("z-1a", spot=0.5, on_demand=3.0, capacity=series.open([1, 1, 0, 0, 0, 0])),
        sold("z-1b", spot=1.0, on_demand=3.0),
        sold("z-1c", spot=1.5, on_demand=3.0),
    )
    looks = [HOUR_S, 3 * HOUR_S, 5 * HOUR_S]
    told = tell({"nodes": 4, "spread": "together"}, {"z": zones}, 6 * HOUR_S, looks)
    assert told.at(HOUR_S).zones == {"z-1a": 4}
    for at in looks:
        assert told.at(at).ready == 4 and len(told.at(at).zones) == 1, told.at(at).where


# --- calm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["hazard", "sticky-race", "karpenter", "spothedge"])
def test_launches_of_weeks_are_bounded_by_losses(series: Series, policy: str) -> None:
    """Prices of zones cross each other every few hours, by little: machines are not chased after them. What a
    loss leaves stays where it is."""
    prices = [1.0, 1.01, 1.02, 1.01]
    offers = (
        sold("z-1a", spot=series([*prices, *prices[::-1]]), on_demand=3.0),
        sold("z-1b", spot=series([*prices[::-1], *prices]), on_demand=3.0),
        sold("z-1c", spot=1.2, on_demand=3.2),
    )
    spec = {"nodes": 4, "buying": {"policy": policy, "extra": 1}}
    first = 5 if policy == "spothedge" else 4
    quiet = tell(spec, {"z": cloud(*offers)}, 5 * DAY_S).figures
    assert quiet.launches == (9 if policy == "spothedge" else first)  # which starts on demand beside it
    figures = tell(spec, {"z": cloud(*offers, preemptions_per_hour=0.01)}, 20 * DAY_S).figures
    assert figures.preemptions > 10
    assert figures.launches - first <= 3 * figures.preemptions
    assert figures.availability is not None and figures.availability > 0.98


@pytest.mark.parametrize("nodes", [8, 32])
def test_where_machines_are_lost_one_by_one_each_is_replaced_and_no_other(nodes: int) -> None:
    """Four markets that are alike: whatever took one machine, the others are no worse off there."""
    zones = cloud(
        *(sold(zone, spot=0.3, on_demand=1.0) for zone in ("a-1a", "a-1b", "b-1a", "c-1a")),
        preemptions_per_hour=0.01,
    )
    figures = tell({"nodes": nodes}, {"z": zones}, (3 if nodes < 32 else 1) * DAY_S).figures
    assert figures.preemptions >= 4
    assert figures.launches - nodes <= 3 * figures.preemptions + 1


def test_a_spare_takes_the_place_of_a_lost_machine_at_once() -> None:
    zones = cloud(sold("z-1a", spot=1.0, on_demand=3.0))
    scripts = {
        "z": [Scripted(after_s=2 * HOUR_S, machines=(1,)), Scripted(after_s=4 * HOUR_S, machines=(2,))]
    }
    looks = [HOUR_S, 2 * HOUR_S + 15, 2 * HOUR_S + 2 * SOON_S, 4 * HOUR_S + 15, 5 * HOUR_S]
    told = tell({"nodes": 3, "buying": {"spares": 1}}, {"z": zones}, 6 * HOUR_S, looks, scripts=scripts)
    for at in looks:
        assert told.at(at).ready == 3, (at, told.at(at).story)
    assert len(told.at(HOUR_S).living) == 4 and len(told.at(5 * HOUR_S).living) == 4
    assert told.figures.preemptions == 2 and told.figures.launches == 6
    without = tell({"nodes": 3}, {"z": zones}, 6 * HOUR_S, scripts=scripts).figures
    assert without.whole_again.count == 2 and without.whole_again.max_s is not None
    assert without.whole_again.max_s >= BOOT_S


# --- money ----------------------------------------------------------------------------------------


def test_a_days_budget_holds_in_a_storm_and_the_next_day_is_another() -> None:
    """Ten dollars a day buy four nodes for a part of it, and no more than a billing unit of each is spent."""
    zones = cloud(sold("z-1a", spot=0.3, on_demand=1.0), sold("z-1b", spot=0.35, on_demand=1.0))
    storm = [Scripted(after_s=20 * MINUTE_S, lifecycle="spot")]
    looks = [HOUR_S, DAY_S - MINUTE_S, DAY_S + HOUR_S, 2 * DAY_S - MINUTE_S]
    spec = {"nodes": 4, "budget": {"per_day": 10, "then": "drain"}}
    told = tell(spec, {"z": zones}, 2 * DAY_S, looks, scripts={"z": storm})
    first, spent, second, again = (told.at(at) for at in looks)
    assert first.ready >= 2 and second.ready >= 2
    second_usd = 1.0 / 3600  # a billing unit of the dearest machine
    for look in (spent, again):
        assert look.ready == 0 and look.told["money"]["reached"] == "day", look.story
        assert 9 < look.told["money"]["usd_today"] <= 10 + 8 * second_usd
        assert "budget is reached" in look.story
        assert look.told["money"]["until"] is not None
    assert told.figures.cost_usd <= 20 + 16 * second_usd
