"""Whether the spec of a pool makes sense: what its keys say against each other, and against what is sold."""

import math
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pydantic import BaseModel

from actors.buying import Alternative, Buying
from actors.policy.eligible import lifecycles
from actors.spec import LOG_BYTES_MAX, NODES_MAX, PoolSpec
from controller.config_errors import dotted
from controller.funnel import Sieve
from providers.container.config import ContainerConfig
from providers.local.config import LocalConfig
from providers.model import Offer
from providers.priced import offers_of
from providers.simulated.config import SimulatedConfig, SimulatedOffer

NAME_CHARS_MAX = 256  # of a region, zone, instance type, accelerator, or pattern of such
_BUYING = Buying()
_NO_SPOT = "the pool's machines are all bought on demand"
_NO_ON_DEMAND = "allocation is 'spot': machines are never bought on demand"


class Contradiction(NamedTuple):
    """Two keys of a spec that can't both be meant; `location` is the key to change, within the spec."""

    location: tuple[str | int, ...]
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.location)}: {self.text}"


def contradictions(spec: PoolSpec) -> tuple[Contradiction, ...]:
    """Everything in a spec that contradicts itself, in the order of the keys; nothing when it is sound."""
    parts = (_numbers, _names, _accelerator, _lifecycles, _places, _alternatives, _buying)
    return tuple(Contradiction(*found) for part in parts for found in part(spec))


# A key that is wrong, and the keys of which something may seem wrong for that only.
_SHADES: Mapping[str, tuple[str, ...]] = {
    "nodes": ("on_demand", "buying"),
    "on_demand": ("on_demand",),
    "allocation": ("on_demand", "buying", "alternatives"),
    "buying": ("on_demand", "buying", "alternatives"),
    "spread": ("spread",),
    "provider": ("alternatives",),
    "region": ("alternatives",),
    "zone": ("alternatives", "spread"),
    "instance_type": ("alternatives",),
    "alternatives": ("alternatives",),
}


def shaded(doubtful: Iterable[str]) -> set[str]:
    """Keys whose contradictions say nothing while these keys are not what the user meant."""
    return {shade for key in doubtful for shade in _SHADES.get(key, ())}


_Found = Iterator[tuple[tuple[str | int, ...], str]]


def _numbers(spec: PoolSpec) -> _Found:
    nodes, on_demand = spec.nodes, spec.on_demand
    most = nodes.max if nodes.max is not None else nodes.desired
    which = "max" if nodes.max is not None else "desired"
    if on_demand.floor > most > 0:
        yield ("on_demand", "floor"), f"{on_demand.floor} nodes on demand, and nodes.{which} is {most}"
    share = math.ceil(on_demand.share * nodes.desired)
    if on_demand.ceiling is not None and share > on_demand.ceiling:
        text = f"{on_demand.share:g} of {nodes.desired} nodes is {share}, and ceiling is {on_demand.ceiling}"
        yield ("on_demand", "share"), text
    if spec.log_bytes_max > LOG_BYTES_MAX:
        yield ("log_bytes_max",), f"may be up to {LOG_BYTES_MAX}"
    spares = spec.buying.spares
    beyond = spares if isinstance(spares, int) else 0
    if most + beyond > NODES_MAX:
        yield ("buying", "spares"), f"{beyond} beyond {most} nodes: a pool has {NODES_MAX} machines at most"


def _names(spec: PoolSpec) -> _Found:
    """What vendors call things: checked here, since states may have others, of older journals."""
    for key in ("region", "zone", "instance_type"):
        wanted: str | None = getattr(spec, key)
        if wanted is not None and (wrong := _no_name(wanted)):
            yield (key,), wrong
    if spec.accelerator is not None and (wrong := _no_name(spec.accelerator.name)):
        yield ("accelerator", "name"), wrong
    for place, one in enumerate(spec.alternatives):
        for key in ("provider", "region", "zone", "instance_type"):
            wrong = next(filter(None, map(_no_name, _patterns(one, key))), "")
            if wrong:
                yield ("alternatives", place, key), wrong


def _no_name(text: str) -> str:
    """Why a vendor calls nothing so; "" when one may."""
    if not 0 < len(text) <= NAME_CHARS_MAX:
        return f"a name of {len(text)} characters: give 1 to {NAME_CHARS_MAX}"
    return "" if text.isprintable() else "has characters that can't be printed"


def _accelerator(spec: PoolSpec) -> _Found:
    wanted = spec.accelerator
    if wanted is None:
        return
    if ":" in wanted.name:
        text = f"{wanted.name!r} is no name: name and count are two keys, such as name = 'H100', count = 8"
        yield ("accelerator", "name"), text
    if wanted.count <= 0:
        yield ("accelerator", "count"), "has to be more than 0: leave accelerator out to want none"


def _lifecycles(spec: PoolSpec) -> _Found:
    on_demand, buying = spec.on_demand, spec.buying
    if spec.allocation == "spot":
        if on_demand.ceiling is not None:
            text = f"{_NO_ON_DEMAND} but for on_demand.floor and share, which say how many"
            yield ("on_demand", "ceiling"), text
        if buying.policy == "on-demand":
            yield ("buying", "policy"), f"policy 'on-demand' buys nothing else, and {_NO_ON_DEMAND}"
        if buying.patience_s:
            yield ("buying", "patience_s"), f"nothing is covered on demand: {_NO_ON_DEMAND}"
    only = lifecycles(spec)
    if only == ("on_demand",) and on_demand.ceiling is not None:
        which = "policy" if spec.allocation != "on-demand" else "allocation"
        yield ("on_demand", "ceiling"), f"{which} is 'on-demand': no other machine could fill the other nodes"
    for place, one in enumerate(spec.alternatives):
        if one.lifecycle is not None and one.lifecycle not in only:
            how = (
                _NO_ON_DEMAND
                if one.lifecycle == "on_demand"
                else "the pool's machines are all bought on demand"
            )
            yield ("alternatives", place, "lifecycle"), f"can't be {one.lifecycle!r}: {how}"


def _places(spec: PoolSpec) -> _Found:
    if spec.spread == "zones" and spec.zone is not None:
        yield ("spread",), f"'zones' needs more than one, and zone is {spec.zone!r}"


def _alternatives(spec: PoolSpec) -> _Found:
    for place, one in enumerate(spec.alternatives):
        for pattern in one.provider:
            if not _fits_any(pattern, spec.provider):
                near = get_close_matches(pattern, spec.provider, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                text = f"the pool's provider does not name {pattern!r}, but {', '.join(spec.provider)}{hint}"
                yield ("alternatives", place, "provider"), text
        for key in ("region", "zone", "instance_type"):
            wanted: str | None = getattr(spec, key)
            patterns = _patterns(one, key)
            if wanted is not None and patterns and not any(fnmatchcase(wanted, one) for one in patterns):
                text = f"the pool's {key} is {wanted!r}, which is none of {', '.join(patterns)}"
                yield ("alternatives", place, key), text


def _patterns(one: Alternative, key: str) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(one, key)
    return found


def _fits_any(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _given(spec: PoolSpec, key: str) -> bool:
    value: Any = getattr(spec.buying, key)
    return bool(value != getattr(_BUYING, key))


def _buying(spec: PoolSpec) -> _Found:
    policy = spec.buying.policy
    if _given(spec, "extra") and policy != "spothedge":
        text = f"is for the policy 'spothedge', and policy is {policy!r}: spares are beyond the desired nodes"
        yield ("buying", "extra"), text
    for key in ("missing_node_hour", "missing_node_hour_usd", "availability"):
        if _given(spec, key) and policy != "hazard":
            yield ("buying", key), f"is for the policy 'hazard', and policy is {policy!r}"
    if spec.buying.spares == "auto" and policy != "hazard":
        yield ("buying", "spares"), f"only the policy 'hazard' finds out how many, and policy is {policy!r}"
    if spec.buying.spares and policy == "spothedge":
        yield ("buying", "spares"), "the policy 'spothedge' has 'extra' instead"
    if spec.buying.availability is not None:
        for key in ("missing_node_hour", "missing_node_hour_usd"):
            if _given(spec, key):
                text = f"availability finds out by itself what a missing node is worth: leave out {key} or it"
                yield ("buying", key), text


# --- what is sold ---------------------------------------------------------------------------------


def fixed_offers(name: str, settings: BaseModel) -> tuple[Offer, ...] | None:
    """All that a provider will ever sell, as far as its config alone tells; None: it has to be asked.

    A price that changes over time counts as nothing, so that no limit removes it.
    """
    match settings:
        case LocalConfig(offers=offers) | ContainerConfig(offers=offers):
            return offers_of(offers, name)
        case SimulatedConfig(offers=simulated):
            return offers_of([_priced(one) for one in simulated], name)
        case _:
            return None


class _Priced(NamedTuple):
    instance_type: str
    region: str
    zone: str
    vcpus: float
    memory_gb: float
    spot: float | None
    on_demand: float | None


def _priced(one: SimulatedOffer) -> _Priced:
    spot, on_demand = (
        price if price is None or isinstance(price, int | float) else 0.0
        for price in (one.spot, one.on_demand)
    )
    return _Priced(one.instance_type, one.region, one.zone, one.vcpus, one.memory_gb, spot, on_demand)


def unfillable(spec: PoolSpec, providers: Mapping[str, BaseModel]) -> Contradiction | None:
    """Why no offer can ever match, by the providers' settings alone; None: one can, or that is not known.

    The location is the key of the filter that removed the last offer.
    """
    offers: dict[str, tuple[Offer, ...]] = {}
    for name in spec.provider:
        settings = providers.get(name)
        known = fixed_offers(name, settings) if settings is not None else None
        if known is None:
            return None
        offers[name] = known
    lack = Sieve.among(spec, offers, {}).lack()
    return None if lack is None else Contradiction(lack.location, lack.text)
