"""How the memory of a market changes. Pure; `policy.memory` has the formulas."""

from typing import assert_never

from actors.decision import Decision, View
from actors.effects import Effect
from actors.market.state import MarketState, Taken
from actors.messages import (
    Due,
    HoldingTold,
    LaunchTold,
    LossTold,
    LossWithdrawn,
    MarketMessage,
    RefusalTold,
)
from actors.policy.memory import (
    NEWS_OLD_S,
    UNHELD_WEIGHT,
    UNKNOWN_AGE_S,
    age_s,
    caught_up,
    exposure,
    is_open,
    up_since_after,
)
from providers.errors import Fault

COOL_FIRST_S = 15.0  # after one refusal; doubles with each further one
COOL_MOST_S = 900.0
QUOTA_COOL_S = 900.0  # a human has to raise it
REJECTED_COOL_S = 300.0
TOGETHER_S = 120.0  # losses so close to the first are one event
JOINT_S = 600.0  # markets that close so close together may have one cause
REFUSED_SHARE = 0.5  # of an event: a launch refused where machines were believed to be


def cooldown_s(fault: Fault, refusals_in_a_row: int, retry_after_s: float | None) -> float:
    """Seconds to leave a market alone after a refusal; what the provider asks for is a minimum.

    A quota that says when it has room again is believed. Capacity alone cools nothing: how soon a market is
    tried again is a question of policy.
    """
    match fault:
        case Fault.CAPACITY:
            cool = 0.0
        case Fault.QUOTA if retry_after_s is not None:
            cool = COOL_FIRST_S
        case Fault.QUOTA | Fault.FUNDS | Fault.CREDENTIALS:
            cool = QUOTA_COOL_S
        case Fault.REJECTED:
            cool = REJECTED_COOL_S
        case Fault.GONE | Fault.CONFLICT | Fault.UNKNOWN | Fault.NOT_SENT | Fault.THROTTLED:
            cool = min(COOL_MOST_S, COOL_FIRST_S * 2.0 ** min(refusals_in_a_row - 1, 16))
        case _:
            assert_never(fault)
    return max(cool, retry_after_s or 0.0)


def decide(state: MarketState | None, message: MarketMessage, view: View) -> Decision:
    """Next memory of a market after one piece of news."""
    now = view.now
    if state is None:
        if isinstance(message, Due):
            return Decision(None)
        state = MarketState(market=message.market, since=now, decayed_at=now)
    match message:
        case HoldingTold(pool=pool, held=held) if bool(held) == (pool in state.holders):
            return Decision(state)
        case Due():  # the loop's host tells the pools that markets changed
            return Decision(state.model_copy(update={"cool_until": 0.0, "since": now}))
        case LaunchTold(micro_usd_per_hour=price):
            return Decision(_launched(_looked_at(caught_up(state, now), now), price, now))
        case RefusalTold():
            return Decision(_refused(caught_up(state, now), message, now))
        case LossTold():
            return Decision(_lost(caught_up(state, now), message, view))
        case LossWithdrawn():
            return Decision(_withdrawn(caught_up(state, now), now))
        case HoldingTold():
            return Decision(_holding(caught_up(state, now), message, now))
        case _:
            assert_never(message)


def _looked_at(state: MarketState, now: float) -> MarketState:
    """A launch was tried where none of ours is: the time since it was seen open counts half."""
    if state.holders or state.good_at is None or not is_open(state, now):
        return state
    ages = age_s(state, state.good_at), age_s(state, now)
    return state.model_copy(update={"expected": state.expected + UNHELD_WEIGHT * exposure(*ages)})


def _launched(state: MarketState, price: int, now: float) -> MarketState:
    return state.model_copy(
        update={
            "launches": state.launches + 1,
            "refusals_in_a_row": 0,
            "cool_until": 0.0,
            "last_launch_at": now,
            "last_price": price,
            "good_at": now,
            "closed_since": None,
            "up_since": _opened_at(state, now),
        }
    )


def _opened_at(state: MarketState, now: float) -> float:
    """When the spell is believed to have begun in which good news came just now."""
    if state.closed_since is not None:
        bad_at = state.closed_since if state.bad_at is None else state.bad_at
        return (bad_at + now) / 2 if now - bad_at > NEWS_OLD_S else now
    return now - UNKNOWN_AGE_S if state.up_since is None else state.up_since


def _refused(state: MarketState, told: RefusalTold, now: float) -> MarketState:
    fault, after = told.fault, told.retry_after_s
    capacity = fault is Fault.CAPACITY
    was_at = now if state.last_refusal_at is None else state.last_refusal_at
    one_moment = state.refusals_in_a_row > 0 and (
        now - was_at < COOL_FIRST_S if capacity else now < state.cool_until
    )
    in_a_row = max(1, state.refusals_in_a_row + (0 if one_moment else 1))
    cool_s = cooldown_s(fault, in_a_row, after)
    update: dict[str, object] = {
        "refusals": state.refusals + 1,
        "refusals_in_a_row": in_a_row,
        "last_refusal_at": now,
        "last_fault": fault,
        "last_detail": told.detail,
        "cool_until": max(state.cool_until, now + cool_s) if cool_s > 0 else state.cool_until,
    }
    if capacity:
        update["bad_at"] = now
        if not state.holders:  # else it is full, and not closed
            if is_open(state, now):
                state = _looked_at(state, now)
                update["events"] = state.events + REFUSED_SHARE
            if state.closed_since is None:
                update["closed_since"] = now
    return state.model_copy(update=update)


def _lost(state: MarketState, told: LossTold, view: View) -> MarketState:
    now, taken = view.now, state.taken
    if (
        taken is None
        or not 0 <= now - taken.at <= TOGETHER_S
        or (taken.closed and state.closed_since is None)
    ):
        taken = Taken(at=now, lost=0, held={}, up_since=state.up_since)
    held = taken.held | {told.pool: max(told.held, taken.held.get(told.pool, 0), 1)}
    taken = taken.model_copy(update={"lost": taken.lost + 1, "held": held})
    state = _shared(state, taken)
    update: dict[str, object] = {
        "losses": state.losses + 1,
        "last_loss_at": now,
        "bad_at": now,
        "up_since": up_since_after(taken.up_since, _share(state, taken), now),
    }
    if taken.lost >= _held_before(state, taken) and state.closed_since is None:
        joint = _joint(state, view)
        update |= _closures(state, 1, joint) | {"closed_since": now}
        assert state.taken is not None
        update["taken"] = state.taken.model_copy(update={"closed": True, "joint": joint})
    return state.model_copy(update=update)


def _held_before(state: MarketState, taken: Taken) -> int:
    """Machines held before the losses, by all pools; of one that lost none only that it has some is known."""
    others = sum(held for pool, held in state.holders.items() if pool not in taken.held)
    return sum(taken.held.values()) + others


def _share(state: MarketState, taken: Taken) -> float:
    return min(1.0, taken.lost / max(1, _held_before(state, taken)))


def _shared(state: MarketState, taken: Taken) -> MarketState:
    """Count the share of an event's losses; what was counted of it before is taken out."""
    share = _share(state, taken)
    return state.model_copy(
        update={
            "events": max(0.0, state.events + share - taken.counted),
            "taken": taken.model_copy(update={"counted": share}),
        }
    )


def _closures(state: MarketState, by: int, joint: tuple[bool, bool, bool]) -> dict[str, object]:
    zone, region, type_ = joint
    return {
        "closures": max(0.0, state.closures + by),
        "joint_zone": max(0.0, state.joint_zone + by * zone),
        "joint_region": max(0.0, state.joint_region + by * region),
        "joint_type": max(0.0, state.joint_type + by * type_),
    }


def _joint(state: MarketState, view: View) -> tuple[bool, bool, bool]:
    """Whether another of the same zone, region or instance type closed just before."""
    market, zone, region, type_ = state.market, False, False, False
    for other in view.world.markets.values():
        its = other.market
        if its == market or other.closed_since is None or its.provider != market.provider:
            continue
        if its.lifecycle != market.lifecycle or abs(view.now - other.closed_since) > JOINT_S:
            continue
        region = region or its.region == market.region
        zone = zone or (its.region, its.zone) == (market.region, market.zone)
        type_ = type_ or its.instance_type == market.instance_type
    return zone, region, type_


def _withdrawn(state: MarketState, now: float) -> MarketState:
    """A loss that was told is none: the machine stays, and the market has it still."""
    update: dict[str, object] = {"losses": max(0, state.losses - 1), "good_at": now, "closed_since": None}
    taken = state.taken
    if taken is not None and taken.lost > 0:
        state = _shared(state, taken.model_copy(update={"lost": taken.lost - 1, "closed": False}))
        if taken.closed:
            update |= _closures(state, -1, taken.joint)
        update["up_since"] = taken.up_since
        if taken.lost > 1:
            assert state.taken is not None
            update["up_since"] = up_since_after(taken.up_since, _share(state, state.taken), now)
    return state.model_copy(update=update)


def _holding(state: MarketState, told: HoldingTold, now: float) -> MarketState:
    """The first machine of a pool came, or its last went."""
    holders = {pool: held for pool, held in state.holders.items() if pool != told.pool}
    update: dict[str, object] = {}
    if told.held > 0:
        holders = dict(sorted((holders | {told.pool: told.held}).items()))
        if state.up_since is None:
            update["up_since"] = _opened_at(state, now)
    elif state.closed_since is None:
        update["good_at"] = now  # it was there until now
    update |= {"holders": holders, "watched_at": now if holders else None}
    return state.model_copy(update=update)


def resume(state: MarketState) -> tuple[Effect, ...]:
    """A memory owes nothing."""
    del state
    return ()


def check(state: MarketState) -> None:
    """What always holds."""
    assert min(state.launches, state.refusals, state.losses, state.refusals_in_a_row) >= 0, state
    assert min(state.events, state.expected, state.closures) >= 0, state
    assert all(held > 0 for held in state.holders.values()), state
    assert (state.watched_at is not None) == bool(state.holders), state
    assert state.closed_since is None or state.bad_at is not None, state
