"""From the first order to a machine, without ever making two for one key."""

from typing import Any, assert_never

from actors.decision import Decision, Published, View
from actors.effects import Effect, Find, Launch, TellMarket
from actors.events import InstanceLaunched, LaunchRefused
from actors.instance import alive, endings, parts
from actors.instance.state import Destroyed, Provisioning, Requested
from actors.messages import (
    AbsenceObserved,
    AgentSaid,
    BootstrapWanted,
    Due,
    FindFailed,
    Found,
    InstanceMessage,
    InstanceNotLaunched,
    LaunchEnded,
    LaunchFailed,
    LaunchSucceeded,
    LaunchTold,
    LaunchWanted,
    LeaveWanted,
    LinkDown,
    LinkUp,
    NothingFound,
    RefusalTold,
    Renumbered,
    TaskLeft,
    TerminateFailed,
    TerminateSucceeded,
    VendorNotice,
)
from actors.policy.backoff import retry_delay_s
from actors.pool.pausing import is_paused
from providers.errors import Fault
from providers.model import MICRO, Handle

PAUSED = "the pool is paused"
UPDATED = "the pool wants another machine since it was updated"
VENDOR_LATER_S = 300.0  # its own clock of a machine's age only ends what we forgot
CALLS_MAX = 5  # launch calls under one key; then the pool may place the node elsewhere


def first(wanted: LaunchWanted, view: View) -> Decision:
    """A new instance: the order is journaled by this turn, then launched."""
    owner, pool, *_ = wanted.key.split("/")
    del owner
    state = Requested(
        id=parts.instance_id(wanted.key),
        key=wanted.key,
        pool=pool,
        node=wanted.node,
        request_id=wanted.request_id,
        replacing=wanted.replacing,
        offer=wanted.offer,
        cluster=wanted.cluster,
        created_at=view.now,
        since=view.now,
        asked_at=view.now,
        why=wanted.why,
        image=view.index.build.base,
        disk_gb=view.index.pool_spec.disk_gb,
    )
    return Decision(state, effects=(_launch(state, view),))


def _launch(state: Requested, view: View) -> Launch:
    spec = view.index.pool_spec
    age_max_s, most = spec.instance_age_max, spec.max_hourly_cost
    return Launch(
        key=state.key,
        node=int(state.key.split("/")[2]),  # as when it was ordered first: the same key, the same order
        instance_id=state.id,
        offer=state.offer,
        cluster=state.cluster,
        image=spec.image.base or "",
        disk_gb=state.disk_gb if state.image else spec.disk_gb,
        age_max_s=None if age_max_s is None else age_max_s + VENDOR_LATER_S,
        micro_usd_per_hour_max=None if most is None else round(most * MICRO),
    )


def _life(view: View) -> dict[str, float]:
    """When a machine launched now is replaced, and ended at the latest; not at one time for all."""
    spec = view.index.pool_spec
    if spec.instance_age_max is None:
        return {}
    expires_at = view.now + spec.instance_age_max
    needed_s = spec.provision_timeout + spec.ssh_timeout + spec.drain_timeout
    lead_s = min(needed_s, spec.instance_age_max / 4) * (1 + view.draw)
    return {"retire_at": expires_at - lead_s, "expires_at": expires_at}


def launched(state: Requested, handle: Handle, view: View, found: Found | None = None) -> Decision:
    """The provider has the machine, and perhaps shows it."""
    fact = Published(
        InstanceLaunched(
            request_id=state.request_id,
            cluster_id=state.cluster.cluster_id,
            node_id=state.node,
            provider=handle.provider,
            instance_id=state.id,
            why=state.why,
        ),
        request_id=state.request_id,
    )
    news = TellMarket(LaunchTold(state.offer.market, state.offer.micro_usd_per_hour))
    # The call took its time: the machine may be as young as the answer, and not be listed yet.
    watch = parts.watch(state, handle, view.now)
    spec = view.index.pool_spec
    alive_state = Provisioning(
        **parts.common(state),
        since=view.now,
        handle=handle,
        launched_at=view.now,
        deadline=view.now + spec.provision_timeout,
        **_life(view),
    )
    if found is not None:
        alive_state = parts.billed(alive_state, found)
    if state.leave is not None:
        return endings.destroy(alive_state, state.leave, view, facts=(fact,)).also(effects=(watch, news))
    return Decision(alive_state, effects=(watch, news), facts=(fact,))


def not_launched(state: Requested, failed: LaunchFailed, view: View) -> Decision:
    """Surely no machine, and none will come under this key."""
    fault, detail, retry_after_s = failed.fault, failed.detail, failed.retry_after_s
    ended = Destroyed(
        **parts.common(state), since=view.now, reason=state.leave or "not launched", launched=False
    )
    refused = LaunchRefused(
        instance_id=state.id, market=str(state.offer.market), fault=fault.value, detail=detail
    )
    return Decision(
        ended,
        tells=(
            parts.to_node(
                state,
                InstanceNotLaunched(state.id, str(state.offer.market), fault, detail, retry_after_s),
            ),
            parts.to_pool(state, LaunchEnded(state.offer, fault, detail)),
        ),
        # What is wrong with this order says nothing of the market to other pools, nor does our own pace.
        effects=() if fault is Fault.REJECTED or failed.paced else (_refused(state, failed),),
        facts=(Published(refused, request_id=state.request_id),),
    )


def _refused(state: Requested, failed: LaunchFailed) -> TellMarket:
    return TellMarket(RefusalTold(state.offer.market, failed.fault, failed.retry_after_s, failed.detail))


def while_requested(state: Requested, message: InstanceMessage, view: View) -> Decision:
    """Next step while an order is out, its outcome perhaps never known."""
    match message:
        case LaunchSucceeded(handle=handle):
            return launched(state, handle, view)
        case Found(sighting=sighting):  # looked for, or seen in a listing before the call answered
            decision = launched(state, sighting.handle, view, message)
            if isinstance(decision.state, Provisioning):
                seen = alive.while_provisioning(decision.state, message, view)
                return Decision(
                    seen.state,
                    decision.tells + seen.tells,
                    decision.effects + seen.effects,
                    decision.facts + seen.facts,
                )
            return decision
        case LaunchFailed():
            return _failed(state, message, view)
        case NothingFound():
            return _nothing_found(state, view)
        case FindFailed() if view.now >= state.since + view.index.pool_spec.provision_timeout:
            return _given_up(state, view)
        case FindFailed():
            wait = retry_delay_s(state.tries, view.draw, first_s=5, most_s=60)
            update = _looking(state, view) | {"next_at": view.now + wait}
            return Decision(state.model_copy(update=update))
        case Due() if state.next_at is None or view.now < state.next_at:
            return Decision(state)
        case Due() if state.looking:
            return Decision(state.model_copy(update={"next_at": None}), effects=(_find(state),))
        case Due() if state.leave is not None:  # every call so far surely made nothing
            return not_launched(state, LaunchFailed(Fault.NOT_SENT, "not wanted any more"), view)
        case Due() if is_paused(view.index.pool):  # it says nothing of the market
            return not_launched(state, LaunchFailed(Fault.NOT_SENT, PAUSED, paced=True), view)
        case Due() if state.id in view.index.outdated:
            return _overtaken(state, view)
        case Due():
            return _again(state, view)
        case LeaveWanted(reason=reason):
            return Decision(state.model_copy(update={"leave": reason}))
        case AbsenceObserved() | VendorNotice() | LinkUp() | LinkDown() | AgentSaid() | TaskLeft():
            return Decision(state)
        case LaunchWanted() | BootstrapWanted() | TerminateSucceeded() | TerminateFailed() | Renumbered():
            return Decision(state)
        case _:
            assert_never(message)


def _given_up(state: Requested, view: View) -> Decision:
    """Nobody can say whether it is there: its node goes elsewhere, and it is ended should it be found."""
    ended = parts.destroying_state(state, state.leave or "timeout", view.now, view.now)
    ended = ended.model_copy(update={"launched_at": state.asked_at})
    detail = "its launch had an unknown outcome for too long"
    return Decision(
        ended,
        tells=(endings.failed(state, detail),),
        effects=(_refused(state, LaunchFailed(Fault.UNKNOWN, detail)),),
        facts=endings.unfinished(state, "timeout"),
    )


def _looking(state: Requested, view: View) -> dict[str, Any]:
    """Looked for after a restart, the last daemon's call was made until just now: its outcome is unknown."""
    return {} if state.looking else {"looking": True, "asked_at": view.now}


def _find(state: Requested) -> Find:
    return Find(state.offer.provider, state.key)


def _again(state: Requested, view: View) -> Decision:
    again = state.model_copy(
        update={
            "tries": state.tries if state.paced else state.tries + 1,
            "paced": False,
            "asked_at": view.now,
            "next_at": None,
            "looking": False,
            "empty_looks": 0,
        }
    )
    return Decision(again, effects=(_launch(again, view),))


def _failed(state: Requested, message: LaunchFailed, view: View) -> Decision:
    match message.fault:
        case Fault.UNKNOWN | Fault.CONFLICT:  # it may have worked: look before anything else
            # What is made by now may be hidden for as long as if it was made now.
            update = {"looking": True, "next_at": None, "empty_looks": 0, "asked_at": view.now}
            looking = state.model_copy(update=update)
            return Decision(looking, effects=(_find(looking),))
        case Fault.NOT_SENT | Fault.THROTTLED if _may_wait(state, message, view):
            wait = retry_delay_s(state.tries, view.draw, first_s=2, most_s=60)
            wait = max(wait, message.retry_after_s or 0.0)
            update = {"next_at": view.now + wait, "paced": message.paced}
            return Decision(state.model_copy(update=update))
        case (
            Fault.NOT_SENT
            | Fault.THROTTLED
            | Fault.CAPACITY
            | Fault.QUOTA
            | Fault.CREDENTIALS
            | Fault.FUNDS
            | Fault.REJECTED
            | Fault.GONE
        ):
            return not_launched(state, message, view)
        case _:
            assert_never(message.fault)


def _may_wait(state: Requested, failed: LaunchFailed, view: View) -> bool:
    """Whether the same call is made again later. One that waited for our own pace has not been made yet."""
    if state.leave is not None:
        return False
    if failed.paced:
        return view.now < state.since + view.index.pool_spec.provision_timeout
    return state.tries < CALLS_MAX


def _nothing_found(state: Requested, view: View) -> Decision:
    """Absence is believed when seen twice, later than the machine must have become visible."""
    state = state.model_copy(update=_looking(state, view))
    visible_at = state.asked_at + parts.visible_within_s(state.offer.provider, view)
    late_enough = view.now > visible_at
    looks = state.empty_looks + (1 if late_enough else 0)
    if looks < 2:
        wait = max(0.5, visible_at - view.now) if not late_enough else 1.0
        update = {"looking": True, "empty_looks": looks, "next_at": view.now + wait}
        return Decision(state.model_copy(update=update))
    if state.leave is not None or state.tries >= CALLS_MAX or is_paused(view.index.pool):
        return not_launched(state, LaunchFailed(Fault.UNKNOWN, "the launch came to nothing"), view)
    if state.id in view.index.outdated:
        return _overtaken(state, view)
    return _again(state, view)


def _overtaken(state: Requested, view: View) -> Decision:
    """Surely not made yet: its node asks anew, by the spec as it is now. It says nothing of the market."""
    return not_launched(state, LaunchFailed(Fault.NOT_SENT, UPDATED, paced=True), view)


def resume(state: Requested) -> tuple[Effect, ...]:
    """A call may have been in flight when the daemon died: look by key. (Due comes by itself.)"""
    return () if state.next_at is not None else (_find(state),)
