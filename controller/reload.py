"""What a config that is read anew asks of pools, providers and the daemon. Pure; the daemon applies it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from actors.events import PoolRequested, PoolUpdateRequested, Request, ShutdownRequested
from actors.instance.state import InstanceState
from actors.policy.built import BUILT_IN
from actors.pool.rolling import changed_keys, foreseen
from actors.pool.state import PoolState
from controller.config import Config, ConfigError, DaemonConfig, PoolConfig, is_loopback
from controller.desk import CONFIG
from controller.differences import Difference, differences

UNNAMED = "no longer in the config, lives on; remove = true drains it"
ROLLS = "rolling replace"  # of keys that machines can't follow: others take their places
NOT_APPLIED = "not applied: "  # how what is said of a pool begins that could not be made what the config says
# Keys of [daemon] that hold from the reload on; the others are read when the daemon starts.
LIVE = frozenset(
    {
        "limits",
        "tls",
        "token_file",
        "secrets_key",
        "secrets_key_old",
        "observe_every_s",
        "quarantine_s",
        "retention_days",
        "events_max",
        "log_level",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a reload does.

    Attributes:
        pools: what is done to each pool that differs, as a word or a sentence.
        requests: the Requests that do it, by pool.
        providers_added: those that can be had at once.
        needs_restart: sections, or keys, that hold from the next start on only.
        lines: all of it for people, a line each, with what differs.
    """

    pools: Mapping[str, str]
    requests: Mapping[str, Request]
    providers_added: Sequence[str] = ()
    needs_restart: Sequence[str] = ()
    lines: Sequence[str] = ()


@dataclass(slots=True)
class _Lines:
    """Collects what is told."""

    lines: list[str] = field(default_factory=list)

    def tell(self, what: str, differing: Sequence[Difference] = (), how: str = "") -> None:
        if not differing:
            self.lines.append(f"{what}: {how}" if how else what)
        for one in differing:
            self.lines.append(f"{what}: {one}{f' ({how})' if how else ''}")


def plan(
    old: Config,
    new: Config,
    states: Mapping[str, PoolState | None],
    machines: Mapping[str, Collection[InstanceState]] = MappingProxyType({}),
    waiting: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Plan:
    """What it takes to get from the config in force to a new one.

    Args:
        old: the config in force.
        new: the config as it was read now.
        states: every pool that lives; see `changes`.
        machines: of each pool; those that are not what a new spec asks for are replaced.
        waiting: events and replies that wait for webhooks that are taken away.
    """
    told = _Lines()
    restart = _daemon(old.daemon, new.daemon, told)
    added, stale = _providers(old, new, told)
    _webhooks(old, new, waiting, told)
    pools, requests = _pools(new, states, machines, told)
    for name in unnamed(new.pools, states):
        pools[name] = f"left alone: {UNNAMED}"
        told.tell("left alone", how=f"pools.{name}: {UNNAMED}")
    return Plan(
        pools=pools,
        requests=requests,
        providers_added=added,
        needs_restart=[*restart, *stale],
        lines=told.lines,
    )


def in_force(old: Config, new: Config, added: Sequence[str]) -> Config:
    """The config that holds after a reload: what needs a restart stays as it was, so that it is told again.

    Args:
        old: the config in force before.
        new: the config as it was read.
        added: providers that are started.

    Raises:
        ConfigError: what is new does not go with what stays as it was.
    """
    live = {key: getattr(new.daemon, key) for key in _live(old.daemon, new.daemon)}
    try:
        daemon = DaemonConfig.model_validate(dict(old.daemon) | live)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"]
        raise ConfigError([f"daemon: {first}; that is so until the next start"]) from error
    providers = {**old.providers, **{name: new.providers[name] for name in added}}
    return replace(new, daemon=daemon, providers=providers)


def _live(old: DaemonConfig, new: DaemonConfig) -> frozenset[str]:
    """Keys that hold at once. The socket that is bound stays: TLS can't go while others can reach it."""
    if new.tls is None and old.address is not None and not is_loopback(old.address[0]):
        return LIVE - {"tls"}
    return LIVE


def _daemon(old: DaemonConfig, new: DaemonConfig, told: _Lines) -> list[str]:
    restart: dict[str, None] = {}
    at_once = _live(old, new)
    for one in differences(old, new, "daemon"):
        live = one.key.split(".")[1] in at_once
        told.tell("in place" if live else "at the next start", [one])
        if not live:
            restart[one.key] = None
    return list(restart)


def _providers(old: Config, new: Config, told: _Lines) -> tuple[list[str], list[str]]:
    added, restart = list[str](), list[str]()
    for name, one in new.providers.items():
        before = old.providers.get(name)
        where = f"providers.{name}"
        if before is None:
            told.tell("in place", how=f"{where}: new, of type {one.type}")
            added.append(name)
        elif before.type != one.type:
            told.tell("at the next start", how=f"{where}.type: {before.type} -> {one.type}")
            restart.append(where)
        elif differing := differences(before.settings, one.settings, where):
            told.tell("at the next start", differing)
            restart.append(where)
    for name in old.providers:
        if name not in new.providers:
            told.tell("at the next start", how=f"providers.{name}: taken away")
            restart.append(f"providers.{name}")
    return added, restart


def _webhooks(old: Config, new: Config, waiting: Mapping[str, tuple[int, int]], told: _Lines) -> None:
    for name, one in new.webhooks.items():
        before = old.webhooks.get(name)
        if before is None:
            told.tell("in place", how=f"webhooks.{name}: new")
        elif differing := differences(before, one, f"webhooks.{name}"):
            told.tell("in place", differing)
    for name in old.webhooks:
        if name not in new.webhooks:
            events, replies = waiting.get(name, (0, 0))
            lost = f"; {events} events and {replies} replies that wait are dropped"
            told.tell("in place", how=f"webhooks.{name}: taken away{lost if events or replies else ''}")


def _pools(
    new: Config,
    states: Mapping[str, PoolState | None],
    machines: Mapping[str, Collection[InstanceState]],
    told: _Lines,
) -> tuple[dict[str, str], dict[str, Request]]:
    pools: dict[str, str] = {}
    requests: dict[str, Request] = {}
    for name, what, request in changes(new.pools, states, new.unfillable):
        pools[name] = what
        state = states.get(name)
        if request is not None:
            requests[name] = request
        if isinstance(request, PoolUpdateRequested) and state is not None:
            pools[name] = _updated(name, state, request, machines.get(name, ()), told)
            if pools[name].startswith(NOT_APPLIED):
                del requests[name]
        else:
            told.tell(_way(what, request), how=f"pools.{name}: {what.removeprefix(NOT_APPLIED)}")
    return pools, requests


def _updated(
    name: str,
    state: PoolState,
    request: PoolUpdateRequested,
    machines: Collection[InstanceState],
    told: _Lines,
) -> str:
    """Tell what becomes of each key that differs; answers what is done, in a word or a sentence."""
    ahead = foreseen(state, request.spec, machines)
    built_in = [key for key in changed_keys(state.spec, request.spec) if key in BUILT_IN]
    rolls = bool(built_in) and ahead.outdated > 0
    for one in differences(state.spec, request.spec, f"pools.{name}"):
        replaces = rolls and one.key.split(".")[2] in BUILT_IN
        told.tell("refused" if ahead.refused else ROLLS if replaces else "in place", [one])
    if ahead.refused:
        told.tell("refused", how=f"pools.{name}: {ahead.refused}")
        return f"{NOT_APPLIED}{ahead.refused}"
    if not rolls:
        return "updated"
    text = f"{ahead.outdated} of {ahead.kept} machines are replaced, a few at a time"
    told.tell(ROLLS, how=f"pools.{name}: {text}")
    return f"updated: {text}"


def unnamed(pools: Mapping[str, PoolConfig], states: Mapping[str, PoolState | None]) -> list[str]:
    """Pools that a config made, that live, and that it does not name any more. They are told each time."""
    return sorted(
        name
        for name, state in states.items()
        if name not in pools
        and state is not None
        and state.made_by == CONFIG
        and state.status not in ("draining", "destroyed")
    )


def _way(what: str, request: Request | None) -> str:
    if what.startswith(NOT_APPLIED):
        return "refused"
    return "in place" if request is not None else "left alone"


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


def as_json(made: Plan, *, applied: bool) -> dict[str, Any]:
    """What the API answers. `applied` False: it was only looked what a reload would do."""
    return {
        "applied": applied,
        "pools": dict(made.pools),
        "providers_added": list(made.providers_added),
        "needs_restart": list(made.needs_restart),
        "plan": list(made.lines),
    }
