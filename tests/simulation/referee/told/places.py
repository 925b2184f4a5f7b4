"""Histories about places, limits and the order of events."""

from actors.events import (
    BootstrapPhase,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstanceReplaced,
)
from actors.instance.facts import node_instance
from actors.instance.state import Ready
from actors.node.state import Filling, Replacing, Retired
from tests.simulation.referee import Fair
from tests.simulation.referee.story import (
    CONFIG,
    POOL,
    PROVIDER,
    Story,
    pending,
    ready,
    requested,
    row,
    slots,
)
from tests.simulation.referee.told.histories import DONE, KEY, PLANTED, broken, holds, over


@broken("a rank is held once")
def two_ready_on_one_rank(story: Story) -> None:
    story.keep(*_two_ready(story, 0))


@holds("a rank is held once")
def two_ready_on_two_ranks(story: Story) -> None:
    story.keep(*_two_ready(story, 1))


@holds("a rank is held once")
def one_after_the_other_in_one_commit(story: Story) -> None:
    first, second = _two_ready(story, 0)
    story.keep(first)
    story.write(row(second), row(over(first), over=True))


def _two_ready(story: Story, node: int) -> tuple[Ready, Ready]:
    first = story.launch(0, 1)
    one = ready(story.launched(first, story.make(first.key)), now=story.now)
    second = story.launch(node, 2)
    two = ready(story.launched(second, story.make(second.key)), now=story.now)
    return one, two


WANTED = "only what is wanted is at work"


@broken(WANTED)
def a_machine_that_its_node_does_not_name(story: Story) -> None:
    story.pool()
    state, _ = story.ready()
    story.keep(Filling(pool=POOL, generation=1, node=0, request_id="again"), state)


@broken(WANTED)
def a_machine_of_a_node_that_is_retired(story: Story) -> None:
    story.pool()
    state, _ = story.ready()
    story.keep(Retired(pool=POOL, generation=1, node=0, reason="scale_in"), state)


@holds(WANTED)
def an_old_machine_and_its_replacement(story: Story) -> None:
    story.pool()
    old, _ = story.ready()
    new = requested(0, 2, now=story.now)
    story.keep(
        Replacing(
            pool=POOL, generation=1, node=0, request_id="again", instance_id=new.id, old_id=old.id, tries=1
        ),
        new,
    )


@broken(WANTED)
def more_than_desired(story: Story) -> None:
    story.pool(desired=1)
    story.ready(0)
    story.ready(1)


@holds(WANTED)
def as_many_as_desired(story: Story) -> None:
    story.pool(desired=2)
    story.ready(0)
    story.ready(1)


@broken(WANTED)
def filled_by_a_machine_that_isover(story: Story) -> None:
    story.pool()
    state, machine = story.ready()
    story.cloud.end(machine, "preempted")
    story.write(row(over(state), over=True))


LIMITS = "limits hold"


@broken(LIMITS)
def one_task_too_many_in_the_queue(story: Story) -> None:
    story.pool(queue_max=2)
    story.keep(*(pending(f"t{i}-0") for i in range(3)))


@holds(LIMITS)
def tasks_that_come_back_to_a_full_queue(story: Story) -> None:
    story.pool(queue_max=2)
    story.keep(*(pending(f"t{i}-0") for i in range(2)), pending("t9-0", attempt=2))


@broken(LIMITS)
def more_processes_than_slots(story: Story) -> None:
    _with_processes(story, 3)


@holds(LIMITS)
def as_many_processes_as_slots(story: Story) -> None:
    _with_processes(story, 2)


def _with_processes(story: Story, count: int) -> None:
    story.pool(worker=slots(2))
    _, machine = story.ready()
    for i in range(count):
        story.referee.process_began(machine.ref, f"t{i}-0", 1)


@broken(LIMITS, CONFIG.model_copy(update={"machines_max": 1}))
def more_machines_than_the_account_allows(story: Story) -> None:
    story.make(PLANTED)
    story.make(PLANTED[:-1] + "2")


@broken(LIMITS)
def one_seq_twice(story: Story) -> None:
    story.write(DONE)
    story.ledger.next_seq -= 1
    story.write(DONE)


@broken(LIMITS)
def too_many_events(story: Story) -> None:
    story.referee.events_max = 3
    for _ in range(4):
        story.write(DONE)


@broken(LIMITS)
def too_many_letters(story: Story) -> None:
    story.referee.tick(60, Fair(True, True, frozenset({PROVIDER})), {POOL: 20_001})


ORDER = "events of an instance are in order"


@broken(ORDER)
def set_up_before_it_is_connected(story: Story) -> None:
    state = ready(story.launched(story.launch(), story.make(KEY)), now=story.now)
    story.write(BootstrapPhase(instance=node_instance(state), event="started", phase="one"))


@holds(ORDER)
def set_up_again_when_it_works(story: Story) -> None:
    state, _ = story.ready()
    story.write(BootstrapPhase(instance=node_instance(state), event="started", phase="one"))
    story.write(InstanceBootstrapped(instance=node_instance(state)))


@broken(ORDER)
def launched_for_nobody(story: Story) -> None:
    asked = requested(now=story.now)
    story.keep(asked)
    story.launched(asked, story.make(asked.key))


@broken(ORDER)
def a_word_after_the_end(story: Story) -> None:
    state, machine = story.ready()
    story.cloud.end(machine, "preempted")
    story.write(InstanceDestroyed(instance_id=state.id), row(over(state), over=True))
    story.write(InstanceBootstrapped(instance=node_instance(state)))


@broken(ORDER)
def replaces_another_than_the_last(story: Story) -> None:
    story.ready(0, 1)
    story.launch(0, 2, replacing="pool-0-1.9.1")


@broken(ORDER)
def replaced_though_nobody_asked_for_that(story: Story) -> None:
    state, machine = story.ready(0, 1)
    story.cloud.end(machine, "preempted")
    story.write(InstanceDestroyed(instance_id=state.id), row(over(state), over=True))
    new, _ = story.ready(0, 2)
    fact = InstanceReplaced(request_id=new.request_id, old_id=state.id, new=node_instance(new))
    story.write(fact)


@holds(ORDER)
def replaced_as_asked(story: Story) -> None:
    story.ready(0, 1)
    story.launch(0, 2, replacing="pool-0-1.1.1")
