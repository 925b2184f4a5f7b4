"""Histories about requests."""

from actors.events import (
    ClusterDestroyed,
    DrainRequested,
    Error,
    InstanceRequested,
    PoolRequested,
)
from actors.spec import Nodes, PoolSpec
from tests.simulation.referee.story import (
    POOL,
    PROVIDER,
    Story,
)
from tests.simulation.referee.told.histories import DONE, HOUR_S, broken, filling, holds

ASK = PoolRequested(
    request_id="ask",
    pool=POOL,
    spec=PoolSpec(provider=(PROVIDER,), nodes=Nodes(desired=1)),
    ready_within_s=600,
)
ENDS = "every request ends once and in time"


@broken(ENDS)
def ended_twice(story: Story) -> None:
    story.ask(ASK)
    story.end(DONE, "ask")
    story.end(DONE, "ask")


@holds(ENDS)
def ready_twice_and_ended_once(story: Story) -> None:
    story.ask(ASK)
    story.end(DONE, "ask")
    story.end(DONE)


@broken(ENDS)
def ended_by_a_fact_of_another_kind(story: Story) -> None:
    story.ask(ASK)
    story.end(ClusterDestroyed(cluster_id=POOL), "ask")


@broken(ENDS)
def an_end_of_nothing(story: Story) -> None:
    story.end(DONE, "nobody asked")


@broken(ENDS)
def asked_twice(story: Story) -> None:
    story.ask(ASK)
    story.ask(ASK)


@broken(ENDS)
def too_late(story: Story) -> None:
    story.ask(ASK)
    story.wait(960)


@holds(ENDS)
def as_late_as_it_may_be(story: Story) -> None:
    story.ask(ASK)
    story.wait(600)
    story.wait(6000, fair=False)
    story.end(Error(request_id="ask", message="too late", fatal=True), "ask")
    story.wait(6000)


@broken(ENDS)
def a_drain_without_end(story: Story) -> None:
    story.pool()
    story.ask(DrainRequested(request_id="drain", pool=POOL, node=0, within_s=60))
    story.wait(4 * HOUR_S)


@broken(ENDS)
def a_machine_never_comes(story: Story) -> None:
    story.write(_asked_for())
    story.wait(3 * HOUR_S)


@holds(ENDS)
def nobody_sells_a_machine(story: Story) -> None:
    story.keep(filling("waits").model_copy(update={"next_at": story.now + 86_400}))
    story.write(_asked_for())
    story.wait(3 * HOUR_S)


def _asked_for() -> InstanceRequested:
    return InstanceRequested(request_id="instance:0", provider=PROVIDER, cluster_id="c", node_id=0)
