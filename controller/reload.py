"""What a config that is read anew asks of the pools there are. Pure; the daemon submits what comes of it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from actors.events import PoolRequested, PoolUpdateRequested, Request, ShutdownRequested
from actors.pool.state import PoolState
from controller.config import PoolConfig
from controller.desk import CONFIG

NOT_APPLIED = "not applied: "  # how what is said of a pool begins that could not be made what the config says


def changes(
    pools: Mapping[str, PoolConfig],
    states: Mapping[str, PoolState | None],
    unfillable: Mapping[str, str] = MappingProxyType({}),
) -> Sequence[tuple[str, str, Request | None]]:
    """Return what is to be done, as (pool, what is done, the Request that does it). What fits is left out.

    Args:
        pools: what the config names.
        states: every pool that lives; None for one that was asked for and has no state yet. One that is going
            is to be made when it has gone: ask again then.
        unfillable: pools that no offer can ever match, and why. They stay as they are.
    """
    done: list[tuple[str, str, Request | None]] = []
    for name, pool in pools.items():
        lives, state = name in states, states.get(name)
        if pool.remove:
            if lives and (state is None or state.status != "draining"):
                done.append((name, "removed", ShutdownRequested(cluster_id=name)))
        elif pool.spec is None:
            continue
        elif name in unfillable and (state is None or state.spec != pool.spec):
            done.append((name, f"{NOT_APPLIED}{unfillable[name]}", None))
        elif not lives:
            done.append((name, "made", PoolRequested(pool=name, spec=pool.spec)))
        elif state is None:
            continue
        elif state.status == "draining":
            done.append((name, "is going: made again when it is gone", None))
        elif state.made_by != CONFIG:
            done.append((name, "left alone: a pool of that name was made by the API", None))
        elif state.spec != pool.spec:
            done.append((name, "updated", PoolUpdateRequested(pool=name, spec=pool.spec)))
    return done
