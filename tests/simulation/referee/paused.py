"""The rule that a pause is one: nothing is ordered, moved or started in it, and nothing is scaled."""

from typing import Any

from actors.instance.state import Requested
from actors.node.state import Replacing
from actors.pool import money
from actors.pool.state import Active, Parked, PoolState
from actors.ports import Commit
from tests.simulation.referee.base import Checker


class PausedRests(Checker):
    """A commit before and after which a pool is in one pause launches nothing and starts nothing."""

    name = "a paused pool rests"
    kinds = ("pool", "node", "instance", "task")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._before: dict[str, PoolState | None] = {}  # of this commit, by pool
        self._done: list[tuple[str, str]] = []  # what must not be done in a pause, and to whom

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """What of it would be wrong in a pause."""
        if kind == "pool":
            self._before[pool] = old
        elif kind == "instance" and isinstance(new, Requested):
            if old is None or new.tries > old.tries:
                self._done.append(("is launched", name))
        elif kind == "task" and new is not None and new.status == "assigned":
            if old is None or old.status == "pending":
                self._done.append(("gets a machine", name))
        elif kind == "node" and isinstance(new, Replacing) and new.moving:
            if not (isinstance(old, Replacing) and old.moving):
                self._done.append((f"node {pool}/{name} is moved", name))

    def committed(self, commit: Commit) -> None:
        """Hold it against the pool before and after the commit."""
        after = self.book.pools.get(commit.pool)
        before = self._before.get(commit.pool, after)
        if isinstance(after, Active | Parked) and isinstance(before, Active | Parked):
            if after.paused is not None and after.paused == before.paused:
                for what, name in self._done:
                    self.fail(f"{name} {what}, and {commit.pool} is paused", name)
                self._look(before, after)
        self._before.clear()
        self._done.clear()

    def _look(self, before: Active | Parked, after: Active | Parked) -> None:
        if isinstance(before, Active) and isinstance(after, Active) and after.scaled != before.scaled:
            self.fail(f"{after.name} follows its tasks, and is paused", after.name)
        if after.spares != before.spares:
            self.fail(f"{after.name} changes its spares, and is paused", after.name)
        if after.steered[0] > before.steered[0] and money.may_keep_machines(after):
            self.fail(f"{after.name} fills more nodes, and is paused", after.name)
