"""What the series need to know of an actor's state, whatever its class is."""

from functools import lru_cache
from typing import NamedTuple, Protocol

from actors.instance import state as instances
from actors.node import state as nodes
from actors.policy.adoption import Quarantined, Reaped
from actors.pool import state as pools
from actors.ports import StateRow
from actors.task import state as tasks
from controller.views import micro_usd_per_hour

INSTANCE_STATES = ("requested", "provisioning", "bootstrapping", "ready", "draining", "destroying")
NODE_STATES = ("vacant", "filling", "filled", "replacing")
TASK_STATES = ("pending", "assigned", "created", "running", "stopping", "invalid")


class Described(NamedTuple):
    """One actor, as far as it is counted.

    Attributes:
        status: the state's name.
        since: when it was entered.
        over: it does not count any more.
        node: of an instance.
        desired, least: nodes that a pool should have, and those below which it is unhealthy.
        paused: a user wants nothing launched in the pool.
    """

    status: str
    since: float = 0.0
    over: bool = False
    provider: str = ""
    node: int | None = None
    micro_usd_per_hour: int = 0
    desired: int = 0
    least: int = 0
    paused: bool = False


class Describe(Protocol):
    """Looks at a changed row; None for what is not counted."""

    def __call__(self, row: StateRow) -> Described | None:
        """Describe the row's state."""
        ...


@lru_cache(1_000)
def _task(status: str, since: float, over: bool) -> Described:
    """Those that changed in one turn share one; most of a hundred thousand that wait then do."""
    return Described(status, since, over)


def describe(row: StateRow) -> Described | None:
    """The actors' own states."""
    match row.state:  # tasks first: there are most of them
        case (
            tasks.Pending()
            | tasks.Assigned()
            | tasks.Created()
            | tasks.Running()
            | tasks.Stopping()
            | tasks.Invalid()
            | tasks.Stopped()
        ) as state:
            return _task(state.status, state.since, isinstance(state, tasks.Stopped))
        case (
            instances.Requested()
            | instances.Provisioning()
            | instances.Bootstrapping()
            | instances.Ready()
            | instances.Draining()
            | instances.Destroying()
            | instances.Destroyed()
        ) as state:
            return Described(
                state.status,
                state.since,
                over=isinstance(state, instances.Destroyed),
                provider=state.offer.provider,
                node=state.node,
                micro_usd_per_hour=micro_usd_per_hour(state),
            )
        case nodes.Vacant() | nodes.Filling() | nodes.Filled() | nodes.Replacing() | nodes.Retired() as state:
            return Described(state.status, state.since, over=isinstance(state, nodes.Retired))
        case pools.Active() | pools.Parked() | pools.Draining() | pools.Destroyed() as state:
            over = isinstance(state, pools.Destroyed)
            least = (
                state.desired if state.spec.nodes.min is None else min(state.spec.nodes.min, state.desired)
            )
            return Described(
                state.status,
                state.since,
                over=over,
                desired=state.desired,
                least=least,
                paused=getattr(state, "paused", None) is not None,
            )
        case Reaped() as state:
            return Described(state.status, state.ended_at, over=True)
        case Quarantined() as state:
            return Described(
                state.status,
                state.seen_at,
                provider=state.handle.provider,
                micro_usd_per_hour=state.micro_usd_per_hour,
            )
        case _:
            return None  # a kind that is not counted, such as a market's memory
