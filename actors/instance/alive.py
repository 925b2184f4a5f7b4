"""A machine that is there: waiting for its address, its agent, its set-up; then working."""

from typing import Any, assert_never

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import Acknowledge, Effect, Look, Say, StartSetUp, TellMarket
from actors.events import (
    BootstrapCommand,
    BootstrapFailed,
    BootstrapPhase,
    BootstrapRequested,
    InstanceBootstrapped,
    InstanceProvisioned,
    InstanceReplaced,
    NoticeWithdrawn,
)
from actors.instance import endings, parts
from actors.instance.facts import node_instance, running
from actors.instance.state import Alive, Bootstrapping, Draining, Linked, Provisioning, Ready
from actors.messages import (
    AbsenceObserved,
    AgentHolds,
    AgentReported,
    AgentSaid,
    BootstrapWanted,
    Due,
    FindFailed,
    Found,
    InstanceLeaving,
    InstanceMessage,
    InstanceReady,
    InstanceStays,
    LaunchFailed,
    LaunchSucceeded,
    LaunchWanted,
    LeaveWanted,
    LinkDown,
    LinkUp,
    LossWithdrawn,
    MachineLeaving,
    MachineUnreachable,
    Message,
    NothingFound,
    Renumbered,
    TaskLeft,
    TerminateFailed,
    TerminateSucceeded,
    VendorNotice,
)
from providers.agent.wire import (
    Bootstrap,
    BootstrapEnded,
    BootstrapStep,
    Console,
    Drain,
    Ended,
    FetchedFile,
    LogLines,
    Metrics,
    NoticeGone,
    NoticeSeen,
    Phase,
    PhaseCommand,
    Refused,
    Report,
    Started,
    Stop,
    Unhealthy,
)
from providers.model import Notice, Sighting

# --- provisioning ---------------------------------------------------------------------------------


def while_provisioning(state: Provisioning, message: InstanceMessage, view: View) -> Decision:
    """Accepted by the provider: next step until the agent answers."""
    match message:
        case Found(sighting=sighting) if sighting.state in ("stopping", "stopped"):
            return _taken_unready(state, sighting.detail or sighting.state, view)
        case Found(sighting=sighting):
            decision = _addressed(state, sighting, view)
            if sighting.notice is not None and not sighting.notice.early:
                assert isinstance(decision.state, Provisioning)
                taken = _taken_unready(decision.state, sighting.notice.reason, view)
                return Decision(taken.state, taken.tells, taken.effects, decision.facts + taken.facts)
            return decision
        case VendorNotice(notice=notice) if notice is not None and not notice.early:
            return _taken_unready(state, notice.reason, view)
        case LinkUp(accepted=True) if state.address is not None:
            return _provisioned(state, message, view)
        case Due() if view.now >= state.deadline:
            what = "no address" if state.address is None else "could not be reached"
            return _never_ready(state, "timeout", f"{what} in time", view)
        case LeaveWanted(reason=reason):
            return endings.destroy(state, reason, view).also(tells=(endings.failed(state, reason),))
        case AbsenceObserved(at=at, told=told):
            return endings.gone(state, "gone", view, at, told)
        case LinkUp() | LinkDown() | Due() | VendorNotice() | AgentSaid() | TaskLeft() | BootstrapWanted():
            return Decision(state)
        case LaunchWanted() | LaunchSucceeded() | LaunchFailed() | NothingFound() | FindFailed():
            return Decision(state)
        case TerminateSucceeded() | TerminateFailed() | Renumbered():
            return Decision(state)
        case _:
            assert_never(message)


def _addressed(state: Provisioning, sighting: Sighting, view: View) -> Decision:
    if sighting.address is None or sighting.address == state.address:
        return Decision(state)
    update = {"address": sighting.address, "deadline": view.now + view.index.pool_spec.ssh_timeout}
    addressed = state.model_copy(update=update)
    facts = () if state.address else (Published(running(addressed), request_id=state.request_id),)
    return Decision(addressed, effects=(parts.connect(addressed, view),), facts=facts)


def _taken_unready(state: Provisioning | Bootstrapping, reason: str, view: View) -> Decision:
    """Preempted before it was ready: replaced like any other, and there is nothing to drain."""
    return endings.destroy(state, "preempted", view, facts=(endings.preempted(state, reason),)).also(
        tells=(endings.failed(state, "preempted"),),
        effects=(parts.loss(state, view),),
    )


def _never_ready(state: Provisioning | Bootstrapping, reason: str, error: str, view: View) -> Decision:
    """Patience ended, or a step failed: the pool's breaker counts it."""
    return endings.destroy(state, reason, view).also(
        tells=(
            endings.failed(state, error),
            parts.set_up_ended(state, error, view),
        )
    )


def _provisioned(state: Provisioning, message: LinkUp, view: View) -> Decision:
    fact = Published(
        InstanceProvisioned(request_id=state.request_id, instance=node_instance(state)),
        request_id=state.request_id,
    )
    linked = parts.common(state) | {
        "handle": state.handle,
        "launched_at": state.launched_at,
        "address": state.address,
        "retire_at": state.retire_at,
        "expires_at": state.expires_at,
        "boot": message.boot,
    }
    decision = _bootstrap(linked, f"bootstrap:{state.id}", state.request_id, again=False, view=view)
    return Decision(decision.state, effects=decision.effects, facts=(fact, *decision.facts))


def _bootstrap(fields: dict[str, Any], run_id: str, cause: str, *, again: bool, view: View) -> Decision:
    """Start the set-up. The internal BootstrapRequested has the run's id as its request id."""
    spec = view.index.pool_spec
    state = Bootstrapping(
        **(fields | _built(fields["image"], fields["disk_gb"], view)),
        since=view.now,
        run_id=run_id,
        bootstrap_request=run_id,
        deadline=view.now + spec.bootstrap_timeout,
        again=again,
    )
    asked = BootstrapRequested(
        request_id=run_id, instance=node_instance(state), cluster_id=state.cluster.cluster_id
    )
    return Decision(
        state,
        effects=(_set_up(state, state.boot or "", view),),
        facts=(Published(asked, request_id=cause),),
    )


def _built(mark: str, disk_gb: float | None, view: View) -> dict[str, Any]:
    """What a machine keeps of how it was made, set up now. The mark may be its first."""
    build = view.index.build
    return {"image": build.set_up(mark), "disk_gb": build.ordered_gb(mark, disk_gb)}


def _set_up(state: Bootstrapping, boot: str, view: View) -> Say | StartSetUp:
    command, groups = bootstrap_command(state, view), view.index.pool_spec.image.env_groups
    return StartSetUp(state.id, boot, command, groups) if groups else Say(state.id, command)


def bootstrap_command(state: Bootstrapping, view: View) -> Bootstrap:
    """What the agent is told to run; it answers a run it knows by where that stands."""
    image = view.index.pool_spec.image
    steps = tuple(BootstrapStep(phase=s.phase, run=s.run, timeout_s=s.timeout_s) for s in image.steps)
    return Bootstrap(epoch=view.epoch, run_id=state.run_id, env=image.env, steps=steps)


# --- bootstrapping --------------------------------------------------------------------------------


def while_bootstrapping(state: Bootstrapping, message: InstanceMessage, view: View) -> Decision:
    """Connected: next step until the set-up has ended."""
    match message:
        case AgentSaid():
            return agent_said(state, message, view)
        case LinkUp(accepted=True):  # one that forgot the run begins anew, with the steps of now
            marked = state.model_copy(update=_built(state.image, state.disk_gb, view))
            return link_up(marked, message, view).also(effects=(_set_up(state, message.boot, view),))
        case LinkDown():
            down = state.model_copy(
                update={
                    "link_up": False,
                    "silent_since": view.now,
                    "tasks_over_at": parts.tasks_over_at(state, message.lease_until, view),
                }
            )
            return Decision(down, effects=(Look(state.handle.provider),))
        case VendorNotice(notice=notice) if notice is not None and not notice.early:
            return _taken_unready(state, notice.reason, view)
        case Found(sighting=sighting) if sighting.state in ("stopping", "stopped"):
            return _taken_unready(state, sighting.detail or sighting.state, view)
        case Found(sighting=sighting) if sighting.notice is not None and not sighting.notice.early:
            return _taken_unready(state, sighting.notice.reason, view)
        case Due() if view.now >= state.deadline:
            return _never_ready(state, "timeout", "set-up did not end in time", view)
        case LeaveWanted(reason=reason):
            return endings.destroy(state, reason, view).also(tells=(endings.failed(state, reason),))
        case AbsenceObserved() if (doubted := doubting(state, message, view)) is not None:
            return doubted
        case AbsenceObserved(at=at, told=told):
            return endings.gone(state, "gone", view, at, told)
        case BootstrapWanted(request_id=request):
            waiting = (*state.bootstrap_requests, request)
            return Decision(state.model_copy(update={"bootstrap_requests": waiting}), taken=(request,))
        case LinkUp() | Found() | Due() | VendorNotice() | TaskLeft() | LaunchWanted() | LaunchSucceeded():
            return Decision(state)
        case LaunchFailed() | NothingFound() | FindFailed() | TerminateSucceeded() | TerminateFailed():
            return Decision(state)
        case Renumbered():
            return Decision(state)
        case _:
            assert_never(message)


def _bootstrap_ended(state: Bootstrapping, report: BootstrapEnded, view: View) -> Decision:
    if report.run_id != state.run_id:
        return Decision(state)
    requests = (state.bootstrap_request, *state.bootstrap_requests)
    if report.phase is not None or report.error is not None:
        return _bootstrap_failed(state, report, requests, view)
    ready = Ready(
        **(parts.linked_fields(state) | {"bootstrap_requests": (), "worked": True}),
        since=view.now,
        gone_at=None if state.link_up else view.now + view.index.pool_spec.unreachable_timeout,
    )
    value = node_instance(ready)
    if state.again:
        return Decision(ready, facts=(Published(InstanceBootstrapped(instance=value), ends=requests),))
    ends = requests if state.replacing else (state.request_id, *requests)
    facts = [Published(InstanceBootstrapped(instance=value), request_id=state.request_id, ends=ends)]
    if state.replacing:
        replaced = InstanceReplaced(request_id=state.request_id, old_id=state.replacing, new=value)
        extra = view.index.replacement_requests(state.node, state.replacing)
        facts.append(Published(replaced, request_id=state.request_id, ends=(state.request_id, *extra)))
    return Decision(
        ready,
        tells=(
            parts.to_node(state, InstanceReady(state.id)),
            parts.set_up_ended(state, None, view),
        ),
        facts=tuple(facts),
    )


def _bootstrap_failed(
    state: Bootstrapping, report: BootstrapEnded, requests: tuple[str, ...], view: View
) -> Decision:
    error = f"{report.phase}: {report.error}" if report.error else str(report.phase)
    fact = BootstrapFailed(instance=node_instance(state), phase=report.phase or "", error=report.error or "")
    ends = requests if state.again else (state.request_id, *requests)
    destroyed = endings.destroy(state, "failed", view)
    return Decision(
        destroyed.state,
        (
            *destroyed.tells,
            endings.failed(state, error),
            parts.set_up_ended(state, error, view),
        ),
        destroyed.effects,
        (Published(fact, request_id=state.request_id, ends=ends),),
    )


# --- ready ----------------------------------------------------------------------------------------


def while_ready(state: Ready, message: InstanceMessage, view: View) -> Decision:
    """Set up and working: next step."""
    match message:
        case AgentSaid():
            return agent_said(state, message, view)
        case LinkUp(accepted=True):  # a withdrawn notice may not have reached it: it would refuse all work
            return link_up(state, message, view).also(effects=(Say(state.id, _undrained(view)),))
        case LinkDown() if state.link_up:
            spec = view.index.pool_spec
            down = state.model_copy(
                update={
                    "link_up": False,
                    "silent_since": view.now,
                    "tasks_over_at": parts.tasks_over_at(state, message.lease_until, view),
                    "gone_at": view.now + spec.unreachable_timeout,
                }
            )
            return Decision(down, effects=(Look(state.handle.provider),))
        case Due() if state.gone_at is not None and view.now >= state.gone_at:
            return _unreachable(state, view)
        case Due() if state.retire_at is not None and view.now >= state.retire_at:
            return _retires(state, view)
        case VendorNotice(notice=notice) if notice is not None:
            return leave(state, notice, view, tell_agent=True)
        case Found(sighting=sighting):
            return _seen(state, sighting, view)
        case LeaveWanted(reason=reason, within_s=within_s):
            return _sent_away(state, reason, within_s, view)
        case AbsenceObserved() if (doubted := doubting(state, message, view)) is not None:
            return doubted
        case AbsenceObserved(at=at, told=told):
            decision = endings.gone(state, "gone", view, at, told)
            leaving = parts.to_node(state, InstanceLeaving(state.id, "gone", works=False))
            return Decision(decision.state, (leaving, *decision.tells), decision.effects, decision.facts)
        case BootstrapWanted(request_id=request):
            fields = parts.linked_fields(state) | {"bootstrap_requests": ()}
            run_id = f"bootstrap:{state.id}:{request}"
            again = _bootstrap(fields, run_id, request, again=True, view=view)
            assert isinstance(again.state, Bootstrapping)
            asked = again.state.model_copy(update={"bootstrap_requests": (request,)})
            return Decision(asked, again.tells, again.effects, again.facts, taken=(request,))
        case LinkUp() | LinkDown() | Due() | VendorNotice() | TaskLeft() | LaunchWanted() | LaunchSucceeded():
            return Decision(state)
        case LaunchFailed() | NothingFound() | FindFailed() | TerminateSucceeded() | TerminateFailed():
            return Decision(state)
        case Renumbered():
            return Decision(state)
        case _:
            assert_never(message)


def _undrained(view: View) -> Drain:
    return Drain(epoch=view.epoch, within_s=None)


def _unreachable(state: Ready, view: View) -> Decision:
    """Silent for too long. Its tasks wait for its observed absence; the market may be to blame."""
    fact = endings.preempted(state, "unreachable")
    return endings.destroy(state, "unreachable", view, facts=(fact,)).also(
        tells=parts.to_tasks(state, MachineUnreachable(state.id), view)
    )


def _seen(state: Ready, sighting: Sighting, view: View) -> Decision:
    if sighting.state in ("stopping", "stopped"):  # never resumed: ended, and replaced
        fact = endings.preempted(state, sighting.detail or sighting.state)
        return endings.destroy(state, "preempted", view, facts=(fact,)).also(
            effects=(parts.loss(state, view),)
        )
    if sighting.notice is not None:
        return leave(state, sighting.notice, view, tell_agent=True)
    if sighting.address is not None and sighting.address != state.address:
        moved = state.model_copy(update={"address": sighting.address})
        return Decision(moved, effects=(parts.connect(moved, view),))
    return Decision(state)


EARLY_DRAIN_S = 6 * 3600.0  # a machine that was recommended to leave may finish what it does


def leave(state: Ready, notice: Notice, view: View, *, tell_agent: bool) -> Decision:
    """A notice came: the fact, and the node asks for the replacement in this very turn."""
    spec = view.index.pool_spec
    within_s = EARLY_DRAIN_S if notice.early else spec.drain_timeout
    deadline = notice.deadline_at if notice.deadline_at is not None else view.now + within_s
    draining = Draining(
        **parts.linked_fields(state),
        since=view.now,
        reason="preempted",
        deadline=max(deadline, view.now),
        noticed=True,
        final=not notice.early,
        lost=not notice.early,
    )
    effects: tuple[Effect, ...] = () if notice.early else (parts.loss(state, view),)
    if tell_agent and not notice.early:
        left = max(0.0, deadline - view.now)
        effects = (Say(state.id, Drain(epoch=view.epoch, within_s=left)), *effects)
    return Decision(
        draining,
        tells=(
            parts.to_node(state, InstanceLeaving(state.id, "preempted", works=True)),
            *parts.to_tasks(state, MachineLeaving(state.id, "preempted"), view),
        ),
        effects=effects,
        facts=(endings.preempted(state, notice.reason),),
    )


def _sent_away(state: Ready, reason: str, within_s: float, view: View) -> Decision:
    if within_s <= 0 or not view.index.tasks_on(state.id):
        return endings.destroy(state, reason, view)
    draining = Draining(
        **parts.linked_fields(state), since=view.now, reason=reason, deadline=view.now + within_s
    )
    return Decision(draining, tells=parts.to_tasks(state, MachineLeaving(state.id, reason), view))


def doubting(state: Linked, message: AbsenceObserved, view: View) -> Decision | None:
    """Listings lack a machine whose stream is open: it is opened anew, and how that ends decides.

    None: believe them. Only the new stream's end counts, not time: this may be heard long before anything
    of it could be done.
    """
    if message.told is not None or not state.link_up:
        return None
    if state.doubted_at is not None:
        return Decision(state)
    doubted = state.model_copy(update={"doubted_at": view.now})
    return Decision(doubted, effects=(parts.connect(doubted, view),))


# --- the agent's word, in any connected state -----------------------------------------------------


def link_up(state: Linked, message: LinkUp, view: View) -> Decision:
    """The stream is open (again): tasks learn what the agent holds of them."""
    if not message.accepted:
        return Decision(state)
    same_boot = state.boot == message.boot
    update: dict[str, Any] = {
        "link_up": True,
        "silent_since": None,
        "doubted_at": None,
        "tasks_over_at": None,
        "boot": message.boot,
    }
    if not same_boot:
        update["acked"] = 0
    if isinstance(state, Ready):
        update["gone_at"] = None
    held = {task: (attempt, word) for task, attempt, word in message.tasks}
    ours = view.index.tasks_on(state.id)
    tells: list[tuple[Address, Message]] = []
    for task in ours:
        attempt, word = held.get(task, (None, None))
        tells.append((("task", task), AgentHolds(state.id, attempt, word, same_boot)))
    strays = tuple(
        Say(state.id, Stop(epoch=view.epoch, task=task, attempt=attempt, grace_s=0))
        for task, (attempt, word) in held.items()
        if task not in ours and word != "ended"
    )
    return Decision(state.model_copy(update=update), tells=tuple(tells), effects=strays)


def agent_said(state: Linked, message: AgentSaid, view: View) -> Decision:
    """Reports, in order. Those that were journaled before the last crash are passed over."""
    if message.boot != state.boot:
        return Decision(state)
    decision = Decision(state.model_copy(update={"acked": max(state.acked, message.last_id)}))
    for report in message.reports:
        if report.id <= state.acked:
            continue
        current = decision.state
        assert isinstance(current, Bootstrapping | Ready | Draining) or current is not None
        step = _report(current, report, view) if isinstance(current, Linked) else _late(state, report)
        decision = Decision(
            step.state if step.state is not None else current,
            decision.tells + step.tells,
            decision.effects + step.effects,
            decision.facts + step.facts,
        )
    return decision.also(effects=(Acknowledge(state.id, message.boot, message.last_id),))


def last_words(state: Any, message: AgentSaid, view: View) -> Decision:
    """What the agent of a machine that is being ended still has to say of its tasks."""
    del view
    tells = tuple(tell for report in message.reports for tell in _late(state, report).tells)
    return Decision(state, tells=tells, effects=(Acknowledge(state.id, message.boot, message.last_id),))


def _late(state: Any, report: Report) -> Decision:
    if isinstance(report, Started | Ended | Refused) and report.task:
        return Decision(None, tells=(parts.to_task(report.task, AgentReported(state.id, report)),))
    return Decision(None)


def _report(state: Linked, report: Report, view: View) -> Decision:
    match report:
        case Started() | Ended():
            return Decision(state, tells=(parts.to_task(report.task, AgentReported(state.id, report)),))
        case Refused():
            tells = (parts.to_task(report.task, AgentReported(state.id, report)),) if report.task else ()
            return Decision(state, tells=tells)
        case Phase():
            phase = BootstrapPhase(
                instance=node_instance(state),
                event=report.event,
                phase=report.phase,
                elapsed=report.elapsed,
                error=report.error,
            )
            return Decision(state, facts=(Published(phase, request_id=state.request_id),))
        case PhaseCommand():
            command = BootstrapCommand(instance=node_instance(state), command=report.command)
            return Decision(state, facts=(Published(command, request_id=state.request_id),))
        case BootstrapEnded() if isinstance(state, Bootstrapping):
            return _bootstrap_ended(state, report, view)
        case NoticeSeen():
            deadline = None if report.within_s is None else view.now + report.within_s
            notice = Notice(reason=report.reason, deadline_at=deadline, early=report.early)
            return _noticed(state, notice, view)
        case NoticeGone():
            return stays(state, view) if isinstance(state, Draining) else Decision(state)
        case Unhealthy():
            return _unhealthy(state, report.reason, view)
        case BootstrapEnded() | Console() | LogLines() | FetchedFile() | Metrics():
            return Decision(state)  # the last four go to telemetry and only their ids matter here
        case _:
            assert_never(report)


def _noticed(state: Linked, notice: Notice, view: View) -> Decision:
    match state:
        case Bootstrapping():
            return Decision(state) if notice.early else _taken_unready(state, notice.reason, view)
        case Ready():
            return leave(state, notice, view, tell_agent=False)
        case Draining():  # already leaving; the agent told its tasks by itself
            return taken_while_leaving(state, notice, view)
        case _:
            assert_never(state)


def _retires(state: Ready, view: View) -> Decision:
    """It nears its greatest age: replaced, while its tasks may go on almost until then."""
    if not view.index.tasks_on(state.id):
        return endings.destroy(state, "expired", view)
    expires_at = view.now if state.expires_at is None else state.expires_at
    tell = parts.to_node(state, InstanceLeaving(state.id, "expired", works=True))
    draining = Draining(
        **parts.linked_fields(state),
        since=view.now,
        reason="expired",
        deadline=max(view.now, expires_at - parts.STOP_GRACE_S),
    )
    return Decision(draining, tells=(tell, *parts.to_tasks(state, MachineLeaving(state.id, "expired"), view)))


def taken_while_leaving(state: Draining, notice: Notice, view: View) -> Decision:
    """A vendor takes a machine that leaves already: when it says at the latest, and without more grace."""
    told = lost(state, view) if not notice.early else Decision(state)
    leaving, deadline = told.state, notice.deadline_at
    assert isinstance(leaving, Draining)
    if deadline is None or (deadline >= leaving.deadline and leaving.final):
        return told
    update = {"deadline": min(leaving.deadline, deadline), "final": True}
    return Decision(leaving.model_copy(update=update), effects=told.effects)


def lost(state: Draining, view: View) -> Decision:
    """The market takes a machine that leaves: its memory hears of that once."""
    if state.lost:
        return Decision(state)
    return Decision(state.model_copy(update={"lost": True}), effects=(parts.loss(state, view),))


def _unhealthy(state: Linked, reason: str, view: View) -> Decision:
    if not isinstance(state, Ready):
        return Decision(state)
    tell = parts.to_node(state, InstanceLeaving(state.id, "failed", works=True))
    fact = endings.preempted(state, f"unhealthy: {reason}")
    draining = Draining(
        **parts.linked_fields(state),
        since=view.now,
        reason="failed",
        deadline=view.now + view.index.pool_spec.drain_timeout,
    )
    return Decision(
        draining,
        tells=(tell, *parts.to_tasks(state, MachineLeaving(state.id, "failed"), view)),
        facts=(fact,),
    )


def stays(state: Draining, view: View) -> Decision:
    """The notice was withdrawn: back to work, unless we wanted the machine gone ourselves."""
    withdrawn = (TellMarket(LossWithdrawn(state.offer.market)),) if state.lost else ()
    if not (state.noticed and state.was_ready):
        return Decision(state.model_copy(update={"lost": False}) if state.lost else state, effects=withdrawn)
    up = state.link_up
    ready = Ready(
        **parts.linked_fields(state),
        since=view.now,
        gone_at=None if up else view.now + view.index.pool_spec.unreachable_timeout,
    )
    return Decision(
        ready,
        tells=(parts.to_node(state, InstanceStays(state.id)),),
        effects=(Say(state.id, Drain(epoch=view.epoch, within_s=None)), *withdrawn),
        facts=(Published(NoticeWithdrawn(instance_id=state.id), state.request_id),),
    )


def resume(state: Alive, view: View) -> tuple[Effect, ...]:
    """Watch the machine, and talk to it when it has an address. The rest is said at LinkUp."""
    watch = parts.watch(state, state.handle, state.launched_at)
    return (watch,) if state.address is None else (watch, parts.connect(state, view))
