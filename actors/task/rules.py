"""What a task does about what it hears. Pure.

A new attempt starts only when the old one surely ended: the agent said so, or its machine is observed
absent. A task marked at_least_once need not wait for that when its machine can't be talked to.
"""

import signal
from typing import Any, assert_never

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import Effect, Say, StartTask, TaskFilesDone
from actors.events import TaskAttemptEnded, TaskCompleted, TaskQueued, TaskRequested, TaskStarted
from actors.messages import (
    AgentHolds,
    AgentReported,
    Due,
    MachineGone,
    MachineLeaving,
    MachineUnreachable,
    Message,
    StopWanted,
    Submitted,
    TaskLeft,
    TaskMessage,
    TaskOver,
)
from actors.messages import (
    Assigned as AssignedMessage,
)
from actors.policy.backoff import retry_delay_s
from actors.policy.results import Verdict, of_ended, of_gone
from actors.spec import FETCH_BYTES_MAX
from actors.task.state import (
    Assigned,
    Created,
    Invalid,
    Pending,
    Placed,
    Running,
    Stopped,
    Stopping,
    TaskState,
)
from providers.agent.wire import Ended, Refused, Start, Started, Stop
from providers.model import made

SAY_AGAIN_S = 30.0  # a stop that was not confirmed is said again
REFUSED_WAIT_S = 5.0  # before a task goes again to a machine that seemed well and would not start it
RETRY_FIRST_S = 1.0
RETRY_MOST_S = 300.0
_SIGNALS = {one.value: one.name for one in signal.Signals}
_COMMON = (
    "id",
    "pool",
    "spec",
    "seq",
    "attempt",
    "failures",
    "interruptions",
    "stop_requests",
    "queued_at",
    "cost_micro_usd",
)


def decide(state: TaskState | None, message: TaskMessage, view: View) -> Decision:
    """Next step of one task."""
    match state:
        case None:
            return _first(message, view) if isinstance(message, Submitted) else Decision(None)
        case Pending():
            return _while_pending(state, message, view)
        case Assigned() | Created() | Running():
            return _while_placed(state, message, view)
        case Stopping() | Invalid():
            return _while_stopping(state, message, view)
        case Stopped():
            return Decision(state)
        case _:
            assert_never(state)


def _common(state: TaskState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in _COMMON}


def _place(state: Placed) -> dict[str, Any]:
    return _common(state) | {"instance_id": state.instance_id, "node": state.node}


def _first(submitted: Submitted, view: View) -> Decision:
    envelope = submitted.envelope
    request = envelope.event
    assert isinstance(request, TaskRequested)
    state = made(
        Pending,
        id=request.request_id,
        pool=request.pool,
        spec=request.task,
        seq=envelope.seq,
        since=view.now,
        queued_at=view.now,
    )
    queued = made(TaskQueued, task_id=state.id, attempt=1)
    return Decision(state, facts=(Published(queued, request_id=state.id),), taken=(state.id,))


# --- pending --------------------------------------------------------------------------------------


def _while_pending(state: Pending, message: TaskMessage, view: View) -> Decision:
    match message:
        case AssignedMessage(instance_id=instance, node=node):
            assigned = Assigned(**_common(state), since=view.now, instance_id=instance, node=node)
            return Decision(assigned, effects=(start(assigned, view),))
        case StopWanted():
            asked = _with_stop(state, message)
            return _over(asked, Verdict("terminated", message.reason), view, taken=_taken(message))
        case Due():
            if state.not_before is not None and view.now >= state.not_before:
                return Decision(state.model_copy(update={"not_before": None}))
            return Decision(state)
        case (
            Submitted()
            | AgentReported()
            | AgentHolds()
            | MachineGone()
            | MachineLeaving()
            | MachineUnreachable()
        ):
            return Decision(state)
        case _:
            assert_never(message)


def start(state: Placed, view: View) -> StartTask:
    """What the agent is told; it starts an attempt once, however often it hears of it."""
    spec, pool = state.spec, view.index.pool_spec
    quota = pool.log_bytes_max if spec.log_bytes_max is None else spec.log_bytes_max
    own = spec.env | {"EVERPOOL_POOL": state.pool, "EVERPOOL_NODE": str(state.node)}
    command = Start(
        epoch=view.epoch,
        task=state.id,
        attempt=state.attempt,
        argv=spec.argv,
        shell=spec.shell,
        env=pool.image.env | own,
        cwd=spec.cwd,
        fetch=spec.fetch,
        fetch_bytes_max=FETCH_BYTES_MAX,
        timeout_s=spec.timeout_s,
        grace_s=spec.grace_s,
        on_notice=spec.on_notice,
        log_bytes_max=quota,
    )
    if spec.env_groups:
        return StartTask(state.instance_id, spec.files, command, spec.env_groups, own)
    return StartTask(state.instance_id, spec.files, command)


def _taken(stop: StopWanted) -> tuple[str, ...]:
    return () if stop.request_id is None else (stop.request_id,)


def _with_stop(state: TaskState, stop: StopWanted) -> dict[str, Any]:
    """The common fields, with the request that waits for the end added."""
    return _common(state) | {"stop_requests": (*state.stop_requests, *_taken(stop))}


# --- assigned, created, running -------------------------------------------------------------------


def _while_placed(state: Assigned | Created | Running, message: TaskMessage, view: View) -> Decision:
    match message:
        case AgentReported(report=report) if _concerns(state, message):
            return _reported(state, report, view)
        case AgentHolds(instance_id=instance) if instance == state.instance_id:
            return _held(state, message, view)
        case MachineGone(instance_id=instance, reason=reason) if instance == state.instance_id:
            return _attempt_ended(state, _gone(reason), None, view)
        case MachineLeaving(instance_id=instance) if instance == state.instance_id:
            if isinstance(state, Running):  # the agent gives it its notice
                return Decision(state)
            return _stop(state, _common(state), "moved", 0, view)
        case MachineUnreachable(instance_id=instance) if instance == state.instance_id:
            if state.spec.at_least_once:
                return _attempt_ended(state, of_gone("unreachable"), None, view)
            return Decision(state)
        case StopWanted(reason=reason, grace_s=grace_s):
            grace = state.spec.grace_s if grace_s is None else grace_s
            stopped = _stop(state, _with_stop(state, message), reason, grace, view)
            return Decision(stopped.state, effects=stopped.effects, taken=_taken(message))
        case (
            Due()
            | Submitted()
            | AssignedMessage()
            | AgentReported()
            | AgentHolds()
            | MachineGone()
            | MachineLeaving()
            | MachineUnreachable()
        ):
            return Decision(state)
        case _:
            assert_never(message)


def _concerns(state: Placed, message: AgentReported) -> bool:
    report = message.report
    return (
        isinstance(report, Started | Ended | Refused)
        and report.attempt == state.attempt
        and message.instance_id == state.instance_id
    )


def _reported(state: Assigned | Created | Running, report: Any, view: View) -> Decision:
    match report:
        case Started():
            if isinstance(state, Running):
                return Decision(state)
            running = Running(**_place(state), since=view.now, pid=report.pid, started_at=report.at)
            fact = TaskStarted(
                task_id=state.id,
                instance=view.index.node_instance(state.instance_id),
                function_name=state.spec.title,
                attempt=state.attempt,
                env_groups=dict(report.env_groups),
            )
            return Decision(running, facts=(Published(fact, request_id=state.id),))
        case Ended():
            return _attempt_ended(state, of_ended(report, None), report, view)
        case Refused():
            return _invalid(state, f"refused: {report.reason}", view)
        case _:
            return Decision(state)


def _held(state: Assigned | Created | Running, message: AgentHolds, view: View) -> Decision:
    """The stream is new: does the agent hold what we think it holds?"""
    ours = message.attempt == state.attempt
    match state:
        case Assigned() | Created() if ours and message.state == "waiting":
            return Decision(Created(**_place(state), since=view.now))
        case Assigned() | Created() if not ours and message.same_boot:
            return Decision(state, effects=(start(state, view),))  # it never arrived
        case _ if ours:  # running, or ended and told again: its reports come
            return Decision(state)
        case _:
            return _invalid(state, "the agent does not hold it", view)


def _invalid(state: Assigned | Created | Running, reason: str, view: View) -> Decision:
    invalid = Invalid(
        **_place(state),
        since=view.now,
        reason=reason,
        started_at=state.started_at if isinstance(state, Running) else None,
        next_at=view.now + SAY_AGAIN_S,
    )
    return Decision(invalid, effects=(_say_stop(invalid, state.spec.grace_s, view),))


def _stop(
    state: Assigned | Created | Running, common: dict[str, Any], reason: str, grace_s: float, view: View
) -> Decision:
    stopping = Stopping(
        **(common | {"instance_id": state.instance_id, "node": state.node}),
        since=view.now,
        reason=reason,
        grace_s=grace_s,
        started_at=state.started_at if isinstance(state, Running) else None,
        next_at=view.now + grace_s + SAY_AGAIN_S,
    )
    return Decision(stopping, effects=(_say_stop(stopping, grace_s, view),))


def _say_stop(state: Placed, grace_s: float, view: View) -> Say:
    stop = Stop(epoch=view.epoch, task=state.id, attempt=state.attempt, grace_s=grace_s)
    return Say(state.instance_id, stop)


# --- stopping, invalid ----------------------------------------------------------------------------


def _while_stopping(state: Stopping | Invalid, message: TaskMessage, view: View) -> Decision:
    grace_s = state.grace_s if isinstance(state, Stopping) else state.spec.grace_s
    match message:
        case AgentReported(report=Ended() as report) if _concerns(state, message):
            return _attempt_ended(state, _stopped_verdict(state, report), report, view)
        case AgentReported(report=Started() as report) if _concerns(state, message):
            if isinstance(state, Stopping):
                return Decision(state.model_copy(update={"started_at": report.at}))
            return Decision(state)
        case MachineGone(instance_id=instance, reason=reason) if instance == state.instance_id:
            return _attempt_ended(state, _gone(reason), None, view)
        case AgentHolds(instance_id=instance) if instance == state.instance_id:
            return Decision(state, effects=(_say_stop(state, grace_s, view),))
        case Due() if view.now >= state.next_at:
            again = state.model_copy(update={"next_at": view.now + SAY_AGAIN_S})
            return Decision(again, effects=(_say_stop(state, grace_s, view),))
        case StopWanted(reason=reason):
            fields = _with_stop(state, message) | {"instance_id": state.instance_id, "node": state.node}
            grace_s = grace_s if message.grace_s is None else message.grace_s
            stopping = Stopping(
                **fields,
                since=view.now,
                reason=reason,
                grace_s=grace_s,
                started_at=getattr(state, "started_at", None),
                next_at=view.now + grace_s + SAY_AGAIN_S,
            )
            return Decision(stopping, effects=(_say_stop(stopping, grace_s, view),), taken=_taken(message))
        case (
            Due()
            | Submitted()
            | AssignedMessage()
            | AgentReported()
            | AgentHolds()
            | MachineGone()
            | MachineLeaving()
            | MachineUnreachable()
        ):
            return Decision(state)
        case _:
            assert_never(message)


def _stopped_verdict(state: Stopping | Invalid, report: Ended) -> Verdict:
    if isinstance(state, Invalid):
        return Verdict("unknown", state.reason, infrastructure=True)
    verdict = of_ended(report, state.reason)
    if state.reason == "moved" and verdict.result in ("terminated", "killed"):
        return Verdict("resource_failure", "moved", True, counts=report.started)
    return verdict


# --- the end of an attempt ------------------------------------------------------------------------


# With a machine that a better one replaced an attempt ends by our own wish, which is not held against it.
MOVED = Verdict("resource_failure", "moved", infrastructure=True, counts=False)


def _gone(reason: str) -> Verdict:
    return MOVED if reason == "moved" else of_gone(reason)


def _attempt_ended(state: Placed, verdict: Verdict, report: Ended | None, view: View) -> Decision:
    is_lost = verdict.result == "resource_failure" and verdict.infrastructure and verdict.counts
    if is_lost and view.index.was_moved(state.instance_id):
        verdict = MOVED
    cost = _cost(state, _duration(state, report, view), view)
    common = _common(state) | {"cost_micro_usd": state.cost_micro_usd + cost}
    fact = TaskAttemptEnded(
        task_id=state.id,
        attempt=state.attempt,
        instance_id=state.instance_id,
        result=verdict.result,
        reason=verdict.reason,
        exit_code=report.code if report else None,
        signal=report.signal if report else None,
        cost_micro_usd=cost,
    )
    facts = (Published(fact, request_id=state.id),)
    left: tuple[tuple[Address, Message], ...] = ()
    if view.index.is_leaving(state.instance_id):
        left = ((("instance", state.instance_id), TaskLeft()),)
    stop_wanted = isinstance(state, Stopping) and state.reason != "moved"
    if verdict.result == "success" or stop_wanted or not _may_retry(state, verdict, view):
        over = _over(common, verdict, view, placed=state, report=report)
        return Decision(over.state, over.tells + left, over.effects, facts + over.facts)
    failures = state.failures + (0 if verdict.infrastructure else 1)
    interruptions = state.interruptions + (1 if verdict.infrastructure and verdict.counts else 0)
    not_before = None
    if not verdict.infrastructure:
        wait = retry_delay_s(failures, view.draw, first_s=RETRY_FIRST_S, most_s=RETRY_MOST_S)
        not_before = view.now + wait
    elif not verdict.counts and view.index.is_ready(state.instance_id):
        not_before = view.now + REFUSED_WAIT_S  # the agent takes no work, and we do not know why: no hot loop
    again = common | {
        "attempt": state.attempt + 1,
        "failures": failures,
        "interruptions": interruptions,
        "queued_at": view.now,
    }
    pending = Pending(**again, since=view.now, not_before=not_before)
    queued = TaskQueued(task_id=state.id, attempt=pending.attempt)
    return Decision(pending, tells=left, facts=(*facts, Published(queued, request_id=state.id)))


def _may_retry(state: Placed, verdict: Verdict, view: View) -> bool:
    if not verdict.infrastructure:
        return state.failures < state.spec.retries
    allowed = state.spec.retries_infrastructure
    if allowed is None:
        allowed = view.index.pool_spec.retry_on_interruption
    return not verdict.counts or state.interruptions < allowed


def _duration(placed: Placed | None, report: Ended | None, view: View) -> float:
    if report is not None and report.seconds:
        return report.seconds
    started_at = getattr(placed, "started_at", None)
    return max(0.0, view.now - started_at) if started_at is not None else 0.0


def _cost(placed: Placed, seconds: float, view: View) -> int:
    """Micro-dollars: the attempt's share of its machine's price, as many share it as may run at once."""
    machine = view.index.instances.get(placed.instance_id)
    if machine is not None and machine.bill is not None:
        per_hour = machine.bill.micro_usd_per_hour
    else:
        shown = view.index.node_instance(placed.instance_id)
        per_hour = 0 if shown is None else shown.instance.offer.micro_usd_per_hour
    return round(per_hour * seconds / 3600 / view.index.pool_spec.worker.concurrency)


def _words(verdict: Verdict, report: Ended | None) -> str:
    """How a task ended otherwise than well, for people."""
    because = f" ({verdict.reason})" if verdict.reason else ""
    if report and report.code not in (None, 0):
        return f"exit code {report.code}{because}"
    if report and report.signal is not None:
        return f"ended by {_SIGNALS.get(report.signal, f'signal {report.signal}')}{because}"
    return f"{verdict.result}: {verdict.reason}" if verdict.reason else verdict.result


def _over(
    common: dict[str, Any],
    verdict: Verdict,
    view: View,
    *,
    placed: Placed | None = None,
    report: Ended | None = None,
    taken: tuple[str, ...] = (),
) -> Decision:
    """The task's one and only end."""
    error = None
    if verdict.result != "success":
        error = (report.error if report else None) or _words(verdict, report)
    stopped = Stopped(
        **common,
        since=view.now,
        result=verdict.result,
        reason=verdict.reason,
        exit_code=report.code if report else None,
        signal=report.signal if report else None,
        instance_id=placed.instance_id if placed else None,
        node=placed.node if placed else None,
        duration=_duration(placed, report, view),
        error=error,
        ended_at=view.now,
        lines_dropped=report.lines_dropped if report else 0,
    )
    completed = TaskCompleted(
        task_id=stopped.id,
        instance=view.index.node_instance(placed.instance_id) if placed else None,
        duration=stopped.duration,
        success=verdict.result == "success",
        error=error,
        result=verdict.result,
        reason=verdict.reason,
        exit_code=stopped.exit_code,
        attempts=stopped.attempt if placed else stopped.attempt - 1,
        function_name=stopped.spec.title,
        cost_micro_usd=stopped.cost_micro_usd,
    )
    ends = (stopped.id, *stopped.stop_requests)
    return Decision(
        stopped,
        tells=((("pool", stopped.pool), TaskOver(stopped.id, stopped.duration)),),
        effects=(TaskFilesDone(stopped.id),),
        facts=(Published(completed, request_id=stopped.id, ends=ends),),
        taken=taken,
    )


def condemn(state: TaskState, view: View) -> Decision:
    """What becomes of a task whose rules failed too often: it ends as unknown, its process is stopped."""
    if isinstance(state, Stopped):
        return Decision(state)
    placed = None if isinstance(state, Pending) else state
    over = _over(_common(state), Verdict("unknown", "bug"), view, placed=placed)
    return over if placed is None else over.also(effects=(_say_stop(placed, 0, view),))


def resume(state: TaskState, view: View) -> tuple[Effect, ...]:
    """What the agent must hear again is said when its stream is up (AgentHolds)."""
    del state, view
    return ()


def check(state: TaskState) -> None:
    """What always holds."""
    assert state.attempt >= 1, state
    assert min(state.failures, state.interruptions) >= 0, state
    if isinstance(state, Stopped):
        assert state.result, state
