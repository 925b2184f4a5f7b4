"""Rules about what is bought: it fits what the pool wants, and is within what it may spend."""

from collections import Counter
from typing import Any

from actors.instance.state import Bootstrapping, Provisioning, Ready, Requested
from actors.node.state import Replacing
from actors.policy.eligible import mismatch
from actors.pool import money
from actors.pool.state import Active
from actors.ports import Commit
from tests.simulation.referee.base import Checker


class OnlyWhatFitsIsBought(Checker):
    """What is ordered is what the spec asks for, at no more than its highest price, and in a pool that may
    spend."""

    name = "only what fits is bought"
    kinds = ("instance",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ordered: list[Requested] = []

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Orders of this commit."""
        if old is None and isinstance(new, Requested):
            self._ordered.append(new)

    def committed(self, commit: Commit) -> None:
        """The pool's state of the same commit is what they are held against."""
        pool = self.book.pools.get(commit.pool)
        for one in self._ordered if pool is not None else ():
            if not isinstance(pool, Active):
                self.fail(f"{one.id} is ordered for {commit.pool}, which is not active", one.id)
                continue
            reason = mismatch(pool.spec, one.offer)
            if reason is not None:
                self.fail(f"{one.id} is ordered at {one.offer.market}, which {reason}", one.id)
            if pool.spend.reached is not None and pool.spec.budget.then != "warn":
                self.fail(f"{one.id} is ordered though the {pool.spend.reached}'s budget is spent", one.id)
        self._ordered.clear()


class CeilingHolds(Checker):
    """No machine is ordered on demand while there are as many as may be, but for those being replaced."""

    name = "the ceiling of on demand holds"
    kinds = ("instance", "node")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._count: Counter[str] = Counter()  # on demand, by pool
        self._replacing: Counter[str] = Counter()
        self._ordered: list[str] = []

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Keep the counts."""
        if kind == "node":
            self._replacing[pool] += isinstance(new, Replacing) - isinstance(old, Replacing)
            return
        self._count[pool] += _counts(new) - _counts(old)
        if old is None and isinstance(new, Requested) and new.offer.lifecycle == "on_demand":
            self._ordered.append(new.id)

    def committed(self, commit: Commit) -> None:
        """Only when one was ordered: what is there may have been bought under another spec."""
        pool = self.book.pools.get(commit.pool)
        if self._ordered and isinstance(pool, Active) and pool.spec.on_demand.ceiling is not None:
            most = pool.spec.on_demand.ceiling + self._replacing[commit.pool]
            if self._count[commit.pool] > most:
                text = f"{commit.pool} has {self._count[commit.pool]} machines on demand, {most} may be"
                self.fail(text, *self._ordered)
        self._ordered.clear()


def _counts(state: Any) -> bool:
    if isinstance(state, Requested):
        return state.leave is None and state.offer.lifecycle == "on_demand"
    return isinstance(state, Provisioning | Bootstrapping | Ready) and state.offer.lifecycle == "on_demand"


class SizeIsWithinBounds(Checker):
    """A pool that follows its tasks has no fewer nodes than its least and no more than its most, unless a
    user asked for another number."""

    name = "sizes are within bounds"
    kinds = ("pool",)

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Only what scaling itself did."""
        if not (isinstance(old, Active) and isinstance(new, Active)) or new.spec.scaling is None:
            return
        if new.scaled == old.scaled or new.spec != old.spec:
            return
        bounds = new.spec.nodes
        least = bounds.desired if bounds.min is None else bounds.min
        if new.desired > old.desired and bounds.max is not None and new.desired > bounds.max:
            self.fail(f"{pool} grew to {new.desired} nodes, {bounds.max} may be", pool)
        if new.desired < old.desired and new.desired < least:
            self.fail(f"{pool} shrank to {new.desired} nodes, {least} must be", pool)


class SpentIsEnded(Checker):
    """A pool whose budget is spent, and which then ends its machines, wants none."""

    name = "what is spent is ended"
    kinds = ("pool",)

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Told to its nodes in the commit in which it is reached."""
        if isinstance(new, Active) and not money.may_keep_machines(new) and new.steered[0] != 0:
            self.fail(f"{pool} has spent its budget, and still wants {new.steered[0]} machines", pool)
