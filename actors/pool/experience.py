"""What a pool learns of its machines and tasks: where they fail, how long they take, what they cost. Pure."""

from collections.abc import Iterable
from typing import Any

from actors.address import Address
from actors.decision import Decision, View
from actors.messages import Fill, MachineBilled, Message, SetUpEnded
from actors.policy import budget
from actors.policy import waste as wastes
from actors.policy.situation import Rejection
from actors.pool.state import Active, PoolState

REJECTED_FIRST_S, REJECTED_MOST_S = 15.0, 300.0
HABIT_KEPT, HABIT_SAME = 0.7, 0.01  # weight of what was known before; a change so small is none
TASKS_SAME, TASKS_SAME_S = 0.2, 1.0  # likewise of tasks where few ask: each change rewrites the pool's state


def fills(nodes: Iterable[int]) -> tuple[tuple[Address, Message], ...]:
    """Have these nodes ask."""
    return tuple((("node", str(node)), Fill()) for node in nodes)


def hurry(view: View) -> tuple[tuple[Address, Message], ...]:
    """Nodes that wait ask again now: what they waited for may have changed."""
    return fills(view.index.paused)


def rejected(state: PoolState, market: str, detail: str, view: View) -> Decision:
    """What this pool wants is refused there: left alone for a while, by this pool and no other."""
    if not isinstance(state, Active):
        return Decision(state)
    before = state.rejections.get(market)
    if before is not None and before.until > view.now:  # of launches that were out together one counts
        return Decision(state)
    times = 1 if before is None else before.times + 1
    wait_s = min(REJECTED_MOST_S, REJECTED_FIRST_S * 2.0 ** min(times - 1, 16))
    rejection = Rejection(times=times, until=view.now + wait_s, detail=detail[:500])
    return Decision(state.model_copy(update={"rejections": {**state.rejections, market: rejection}}))


def set_up(state: PoolState, ended: SetUpEnded, view: View) -> Decision:
    """The breaker: machines of a market that can't be set up, in a row, stop it for this pool."""
    market = str(ended.offer.market)
    if ended.error is None:
        state = _proven(state, ended.took_s, view)
    if not isinstance(state, Active) or not ended.is_current:  # that says nothing of the steps of now
        return Decision(state)
    failures = dict(state.failures)
    rejections = {name: one for name, one in state.rejections.items() if name != market}
    if ended.error is None:
        failures.pop(market, None)
    else:
        failures[market] = failures.get(market, 0) + 1
    is_first = ended.error is None and not state.proven
    if failures == state.failures and not is_first and len(rejections) == len(state.rejections):
        return Decision(state)
    update = {"failures": failures, "rejections": rejections, "proven": state.proven or is_first}
    if ended.error is not None:
        update["waste"] = wastes.failed(state.waste, ended.error)
    # nodes that waited to see whether any machine can be set up wait no longer
    tells = hurry(view) if is_first and state.failures else ()
    return Decision(state.model_copy(update=update), tells=tells)


def _proven(state: PoolState, took_s: float, view: View) -> PoolState:
    update: dict[str, Any] = {}
    if (boot_s := averaged(state.habits.boot_s, took_s)) != state.habits.boot_s:
        update["habits"] = state.habits.model_copy(update={"boot_s": boot_s})
    if (waste := wastes.worked(state.waste, view.now)) is not state.waste:
        update["waste"] = waste
    return state.model_copy(update=update) if update else state


def averaged(before: float | None, now: float, same: float = HABIT_SAME, same_s: float = 0.0) -> float:
    """A habit after one more case of it, in which the newest weigh most; what hardly changes it, does not.

    Args:
        before: it was so far, in seconds; None: not known.
        now: the new case took, in seconds.
        same: a change by no more than this share of it is none.
        same_s: neither is one by no more than so many seconds.
    """
    if before is None:
        return now
    after = HABIT_KEPT * before + (1 - HABIT_KEPT) * now
    return before if abs(after - before) <= max(same * before, same_s) else after


def billed_for(state: PoolState, billed: MachineBilled, view: View) -> PoolState:
    spend = budget.gone(state.spend, billed.cost_micro_usd)
    waste = state.waste
    if not billed.worked:
        waste = wastes.wasted(waste, view.now, billed.cost_micro_usd, billed.why)
    if spend is state.spend and waste is state.waste:
        return state
    return state.model_copy(update={"spend": spend, "waste": waste})


def task_took(state: PoolState, ran_s: float) -> PoolState:
    """Learn how long tasks take: exactly for scaling; otherwise placement only asks about how long."""
    if ran_s <= 0:
        return state
    same = (HABIT_SAME, 0.0) if state.spec.scaling is not None else (TASKS_SAME, TASKS_SAME_S)
    task_s = averaged(state.habits.task_s, ran_s, *same)
    if task_s == state.habits.task_s:
        return state
    return state.model_copy(update={"habits": state.habits.model_copy(update={"task_s": task_s})})
