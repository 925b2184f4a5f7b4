"""What a daemon decides first when it starts from some states: what it owes, and its first turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from actors.address import Address
from actors.decision import Published, World
from actors.effects import Effect
from actors.events import Envelope
from actors.loop import Identity, Letter, Loop
from actors.market.state import MarketState
from actors.messages import Due, Message, RequestHeard
from actors.ports import Accepted, Commit, Conflict, Submission
from actors.supervisor import Bug
from controller.recovery import MARKETS, Recovered
from providers.model import Value
from tests.actors.model import CAPABILITIES, offer


@dataclass(frozen=True, slots=True)
class FirstTurn:
    """What one pool does before anything new happens."""

    owed: tuple[tuple[Effect, Address], ...]
    changed: tuple[tuple[Address, Value | None], ...]
    facts: tuple[tuple[Published, int | None], ...]
    effects: tuple[tuple[Effect, Address, int | None], ...]
    taken: tuple[str, ...]
    bugs: tuple[str, ...]


class _Nowhere:
    """Journal, observer, clock and outside of a loop that is only asked what it would do."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def reserve(self, count: int) -> int:
        raise AssertionError("nothing is written")

    async def commit(self, commit: Commit) -> None:
        raise AssertionError("nothing is written")

    async def accept(self, submissions: Sequence[Submission]) -> Sequence[Accepted | Conflict]:
        raise AssertionError("nothing is written")

    def committed(self, commit: Commit) -> None:
        raise AssertionError("nothing is written")

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        raise AssertionError("nothing is written")

    def bug(self, address: str, message: str, error: BaseException) -> None:
        raise AssertionError("a bug is a decision here")

    async def call(self, pool: str, call: Any) -> Message:
        raise AssertionError("nothing is done")

    def word(self, pool: str, word: Any) -> None:
        raise AssertionError("nothing is done")


def first_turns(recovered: Recovered, epoch: int, now: float) -> dict[str, FirstTurn]:
    """What every loop of a fresh daemon decides at `now`: timers are due, requests are handed out again."""
    known = recovered.markets.items()
    markets = {name: state for (_, name), state in known if isinstance(state, MarketState)}
    asked = dict.fromkeys(envelope.pool for envelope in recovered.requests)
    loops = {MARKETS: recovered.markets, **{pool: {} for pool in asked}, **recovered.pools}
    return {
        name: _first_turn(name, states, recovered.requests, markets, epoch, now)
        for name, states in loops.items()
    }


def _first_turn(
    name: str,
    states: Mapping[Address, Value],
    requests: Sequence[Envelope],
    markets: Mapping[str, MarketState],
    epoch: int,
    now: float,
) -> FirstTurn:
    nowhere = _Nowhere(now)
    providers = getattr(getattr(states.get(("pool", name)), "spec", None), "provider", ())
    offers = {one: (offer("a", provider=one), offer("b", provider=one)) for one in providers}
    world = World(offers, dict.fromkeys(providers, CAPABILITIES), markets)
    loop = Loop(
        name,
        identity=Identity("owner", epoch),
        journal=nowhere,
        observer=nowhere,
        clock=nowhere,
        dice=Random(1),
        world=lambda: world,
        outside=nowhere,
        states=states,
        checking=True,
    )
    owed = tuple(loop._owed())
    late = [
        Letter(address, Due())
        for address, state in states.items()
        if (getattr(state, "due_at", None) or now + 1) <= now
    ]
    heard = [
        Letter(("pool", name), RequestHeard(envelope), envelope.seq)
        for envelope in requests
        if envelope.pool == name
    ]
    bugs: list[Bug] = []
    draft = loop._decided([*late, *heard], now, bugs)
    loop._send.close()
    loop._receive.close()
    return FirstTurn(
        owed,
        tuple(draft.changed.items()),
        tuple(draft.facts),
        tuple(draft.effects),
        tuple(draft.taken),
        tuple(f"{bug.address} {bug.message} {bug.error!r}" for bug in bugs),
    )
