"""Each rule of the referee: a short history that breaks it, and one near to it that does not."""

import typing

import pytest

from actors.events import (
    ClusterDestroyed,
    Error,
    InstanceDestroyed,
    Request,
    ShutdownRequested,
)
from actors.instance import state as instance_state
from actors.node import state as node_state
from actors.node.state import Filled
from actors.policy.adoption import QuarantineState
from actors.pool import state as pool_state
from actors.pool.state import ClusterState
from actors.task import state as task_state
from actors.task.state import Pending
from providers.simulated.config import SimulatedConfig, SimulatedOffer
from tests.simulation.referee import CHECKERS
from tests.simulation.referee.book import OVER
from tests.simulation.referee.progress import BOUNDS, label
from tests.simulation.referee.requests import DEADLINES, ENDINGS
from tests.simulation.referee.story import (
    POOL,
    PROVIDER,
    Story,
    pending,
)
from tests.simulation.referee.told import buying, machines, places, progress, requests, rolling, tasks
from tests.simulation.referee.told.histories import (
    HOUR_S,
    KEY,
    TOLD,
    Tell,
    filling,
)

HISTORIES = (buying, machines, places, progress, requests, rolling, tasks)  # they fill TOLD


@pytest.mark.parametrize(
    ("rule", "is_broken", "config", "tell"),
    [(rule, is_broken, config, tell) for rule, _, is_broken, config, tell in TOLD],
    ids=[f"{rule}: {what}" for rule, what, *_ in TOLD],
)
def test_a_rule(rule: str, is_broken: bool, config: SimulatedConfig, tell: Tell) -> None:
    story = Story(config)
    tell(story)
    assert story.broken == (rule if is_broken else None), story.referee.broken


def test_every_rule_is_broken_by_some_history_and_held_by_another() -> None:
    names = {checker.name for checker in CHECKERS}
    assert {rule for rule, _, is_broken, *_ in TOLD if is_broken} == names
    assert {rule for rule, _, is_broken, *_ in TOLD if not is_broken} == names
    assert len(names) == len(CHECKERS)


def test_every_state_has_a_bound() -> None:
    unions: dict[str, typing.Any] = {
        "instance": instance_state.InstanceState,
        "node": node_state.NodeState,
        "pool": pool_state.PoolState,
        "task": task_state.TaskState,
        "cluster": ClusterState,
        "quarantine": QuarantineState,
    }
    for kind, union in unions.items():
        for state in typing.get_args(union):
            status = state.model_fields["status"].default
            if status in OVER or status in ("filling", "replacing"):
                continue
            assert (kind, status) in BOUNDS, (kind, status)
    asking = filling("asks")
    assert [label("node", one) for one in (asking, asking.model_copy(update={"next_at": 1.0}))] == [
        "asks",
        "waits",
    ]
    assert all(bound.why for bound in BOUNDS.values())


def test_every_request_has_endings_and_a_deadline() -> None:
    kinds = {request.model_fields["kind"].default for request in typing.get_args(Request)}
    assert set(ENDINGS) == set(DEADLINES) == kinds


def test_the_tail_tells_what_the_rule_is_about() -> None:
    story = Story()
    story.pool(desired=2)
    state, machine = story.ready(0)
    for i in range(100):
        story.end(Error(request_id=f"noise-{i}", message="noise"))
    story.referee.happened("silence of another")
    story.write(InstanceDestroyed(instance_id=state.id))
    lines = story.referee.tail
    about = lines[: lines.index("... and of everything:")]
    assert any("made" in line and machine.ref in line for line in about)
    assert any("instance_bootstrapped" in line for line in about)
    assert not any("noise" in line for line in about)
    assert any("noise-99" in line for line in lines) and any("silence" in line for line in lines)


def test_only_the_first_broken_rule_is_kept() -> None:
    story = Story()
    story.referee.rule(True, "holds")
    assert story.referee.broken is None
    story.referee.rule(False, "not whole in time", [POOL])
    first = story.referee.broken
    story.make(KEY)
    story.make(KEY)
    assert story.referee.broken == first
    assert first is not None and first.startswith("not whole in time (at ")


def test_without_clouds_and_ticks_the_rest_is_looked_at() -> None:
    story = Story(SimulatedConfig(offers=(SimulatedOffer(spot=1.0),)), bound=False)
    story.make(KEY)
    assert story.broken is None
    story.make(KEY)
    assert story.broken == "one machine for a key"


def test_fair_time_leaves_out_trouble_and_the_tick_after_it() -> None:
    story = Story()
    fair = story.referee.book.fair
    story.wait(300)
    assert fair.of("house") == 240  # nobody knows what was before the first
    story.wait(300, fair=False)
    story.wait(300)
    assert fair.of("house") == fair.of("whole") == fair.of(PROVIDER) == 480
    assert fair.unfair("house") == 420


def test_what_users_ask_is_shown_as_open() -> None:
    story = Story()
    story.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
    assert story.referee.unended() == ["shutdown_requested end"]
    assert not story.referee.is_ended("end")
    story.end(ClusterDestroyed(cluster_id=POOL), "end")
    assert story.referee.is_ended("end") and not story.referee.unended()


def test_pending_tasks_that_wait_for_their_time_need_no_slot() -> None:
    story = Story()
    story.pool()
    story.ready()
    story.keep(Pending(**(dict(pending("t-0")) | {"not_before": story.now + HOUR_S})))
    story.wait(600, lists=True)
    assert story.broken is None


def test_filled_nodes_may_be_set_up_again() -> None:
    story = Story()
    story.pool()
    state, _ = story.ready()
    again = instance_state.Bootstrapping(
        **{name: value for name, value in state if name not in ("status", "gone_at")},
        run_id="r",
        bootstrap_request="r",
        deadline=story.now + 60,
        again=True,
    )
    story.keep(again, Filled(pool=POOL, generation=1, node=0, instance_id=state.id))
    assert story.broken is None
