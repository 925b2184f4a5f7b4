"""Histories about machines that others replace because the spec asks for something else."""

from actors.events import InstanceRequested
from actors.instance.state import Draining, Ready
from actors.node.state import Filled, Replacing
from actors.spec import Image, Step
from tests.simulation.referee.story import POOL, PROVIDER, Story, pool, ready, requested, row
from tests.simulation.referee.told.histories import broken, holds

KEPT = "what works is kept until another does"
FEW = "few machines are replaced at a time"
RIGHT = "what is as asked for gives way to nothing else"
NEW = Image(steps=(Step(phase="new", run="true"),))


def _moved(state: Ready, now: float) -> Draining:
    """The machine ends its tasks, for another one is to do its work."""
    fields = {name: value for name, value in state if name not in ("status", "since", "gone_at")}
    return Draining(**fields, since=now, reason="moved", deadline=now + 60)


@broken(KEPT)
def sent_away_before_another_works(story: Story) -> None:
    story.pool()
    state, _ = story.ready()
    story.keep(_moved(state, story.now), _renewing(state))


@holds(KEPT)
def sent_away_when_another_works(story: Story) -> None:
    story.pool()
    _replaced(story, story.ready()[0], "")


@broken(RIGHT)
def one_of_an_image_nobody_wants_any_more_takes_over(story: Story) -> None:
    story.pool()
    _replaced(story, story.ready()[0], "other.other")


@holds(RIGHT)
def one_of_an_older_image_takes_over_from_one_that_is_older_still(story: Story) -> None:
    [old] = _respecced(story, 1)
    _replaced(story, old, "other.other")


def _replaced(story: Story, old: Ready, image: str) -> None:
    """Another machine comes beside the old one, is ready, and takes its place."""
    asked = requested(0, 2, now=story.now)
    order = InstanceRequested(
        request_id=asked.request_id, provider=PROVIDER, cluster_id="c", node_id=0, replacing=old.id
    )
    story.write(order, row(asked), row(_renewing(old).model_copy(update={"instance_id": asked.id})))
    there = story.launched(asked, story.make(asked.key))
    new = ready(there, now=story.now, worked=True, image=image)
    node = Filled(pool=POOL, generation=1, node=0, instance_id=new.id)
    story.keep(new, _moved(old, story.now), node)


def _respecced(story: Story, nodes: int) -> list[Ready]:
    """A pool whose machines are of another image than it asks for."""
    story.pool(desired=nodes)
    states = [story.ready(node)[0].model_copy(update={"image": "old.old"}) for node in range(nodes)]
    story.keep(*states)
    story.keep(pool(desired=nodes, image=NEW))
    return states


def _renewing(state: Ready) -> Replacing:
    """Another machine comes for this one."""
    return Replacing(
        pool=POOL,
        generation=1,
        node=state.node,
        request_id="x",
        tries=1,
        instance_id=f"new-{state.node}",
        old_id=state.id,
        moving=True,
    )


@broken(FEW)
def two_of_four_at_a_time(story: Story) -> None:
    states = _respecced(story, 4)
    for state in states[:2]:
        story.keep(_renewing(state))


@holds(FEW)
def one_of_four_at_a_time(story: Story) -> None:
    story.keep(_renewing(_respecced(story, 4)[3]))
