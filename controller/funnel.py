"""Whether anything that is offered fits a pool, which filter removed the rest, and what is offered at all."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from actors.decision import World
from actors.policy.billing import usd
from actors.policy.budget import commitment_micro_usd
from actors.policy.eligible import FILTERS, Sifted, funnel, lifecycles, mismatch, sells
from actors.spec import PoolSpec
from controller.telling import count, listed
from controller.views import Json
from providers.model import MICRO, Capabilities, Lifecycle, Offer

PRICE = "max_hourly_cost"
_REASONS_TOLD = 4
_WAYS: Mapping[Lifecycle, str] = {"spot": "spot", "on_demand": "on-demand"}
_SOLD: Mapping[Lifecycle, str] = {"spot": "as spot", "on_demand": "on demand"}


class Lack(NamedTuple):
    """Why a pool can't be filled, wholly or in part; `location` is the key of its spec to change."""

    location: tuple[str, ...]
    text: str


def demanded(spec: PoolSpec) -> dict[Lifecycle, tuple[str, int]]:
    """In which ways machines have to be bought, where the others can't stand in: by which key, and how many.

    What a pool buys in one way only is not among them: there all offers are of that way.
    """
    if len(lifecycles(spec)) == 1:
        return {}
    rule, nodes = spec.on_demand, spec.nodes.desired or spec.nodes.max or 1
    share = math.ceil(round(rule.share * nodes, 6))
    least = min(nodes, max(rule.floor, share))
    most = least if spec.allocation == "spot" else nodes
    if rule.ceiling is not None:
        most = min(most, rule.ceiling)
    found: dict[Lifecycle, tuple[str, int]] = {}
    if least:
        found["on_demand"] = ("floor" if rule.floor >= share else "share", least)
    if most < nodes:
        found["spot"] = ("ceiling" if rule.ceiling is not None else "allocation", nodes - most)
    return found


@dataclass(frozen=True, slots=True)
class Sieve:
    """What is left of all offers, filter by filter.

    Attributes:
        spec: the pool's.
        steps: see `funnel`.
        fitting: the offers that are left.
        silent: providers that the pool names and that have told no offers yet.
        last: the offers that the last filter which removed any of the pool's providers left nothing of.
        parts: the same of each way of buying that the pool can't do without; see `demanded`.
        way: this is such a part, of the offers that are sold so.
    """

    spec: PoolSpec
    steps: tuple[Sifted, ...]
    fitting: tuple[Offer, ...]
    silent: tuple[str, ...]
    last: tuple[Offer, ...]
    parts: "tuple[Sieve, ...]" = ()
    way: Lifecycle | None = None

    @classmethod
    def of(cls, spec: PoolSpec, world: World) -> Self:
        """The offers of the world, for a pool of this spec."""
        return cls.among(spec, world.offers, world.capabilities)

    @classmethod
    def among(
        cls, spec: PoolSpec, offers: Mapping[str, tuple[Offer, ...]], capabilities: Mapping[str, Capabilities]
    ) -> Self:
        """These offers, by provider, for a pool of this spec."""
        parts = []
        for way in demanded(spec):
            sold_so = {
                name: tuple(one for one in all_ if one.lifecycle == way) for name, all_ in offers.items()
            }
            parts.append(cls._sifted(spec, sold_so, capabilities, (), way))
        return cls._sifted(spec, offers, capabilities, tuple(parts), None)

    @classmethod
    def _sifted(
        cls,
        spec: PoolSpec,
        offers: Mapping[str, tuple[Offer, ...]],
        capabilities: Mapping[str, Capabilities],
        parts: "tuple[Sieve, ...]",
        way: Lifecycle | None,
    ) -> Self:
        steps = funnel(spec, offers, capabilities)
        sold = [
            offer for name in spec.provider for offer in offers.get(name, ()) if sells(offer, capabilities)
        ]
        fitting = tuple(offer for offer in sold if mismatch(spec, offer) is None)
        silent = tuple(name for name in spec.provider if name not in offers)
        left = list(sold)
        for _, test in FILTERS:
            kept = [offer for offer in left if test(spec, offer) is None]
            if not kept:
                break
            left = kept
        return cls(spec, steps, fitting, silent, () if fitting else tuple(left), parts, way)

    @property
    def culprit(self) -> str | None:
        """The filter that removed the last offer; None: some are left, or none was known before."""
        if self.steps[-1].left:
            return None
        return next((step.name for step in self.steps if step.removed and not step.left), None)

    def shown(self) -> list[Json]:
        """The filters as JSON, those that removed nothing left out."""
        return [step._asdict() for step in self.steps if step.removed or step.name == "all"]

    def lines(self) -> list[str]:
        """The filters as lines for people, those that removed nothing left out."""
        return [
            f"{step.name}: {count(step.left, 'offer')}"
            if step.name == "all"
            else f"{step.name}: removed {step.removed}, left {step.left}"
            for step in self.steps
            if step.removed or step.name == "all"
        ]

    def why_none(self) -> str | None:
        """A sentence on why nothing fits; None when something does, or is not known yet."""
        if self.fitting or self.silent:
            return None
        there = self._of_providers()
        names = listed(self.spec.provider)
        how = "" if self.way is None else f"{_WAYS[self.way]} "
        none = f"No {how}offer fits{self._in_vain()}"
        if not there:
            what = f"nothing {_SOLD[self.way]}" if self.way is not None else "nothing at all"
            return f"{none}: {names} sell{'s' if len(self.spec.provider) == 1 else ''} {what}."
        culprit = self.culprit
        if culprit == "spot":
            return f"{none}: {names} sell nothing in a way that they can, such as spot."
        parts = [
            f"{step.name} removed {step.removed}"
            for step in self.steps
            if step.removed and step.left and step.name not in ("all", "provider")
        ]
        reasons = list(dict.fromkeys(mismatch(self.spec, offer) or "" for offer in self.last))
        which = f"the last {len(self.last)}" if parts else "all of them" if there > 1 else "it"
        last = f"{culprit}{self._wanted(culprit or '')} removed {which} ({listed(reasons, _REASONS_TOLD)})"
        return f"{none}: of {count(there, f'{how}offer')} of {names}, {', '.join([*parts, last])}."

    def lacks(self) -> Iterator[tuple["Sieve", Lack]]:
        """What can't be bought at all, now: everything, or what has to be bought in one way."""
        why = self.why_none()
        if why is not None:
            yield self, Lack((self.culprit or "provider",), why)
        for part in self.parts:
            why = part.why_none()
            if why is not None:
                key = demanded(self.spec)[part.way or "spot"][0]
                yield part, Lack(("allocation",) if key == "allocation" else ("on_demand", key), why)

    def lack(self) -> Lack | None:
        """The first thing that can't be bought as offers are now, or that no budget lets; None: nothing."""
        return next((lack for _, lack in self.lacks()), None) or self.too_dear()

    def refusal(self) -> Lack | None:
        """Why a pool of this spec can never be filled; None when it can, or may, or nobody knows yet.

        A spot price moves, so that one that is too high now says nothing of tomorrow.
        """
        for sieve, lack in self.lacks():
            if sieve.culprit != PRICE or not any(one.lifecycle == "spot" for one in sieve.last):
                return lack
        if any(one.lifecycle == "spot" for one in self.fitting):
            return None
        return self.too_dear()

    def too_dear(self) -> Lack | None:
        """Whether a budget is so small that the cheapest machine can never be launched; None: it is not."""
        budget = self.spec.budget
        if budget.then == "warn" or self.silent or not self.fitting:
            return None
        needed, price = min(
            (commitment_micro_usd(one, self.spec, None), one.micro_usd_per_hour) for one in self.fitting
        )
        for period, limit, how in (("per_day", budget.per_day, "a day"), ("total", budget.total, "in all")):
            if limit is not None and needed > limit * MICRO:
                text = f"a machine at {usd(price)} an hour needs {usd(needed)} set aside, for its set-up and"
                text += f" its end, and the budget is {usd(round(limit * MICRO))} {how}"
                return Lack(("budget", period), f"{text}.")
        return None

    def _in_vain(self) -> str:
        """Who asks for it."""
        if self.way is None:
            return ""
        key, number = demanded(self.spec)[self.way]
        whose = key if key == "allocation" else f"on_demand.{key}"
        return (
            f", and {whose} leaves {count(number, 'node')} to them"
            if self.way == "spot"
            else (f", and {whose} wants {count(number, 'node')} of them")
        )

    def _of_providers(self) -> int:
        for step in self.steps:
            if step.name == "provider":
                return step.left
        return self.steps[0].left

    def _wanted(self, name: str) -> str:
        value = getattr(self.spec, name, None)
        if value is None or isinstance(value, tuple):
            return ""
        if name == "accelerator":
            return f" ({value.count:g} {value.name})"
        return f" ({value:g})" if isinstance(value, float) else f" ({value})"
