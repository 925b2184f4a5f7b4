"""How the memory of a market changes."""

from typing import assert_never

from actors.decision import Decision, View
from actors.effects import Effect
from actors.market.state import MarketState
from actors.messages import Due, LaunchTold, LossTold, MarketMessage, RefusalTold
from providers.errors import Fault

COOL_FIRST_S = 15.0  # after one refusal for capacity; doubles with each further one
COOL_MOST_S = 900.0
QUOTA_COOL_S = 900.0  # a human has to raise it
REJECTED_COOL_S = 300.0
AVOID_AFTER_LOSS_S = 300.0


def cooldown_s(fault: Fault, refusals_in_a_row: int, retry_after_s: float | None) -> float:
    """Seconds to leave a market alone after a refusal; what the provider asks for is a minimum."""
    match fault:
        case Fault.QUOTA | Fault.FUNDS | Fault.CREDENTIALS:
            cool = QUOTA_COOL_S
        case Fault.REJECTED:
            cool = REJECTED_COOL_S
        case Fault.CAPACITY | Fault.GONE | Fault.CONFLICT | Fault.UNKNOWN | Fault.NOT_SENT | Fault.THROTTLED:
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
        state = MarketState(market=message.market, since=now)
    match message:
        case LaunchTold():
            return Decision(
                state.model_copy(
                    update={
                        "launches": state.launches + 1,
                        "refusals_in_a_row": 0,
                        "cool_until": 0.0,
                        "last_launch_at": now,
                        "since": now,
                    }
                )
            )
        case RefusalTold(fault=fault, retry_after_s=after, detail=detail):
            in_a_row = state.refusals_in_a_row + (1 if now >= state.cool_until else 0)
            return Decision(
                state.model_copy(
                    update={
                        "refusals": state.refusals + 1,
                        "refusals_in_a_row": max(1, in_a_row),
                        "last_fault": fault,
                        "last_detail": detail,
                        "cool_until": now + cooldown_s(fault, max(1, in_a_row), after),
                        "since": now,
                    }
                )
            )
        case LossTold():
            return Decision(
                state.model_copy(
                    update={
                        "losses": state.losses + 1,
                        "last_loss_at": now,
                        "avoid_until": now + AVOID_AFTER_LOSS_S,
                        "since": now,
                    }
                )
            )
        case Due():  # the loop tells the pools that markets changed after every turn
            return Decision(state.model_copy(update={"cool_until": 0.0, "since": now}))
        case _:
            assert_never(message)


def resume(state: MarketState) -> tuple[Effect, ...]:
    """A memory owes nothing."""
    del state
    return ()


def check(state: MarketState) -> None:
    """What always holds."""
    assert min(state.launches, state.refusals, state.losses, state.refusals_in_a_row) >= 0, state
