"""Short histories for the rules of the referee: one that breaks a rule, and one near to it that does not."""

import typing
from collections.abc import Callable

from actors.events import PoolReady
from actors.instance import state as instance_state
from actors.instance.state import Ready
from actors.node.state import Filling
from controller.simulation.house import OWNER
from providers.simulated.config import SimulatedConfig
from tests.simulation.referee.story import (
    CONFIG,
    POOL,
    Story,
    pending,
)

KEY = f"{OWNER}/{POOL}/0/1.1/1"
PLANTED = f"{OWNER}/{POOL}/900/1.1/1"  # has our mark, and nobody ordered it
HOUR_S = 3600.0
NO_TOKENS = CONFIG.model_copy(update={"tokens": False})
TELLS_ENDS = CONFIG.model_copy(update={"shows_ended_s": 600.0})
DONE = PoolReady(pool=POOL, nodes=1)  # a fact that needs nothing before it
Tell = Callable[[Story], None]
# The rule, what is told, whether the rule is broken by it, in which cloud, and how it goes.
TOLD: list[tuple[str, str, bool, SimulatedConfig, Tell]] = []


def broken(rule: str, config: SimulatedConfig = CONFIG) -> Callable[[Tell], Tell]:
    """The history breaks this rule and no other before."""
    return _told(rule, True, config)


def holds(rule: str, config: SimulatedConfig = CONFIG) -> Callable[[Tell], Tell]:
    """The history comes near to breaking this rule, and breaks none."""
    return _told(rule, False, config)


def _told(rule: str, is_broken: bool, config: SimulatedConfig) -> Callable[[Tell], Tell]:
    def keep(tell: Tell) -> Tell:
        TOLD.append((rule, tell.__name__, is_broken, config, tell))
        return tell

    return keep


def over(state: Ready) -> instance_state.Destroyed:
    """The same machine, observed absent."""
    names = ("id", "key", "pool", "node", "request_id", "offer", "cluster", "created_at")
    return instance_state.Destroyed(
        **{name: getattr(state, name) for name in names}, since=state.since, reason="gone", launched=True
    )


def filling(name: str) -> Filling:
    """Node 0 wants a machine."""
    return Filling(pool=POOL, generation=1, node=0, request_id=name)


def placed() -> dict[str, typing.Any]:
    """The fields of a task that is on a machine."""
    task = pending("t-0")
    return {"id": "t-0", "pool": POOL, "spec": task.spec, "seq": 1, "instance_id": "i", "node": 0}
