"""Why one task is still pending, or what became of it; why one instance is where it is, or why it is gone.

Pure: from states, which are immutable, and from journaled events.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, assert_never

from actors.events import (
    BootstrapFailed,
    Envelope,
    InstanceDestroyed,
    InstancePreempted,
    InstanceReplaced,
    LaunchRefused,
    NoticeWithdrawn,
    TaskAttemptEnded,
)
from actors.instance import parts
from actors.instance import state as instances
from actors.instance.state import InstanceState
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.policy.budget import usd
from actors.pool.state import Active, Parked, PoolState
from actors.task import state as tasks
from actors.task.state import TaskState
from controller.sentences import ended_how, outcome, signalled
from controller.telling import ago, be, clock, count, lasting, listed, sentence, unkeyed, when
from controller.views import Json, doing, instance_view, task_view
from providers.model import MICRO

TASKS_SHOWN = 8
LOG_SHOWN = 200
AT_ONCE_S = 1.0  # who is seen to be gone so soon was not told before
SEEN = ("ending", "gone", "stopped", "terminated")  # states in a listing, no words of a notice
WHY_GONE: Mapping[str, str] = {
    "preempted": "the market took it back",
    "gone": "it was there no more, without a word",
    "unreachable": "it could not be reached any more",
    "scale_in": "the pool wants fewer nodes",
    "scheduled": "the vendor had scheduled its end",
    "expired": "it came to the greatest age that the pool allows",
    "budget": "the pool's budget was reached",
    "timeout": "it did not become ready in time",
    "failed": "it could not be set up, or was unhealthy",
    "user": "a user asked for it",
    "moved": "a better machine took its place",
    "not launched": "the launch was refused",
}


class Around(NamedTuple):
    """What is known of the pool around a task or an instance, at one moment."""

    pool: PoolState
    nodes: Mapping[int, NodeState]
    instances: Mapping[str, InstanceState]  # living
    tasks_on: Mapping[str, Sequence[str]]  # by instance
    now: float
    forbids: str = ""  # why the pool's budget lets no machine be launched
    frees_at: float | None = None  # when that ends; None: not by itself


def what_of_node(state: NodeState | None, around: Around) -> str:
    """What a node has or waits for, as the end of a sentence about it."""
    now = around.now
    match state:
        case None:
            return "does not exist"
        case Retired(reason=reason):
            return f"is retired ({reason})"
        case Filled(instance_id=name):
            return f"has the machine {name}"
        case Vacant(next_at=at):
            return "has no machine and asks for " + ("none" if at is None else f"one {when(at, now)}")
        case Filling() | Replacing():
            machine = around.instances.get(state.instance_id or "")
            lacks = "has no machine" if isinstance(state, Filling) else "is to get another machine"
            if machine is not None:
                return f"{lacks} that is ready: {machine.id} {_doing(machine)}"
            why = unkeyed(around.forbids or state.why_waiting or "is to be placed")
            if around.forbids:
                return f"{lacks} for {lasting(now - _missing_since(state))}: {why}"
            again = f"; it asks again {when(state.next_at, now)}" if state.next_at is not None else ""
            return f"{lacks} for {lasting(now - _missing_since(state))}: {why}{again}"
        case _:
            assert_never(state)


def _missing_since(state: Filling | Replacing) -> float:
    since: float | None = getattr(state, "missing_since", None)
    return state.since if since is None else since


def _doing(machine: InstanceState) -> str:
    text = doing(machine)
    return text if text.startswith(("is ", "waits ")) else f"- {text}"


# --- tasks ----------------------------------------------------------------------------------------


def ahead_of(task: tasks.Pending, living: Sequence[TaskState]) -> tuple[int, int]:
    """How many tasks of the pool's common queue go before this one, and how many wait in it in all."""
    mine, ahead, waiting = (-task.spec.priority, task.seq), 0, 0
    for one in living:
        if not isinstance(one, tasks.Pending) or one.pool != task.pool:
            continue
        if one.spec.node is not None or one.not_before is not None:
            continue
        waiting += 1
        ahead += (-one.spec.priority, one.seq) < mine
    return ahead, waiting


def task_explained(
    state: TaskState, around: Around, queue: tuple[int, int] | None, log: Sequence[Envelope]
) -> Json:
    """One task: its state, its story in sentences, and its events, oldest first.

    Args:
        state: the task's.
        around: its pool.
        queue: see `ahead_of`; None when it is in no common queue.
        log: events of this task.
    """
    view = task_view(state)
    found: dict[str, Any] = {"pool": state.pool, "at": around.now, "task": view}
    story = _task_story(state, around, queue)
    if isinstance(state, tasks.Pending):
        used, all_slots, working = slots(around)
        found["queue"] = {
            "ahead": queue[0] if queue else None,
            "waiting": queue[1] if queue else None,
            "slots": all_slots,
            "slots_used": used,
            "nodes_ready": working,
        }
        found["next_at"] = _task_next(state, around)
    found["story"] = [*story, *_attempts(log, around.now)]
    return found


def slots(around: Around) -> tuple[int, int, int]:
    """Slots in use, slots in all, and ready machines that take tasks now."""
    worker = around.pool.spec.worker
    each = worker.concurrency + worker.buffer
    ready = [one for one in around.instances.values() if isinstance(one, instances.Ready) and one.link_up]
    used = sum(min(each, len(around.tasks_on.get(one.id, ()))) for one in ready)
    return used, each * len(ready), len(ready)


def _task_next(state: tasks.Pending, around: Around) -> float | None:
    if state.not_before is not None:
        return state.not_before
    if state.spec.node is None:
        return None
    return getattr(around.nodes.get(state.spec.node), "next_at", None)


def _task_story(state: TaskState, around: Around, queue: tuple[int, int] | None) -> list[str]:
    now, name = around.now, f"Task {state.id} ({state.spec.title})"
    match state:
        case tasks.Pending():
            since = state.queued_at or state.since
            story = [f"{name} has been pending for {lasting(now - since)}, before attempt {state.attempt}."]
            return story + _pending(state, around, queue)
        case tasks.Assigned():
            where = f"{state.instance_id} on node {state.node}"
            return [f"{name} was given to {where}; its agent has not answered yet."]
        case tasks.Created():
            return [f"{name} waits on node {state.node} ({state.instance_id}) for a free slot there."]
        case tasks.Running():
            since_ = lasting(now - state.started_at)
            return [f"{name} has been running on node {state.node} ({state.instance_id}) for {since_}."]
        case tasks.Stopping():
            again = when(state.next_at, now)
            return [f"{name} is being stopped on node {state.node} ({state.reason}); said again {again}."]
        case tasks.Invalid():
            what = f"{state.instance_id} reports what does not fit ({state.reason})"
            return [f"{name}: {what}; the attempt is being stopped."]
        case tasks.Stopped():
            return [_over(name, state, now)]
        case _:
            assert_never(state)


def _over(name: str, state: tasks.Stopped, now: float) -> str:
    how = ended_how(state.result, state.reason, state.exit_code, state.signal)
    where = f" on node {state.node} ({state.instance_id})" if state.node is not None else ""
    text = f"{name} ended {ago(state.ended_at, now)}{where}: {how}, attempt {state.attempt}."
    said = (f"exit code {state.exit_code}", f"ended by {signalled(state.signal or 0)}")
    # The words of exit codes and signals are there already, with why in brackets.
    news = state.error if state.error and not state.error.startswith(said) else ""
    return f"{text} {sentence(news)}" if news else text


def _pending(state: tasks.Pending, around: Around, queue: tuple[int, int] | None) -> list[str]:
    now, story = around.now, list[str]()
    if state.failures or state.interruptions:
        story.append(_retries(state, around.pool))
    if state.not_before is not None:
        story.append(
            f"It is held back after its last attempt: it may be placed {when(state.not_before, now)}."
        )
        return story
    match around.pool:
        case Active(paused=paused, name=pool) | Parked(paused=paused, name=pool) if paused is not None:
            by = f" by {paused.by}" if paused.by else ""
            since = ago(paused.since, now)
            story.append(f"The pool was paused{by} {since}: no task starts until `everpool resume {pool}`.")
            return story
        case Active():
            pass
        case Parked(reason=reason):
            story.append(f"The pool is parked: {sentence(reason)} Only machines that are there take tasks.")
        case pool:
            story.append(f"The pool is {pool.status}: nothing is started in it any more.")
            return story
    if state.spec.node is not None:
        return story + _pinned(state.spec.node, around)
    if queue is not None:
        ahead, waiting = queue
        place = "It is the next" if ahead == 0 else f"{count(ahead, 'task goes', 'tasks go')} before it"
        story.append(f"{place} of {waiting} in the queue (priority {state.spec.priority}).")
    return story + _room(around)


def _retries(state: tasks.Pending, pool: PoolState) -> str:
    spec = state.spec
    may = spec.retries_infrastructure
    may = pool.spec.retry_on_interruption if may is None else may
    return (
        f"Of its retries {state.failures} of {spec.retries} were used by failures of its own, "
        f"{state.interruptions} of {may} by lost machines."
    )


def _pinned(node: int, around: Around) -> list[str]:
    state = around.nodes.get(node)
    story = [f"It runs only on node {node}, which {what_of_node(state, around)}."]
    if isinstance(state, Filled):
        story.append(_machine_room(state.instance_id, around))
    return story


def _machine_room(name: str, around: Around) -> str:
    machine, worker = around.instances.get(name), around.pool.spec.worker
    if not isinstance(machine, instances.Ready):
        status = "gone" if machine is None else machine.status
        return f"That machine is {status}, and takes no task now."
    if not machine.link_up:
        since = machine.silent_since if machine.silent_since is not None else machine.since
        return f"That machine has been silent for {lasting(around.now - since)}, and takes no task now."
    there = around.tasks_on.get(name, ())
    each = worker.concurrency + worker.buffer
    if len(there) < each:
        return f"It has a free slot ({len(there)} of {each} used): the task starts in a moment."
    which = "Its only slot is" if each == 1 else f"All {each} slots of it are"
    return f"{which} taken, by {listed(list(there), TASKS_SHOWN)}."


def _room(around: Around) -> list[str]:
    used, all_slots, working = slots(around)
    story = []
    if working == 0:
        story.append("No machine of the pool takes tasks now.")
        story += _no_money(around)
    elif used < all_slots:
        story.append(
            f"{count(working, 'machine takes', 'machines take')} tasks, {used} of {all_slots} slots used."
        )
    else:
        each = around.pool.spec.worker.concurrency + around.pool.spec.worker.buffer
        story.append(
            f"All {count(all_slots, 'slot')} {be(all_slots)} taken: {count(working, 'machine')} "
            f"of {count(each, 'slot')}{' each' if working > 1 else ''}."
        )
    starting = [
        one
        for one in around.instances.values()
        if isinstance(one, instances.Requested | instances.Provisioning | instances.Bootstrapping)
    ]
    if starting:
        first = starting[0]
        machines = count(len(starting), "machine is", "machines are")
        example = f"{first.id} of node {first.node}"
        story.append(f"{machines} starting, such as {example}, which {_doing(first)}.")
    waiting = [
        one
        for _, one in sorted(around.nodes.items())
        if isinstance(one, Vacant | Filling) and getattr(one, "instance_id", None) is None
    ]
    if waiting:
        first_node = waiting[0]
        rest = f" ({len(waiting) - 1} more like it)" if len(waiting) > 1 else ""
        story.append(f"Node {first_node.node} {what_of_node(first_node, around)}.{rest}")
    elif not working and not starting and not around.nodes:
        story.append("The pool has no nodes: resize it, or let it scale.")
    return story


def _no_money(around: Around) -> list[str]:
    if not around.forbids:
        return []
    until = "" if around.frees_at is None else f"; it is free {when(around.frees_at, around.now)}"
    mend = "; raise the budget to go on" if around.frees_at is None else ""
    mend = "" if "raise it" in around.forbids else mend
    return [f"The budget lets no machine be launched: {around.forbids}{until}{mend}."]


def _attempts(log: Sequence[Envelope], now: float) -> list[str]:
    """What became of earlier attempts."""
    story = []
    ended = [(one.at, one.event) for one in log if isinstance(one.event, TaskAttemptEnded)]
    for at, fact in ended[-TASKS_SHOWN:]:
        reason = f" ({fact.reason})" if fact.reason else ""
        where = f" on {fact.instance_id}" if fact.instance_id else ""
        cost = f", {usd(fact.cost_micro_usd)}" if fact.cost_micro_usd else ""
        how = outcome(fact.result) + reason
        story.append(f"Attempt {fact.attempt} ended {ago(at, now)}{where}: {how}{cost}.")
    return story


# --- instances ------------------------------------------------------------------------------------


def instance_explained(
    state: InstanceState,
    around: Around,
    successor: str | None,
    log: Sequence[Envelope],
    *,
    outdated: bool = False,
) -> Json:
    """One instance: its state, its story in sentences, and its events, oldest first.

    Args:
        state: the instance's, which may be over.
        around: its pool.
        successor: the machine that was ordered in its place.
        log: events that name this instance.
        outdated: it is not what the pool's spec asks for.
    """
    now = around.now
    on = tuple(around.tasks_on.get(state.id, ()))
    micro_usd = _cost(state, now)
    return {
        "pool": state.pool,
        "at": now,
        "instance": instance_view(state, on, now, outdated=outdated),
        "why": state.why,
        "usd": micro_usd / MICRO,
        "successor": successor,
        "story": [
            _bought(state, now),
            *_how(state),
            *_heard(log, now),
            *_now(state, on, successor, now),
        ],
    }


def _cost(state: InstanceState, now: float) -> int:
    match state:
        case instances.Requested():
            return 0
        case instances.Destroyed():
            return state.cost_micro_usd
        case instances.Destroying(handle=None):
            return 0
        case _:
            return parts.cost(state, now)


def _bought(state: InstanceState, now: float) -> str:
    price = usd(state.offer.micro_usd_per_hour)
    instead = f", instead of {state.replacing}" if state.replacing else ""
    ordered = f"{state.id} was ordered {ago(state.created_at, now)} for node {state.node} of {state.pool}"
    return f"{ordered}{instead}: {state.offer.market}, {price} an hour."


def _how(state: InstanceState) -> list[str]:
    return [f"Why there: {sentence(state.why)}"] if state.why else []


def _heard(log: Sequence[Envelope], now: float) -> list[str]:
    """What happened to it that its state does not tell."""
    story: list[str] = []
    for one in log:
        at = clock(one.at, now)
        match one.event:
            case LaunchRefused(fault=fault, detail=detail):
                words = f": {unkeyed(detail)}" if detail else ""
                story.append(sentence(f"At {at} the launch was refused ({fault}){words}"))
            case InstancePreempted(reason=reason):
                over = any(
                    isinstance(other.event, InstanceDestroyed) and other.at - one.at <= AT_ONCE_S
                    for other in log
                )
                story.append(sentence(f"At {at} it {_preempted(reason, over)}"))
            case NoticeWithdrawn():
                story.append(f"At {at} that notice was taken back.")
            case BootstrapFailed(phase=phase, error=error):
                story.append(f"At {at} its set-up failed in {phase!r}: {error}.")
            case InstanceReplaced(new=new):
                story.append(f"At {at} {new.instance.id} filled node {new.node} in its place.")
            case InstanceDestroyed(cost_micro_usd=cost):
                story.append(f"At {at} it was seen to be gone; it has cost {usd(cost)} in all.")
            case _:
                pass
    return story


def _preempted(reason: str, over: bool) -> str:
    """What an `InstancePreempted` says; `over`: the machine was seen to be gone at the same moment."""
    if reason == "unreachable":
        return "was given up: it could not be reached any more"
    if reason.startswith("unhealthy"):
        return f"was given up: {reason}"
    how = "was seen to be gone" if over or reason in SEEN else "was told to go"
    return f"{how}: {reason}" if reason else how


def _now(state: InstanceState, on: Sequence[str], successor: str | None, now: float) -> list[str]:
    tasks_text = f" with {count(len(on), 'task')} ({listed(list(on), TASKS_SHOWN)})" if on else ""
    match state:
        case instances.Requested():
            again = f"; looked at again {when(state.next_at, now)}" if state.next_at is not None else ""
            return [f"It {_doing(state)}, for {lasting(now - state.since)}{again}."]
        case instances.Provisioning() | instances.Bootstrapping():
            return [f"Now it {_doing(state)}; given up {when(state.deadline, now)} if not."]
        case instances.Ready():
            silent = state.silent_since
            text = f"It has been ready for {lasting(now - state.since)}{tasks_text}"
            if silent is not None:
                text += f", and silent for {lasting(now - silent)}"
                text += f": given up {when(state.gone_at, now)}" if state.gone_at is not None else ""
            return [f"{text}; it has cost {usd(_cost(state, now))}."]
        case instances.Draining():
            by = clock(state.deadline, now)
            text = f"It is leaving ({why_gone(state.reason)}){tasks_text}, by {by} at the latest."
            return [text, *_instead(successor)]
        case instances.Destroying():
            told = f", {count(state.tries, 'try', 'tries')}" if state.tries else ""
            fault = f", the last one refused: {state.last_fault}" if state.last_fault else ""
            again = f"; asked again {when(state.next_at, now)}" if state.next_at is not None else ""
            since = lasting(now - state.since)
            text = f"It is being ended ({why_gone(state.reason)}) since {since}{told}{fault}{again}."
            return [text, *_instead(successor)]
        case instances.Destroyed(launched=False):
            return [f"It never became a machine ({why_gone(state.reason)}).", *_instead(successor)]
        case instances.Destroyed():
            lived = lasting((state.ended_at or state.since) - state.created_at)
            since = f"{lasting(now - state.since)} (since {clock(state.since, now)})"
            text = f"It has been gone for {since}, {why_gone(state.reason)}."
            cost = f"It lived {lived} and cost {usd(state.cost_micro_usd)}."
            return [text, cost, *_instead(successor)]
        case _:
            assert_never(state)


def why_gone(reason: str) -> str:
    """A reason of ours in words; what is in a provider's words stays."""
    words = WHY_GONE.get(reason)
    return f"{reason}: {words}" if words else reason


def _instead(successor: str | None) -> list[str]:
    return [f"{successor} was ordered in its place."] if successor else []
