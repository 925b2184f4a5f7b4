"""What a pool does about money at the end of every turn, first of all. Pure.

A turn costs nothing here unless the account is due, the budget is another one, a machine was wasted, or what
machines cost changed so near a limit that it matters. Then each machine's meter is looked at a few times.
"""

from typing import Any

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.events import BudgetFreed, BudgetReached, BudgetWarned
from actors.instance.state import Draining as DrainingInstance
from actors.messages import Fill, LeaveWanted, Message, Retire
from actors.policy import budget as policy
from actors.policy import waste as wastes
from actors.policy.budget import NO_LIMIT, Allowance, Spend
from actors.policy.eligible import mismatch
from actors.pool.state import Active, Destroyed, Draining, Parked, PoolState
from actors.spec import PoolSpec
from providers.model import Offer

Tells = tuple[tuple[Address, Message], ...]

LOOK_MOST_S = 3600.0  # a budget is looked at so often at least


def account(state: PoolState, view: View) -> Decision:
    """Bring the account up to date; tell of limits."""
    match state:
        case Destroyed():
            return Decision(state)
        case Active():
            state = _with_waste(state, view)
        case _:
            pass
    if _is_due(state, view):
        return _looked(state, view)
    if not isinstance(state, Draining) and _may_be_sooner(state, view, state.account_at or view.now):
        sooner = view.now + policy.LOOK_S
        if state.account_at is None or state.account_at > sooner:
            return Decision(state.model_copy(update={"account_at": sooner}))
    return Decision(state)


def _is_limited(spec: PoolSpec) -> bool:
    return spec.budget.per_day is not None or spec.budget.total is not None


def _is_due(state: PoolState, view: View) -> bool:
    spend, budget = state.spend, state.spec.budget
    if spend.day != policy.day_of(view.now) or state.account_at is None or view.now >= state.account_at:
        return True
    if isinstance(state, Draining):  # it ends, whatever it may spend
        return False
    if spend.budget is not budget and spend.budget != budget:
        return True
    return _may_be_sooner(state, view, view.now + policy.LOOK_S)


def _came_back(spend: Spend, view: View) -> bool:
    """Whether the clock was ahead by a midnight when the account was looked at last."""
    return spend.day > policy.day_of(view.now)


def _may_be_sooner(state: PoolState, view: View, at: float) -> bool:
    """Whether machines changed since the last look, and a limit might be reached by `at`."""
    spec, spend = state.spec, state.spend
    if not _is_limited(spec) or spend.looked == (*view.index.purse.reading, spend.gone):
        return False
    level = policy.nearest(spend, spec.budget, view.now)
    return level is not None and spend.gone + view.index.purse.at_most(at + policy.ahead_s(spec)) >= level


def _looked(state: PoolState, view: View) -> Decision:
    now, purse, spec = view.now, view.index.purse, state.spec
    before = state.spend
    spend = policy.forgotten(before, policy.closed(before, now, purse.living), spec.budget)
    facts: list[Published] = []
    tells: Tells = ()
    update: dict[str, Any] = {}
    account_at = policy.midnight_after(now)
    if isinstance(state, Active | Parked) and (_is_limited(spec) or before.budget != spec.budget):
        spend = spend.model_copy(
            update={
                "least": _least(state, view) or spend.least,
                "looked": (*purse.reading, spend.gone),
            }
        )
        spend, crossings = policy.judged(
            spend,
            spec,
            now,
            purse.committed,
            purse.living,
            short=bool(view.index.asking or view.index.paused),
            empty=not len(purse),
        )
        facts = [Published(_crossed(state, one)) for one in crossings]
        if before.reached is not None and spend.reached is None:
            facts.insert(0, Published(BudgetFreed(pool=state.name)))
            tells = tuple((("node", str(node)), Fill()) for node in view.index.paused)
        elif before.reached is None and spend.reached is not None and spec.budget.then == "drain":
            tells = _hurried(state, view)
            if isinstance(state, Parked):  # nothing else steers it; who mends it has its nodes filled again
                tells += _retired(state, view)
                update["steered"] = (0, state.removed)
        most = min(now + LOOK_MOST_S, account_at)
        account_at = policy.calm_until(spend, spec, now, most, purse.committed, purse.living)
    if isinstance(state, Active) and _came_back(before, view) and state.look_at is not None:
        update["look_at"] = now  # it was set by a clock that was ahead
    update |= {"spend": spend, "account_at": account_at}
    return Decision(state.model_copy(update=update), tells=tells, facts=tuple(facts))


def _hurried(state: PoolState, view: View) -> Tells:
    """Machines that leave already, for hours perhaps, leave as soon as the others."""
    leave = LeaveWanted("budget", state.spec.drain_timeout)
    return tuple(
        (("instance", name), leave)
        for name, one in view.index.instances.items()
        if isinstance(one, DrainingInstance)
    )


def _retired(state: Parked, view: View) -> Tells:
    retire = Retire("budget", state.spec.drain_timeout)
    return tuple(
        (("node", str(number)), retire)
        for number, node in sorted(view.index.nodes.items())
        if node.status != "retired"
    )


def _crossed(state: PoolState, crossing: policy.Crossing) -> BudgetWarned | BudgetReached:
    limit = crossing.limit
    if crossing.warning:
        return BudgetWarned(
            pool=state.name,
            period=limit.period,
            spent_micro_usd=crossing.spent_micro_usd,
            limit_micro_usd=limit.micro_usd,
        )
    return BudgetReached(
        pool=state.name,
        period=limit.period,
        spent_micro_usd=crossing.spent_micro_usd,
        limit_micro_usd=limit.micro_usd,
        then=state.spec.budget.then,
        until=limit.until,
        needed_micro_usd=crossing.needed_micro_usd,
    )


def _fitting(spec: PoolSpec, view: View) -> tuple[Offer, ...]:
    return tuple(
        offer
        for provider in spec.provider
        for offer in view.world.offers.get(provider, ())
        if mismatch(spec, offer) is None
    )


def _least(state: PoolState, view: View) -> int:
    """What the cheapest machine that fits would commit; 0: no offer is known."""
    spec, boot_s = state.spec, state.habits.boot_s
    return min(
        (policy.commitment_micro_usd(offer, spec, boot_s) for offer in _fitting(spec, view)), default=0
    )


def allowance(state: PoolState, view: View) -> Allowance:
    """What the pool may commit to new machines now."""
    if not _is_limited(state.spec):
        return NO_LIMIT
    purse = view.index.purse
    return policy.allowance(state.spend, state.spec, view.now, purse.committed, purse.living)


def may_keep_machines(state: PoolState) -> bool:
    """Whether the budget lets machines live on."""
    return state.spend.reached is None or state.spec.budget.then != "drain"


def spent(spend: Spend, view: View) -> int:
    """What the pool has cost in all until now, micro-dollars. A look at each machine."""
    return spend.gone + view.index.purse.living(view.now)


# --- the breaker ----------------------------------------------------------------------------------


def burns(state: PoolState) -> str | None:
    """Why the pool should be parked: it burns money on machines that never work. None: it does not."""
    waste = state.waste
    if not isinstance(state, Active) or not waste.alarm or waste.alarm_at is None:
        return None
    return waste.alarm if waste.alarm_at >= state.since else None  # a user has changed it since


def wasted_micro_usd(state: PoolState, now: float) -> int:
    """What machines that never worked have cost within the last hour."""
    return sum(one.micro_usd for one in wastes.recent(state.waste, 0.0, now))


def _with_waste(state: Active, view: View) -> Active:
    waste = wastes.of_now(state.waste, view.now)
    if not waste.judged:
        waste = _judged_waste(state, waste, view)
    return state if waste is state.waste else state.model_copy(update={"waste": waste})


def _judged_waste(state: Active, waste: wastes.Waste, view: View) -> wastes.Waste:
    nodes, priced = state.desired + state.spares, _priced(state.spec, view)
    if waste.priced == priced:
        return waste
    limit = wastes.waste_limit(state.spec, nodes, _fitting(state.spec, view))
    if limit is None:  # nothing can be launched either; judged as soon as something fits again
        return waste.model_copy(update={"priced": priced})
    working = view.index.nodes_ready > 0
    most, few = limit
    alarm = wastes.burning(waste, most, state.since, view.now, working=working, few=few)
    return waste.model_copy(
        update={"judged": True, "priced": None, "alarm": alarm or "", "alarm_at": view.now if alarm else None}
    )


def _priced(spec: PoolSpec, view: View) -> tuple[float, int]:
    """What tells whether offers were told since: when they were last, and how many there are."""
    world = view.world
    told_at = max((world.offers_at.get(provider, 0.0) for provider in spec.provider), default=0.0)
    return told_at, sum(len(world.offers.get(provider, ())) for provider in spec.provider)
