"""A fleet keeps its nodes: what is taken is replaced, once, and no rank is ever filled twice."""

from tests.simulation.fleet import Plan, run_fleet


def test_a_fleet_that_is_taken_once_a_day_is_whole_all_day() -> None:
    nodes = 200
    outcome = run_fleet(Plan(nodes=nodes, observe_every_s=60, checking=True))
    assert outcome.wrong == []  # no bug, no rank filled twice
    assert outcome.preemptions > nodes / 2
    # A machine that is taken before it is ready has replaced nothing yet.
    assert outcome.preemptions - 3 <= outcome.replaced <= outcome.preemptions
    assert outcome.launches == outcome.machines == nodes + outcome.preemptions  # never one too many
    assert outcome.short_share < 1e-4  # a notice is longer than a start


def test_notices_all_at_once_are_answered_at_once_and_every_run_is_the_same() -> None:
    plan = Plan(nodes=50, days=0, burst=40, commit_s=0.005, checking=True)
    first, second = run_fleet(plan), run_fleet(plan)
    assert first.wrong == []
    assert first.replaced == first.preemptions == 40
    assert first.launches == 90
    assert first.burst_virtual_s < 0.1
    assert (first.hash, first.commits, first.listings) == (second.hash, second.commits, second.listings)
