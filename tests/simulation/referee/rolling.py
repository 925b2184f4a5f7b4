"""The rules of a roll: what works stays until another does, and only a few are on their way at a time."""

from collections import Counter
from typing import Any

from actors.instance.state import Destroying, Draining, Ready
from actors.node.state import Replacing
from actors.policy.built import Build
from actors.pool.state import Active
from actors.pool.wanted import wanted_count
from actors.ports import Commit
from tests.simulation.referee.base import Checker

Place = tuple[str, int]  # pool, rank
SHARE = 0.25


class WorksUntilReplaced(Checker):
    """A machine that leaves for another one, and could have stayed, leaves when that is ready."""

    name = "what works is kept until another does"
    kinds = ("instance",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ready: dict[Place, dict[str, None]] = {}
        self._left: list[tuple[Place, str]] = []
        self._came = 0  # machines of this commit that work, and did not before

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Keep who works, and who left."""
        if isinstance(old, Ready):
            self._ready[(pool, old.node)].pop(name, None)
        if isinstance(new, Ready):
            self._ready.setdefault((pool, new.node), {})[name] = None
        if new is not None and new.worked and not (old is not None and old.worked):
            self._came += 1
        if isinstance(old, Ready) and isinstance(new, Draining | Destroying) and new.reason == "moved":
            self._left.append(((pool, new.node), name))

    def committed(self, commit: Commit) -> None:
        """One that came in this commit may have been taken, or given to another rank, in it as well."""
        bare = [name for place, name in self._left if not self._ready.get(place) and self._knows(place, name)]
        if len(bare) > self._came:
            self.fail(f"{bare[0]} is sent away, and nothing works in its place", *bare)
        self._left.clear()
        self._came = 0

    def _knows(self, place: Place, name: str) -> bool:
        """Whether the node was told of another: one that still counts on this breaks another rule."""
        node = self.book.states.get((place[0], "node", str(place[1])))
        return node is not None and getattr(node, "instance_id", None) != name


class FewAtATime(Checker):
    """Of machines that are not what the spec asks for, no more are replaced at a time than a quarter of the
    pool: those that other machines are coming for, and those that left and end their tasks. One may be."""

    name = "few machines are replaced at a time"
    kinds = ("node", "instance")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._moving: Counter[str] = Counter()  # nodes, by pool
        self._ending: Counter[str] = Counter()
        self._begun: list[str] = []  # machines that are to be replaced from this commit on

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Keep the counts."""
        if kind == "instance":
            self._ending[pool] += _ends(new) - _ends(old)
            return
        self._moving[pool] += _moves(new) - _moves(old)
        if _moves(new) and not _moves(old):
            self._begun.append(new.old_id)

    def committed(self, commit: Commit) -> None:
        """Only when one was begun: a pool may shrink meanwhile. A gang goes from zone to zone as a whole."""
        pool = self.book.pools.get(commit.pool)
        if isinstance(pool, Active) and pool.spec.spread != "together":
            build = Build.of(pool.spec, pool.unmarked)
            outdated = [name for name in self._begun if self._is_outdated(name, build)]
            most = max(1, int(wanted_count(pool) * SHARE))
            count = self._moving[commit.pool] + self._ending[commit.pool]
            if outdated and count > most:
                self.fail(f"{count} machines of {commit.pool} are being replaced, {most} may be", *outdated)
        self._begun.clear()

    def _is_outdated(self, name: str, build: Build) -> bool:
        one = self.book.instance(name)
        return one is not None and not _is_right(one, build)


class RightStays(Checker):
    """A machine that is what the spec asks for gives way to none that is not."""

    name = "what is as asked for gives way to nothing else"
    kinds = ("pool", "instance")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._left: list[Any] = []
        self._respecced = False  # in this commit: what was right before it may be wrong after it

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Keep who left."""
        if kind == "pool":
            self._respecced |= old is None or new is None or old.spec != new.spec
        elif isinstance(old, Ready) and isinstance(new, Draining | Destroying) and new.reason == "moved":
            self._left.append(new)

    def committed(self, commit: Commit) -> None:
        """What came in the place of each is what fills its node now."""
        pool = self.book.pools.get(commit.pool)
        if isinstance(pool, Active) and not self._respecced:
            build = Build.of(pool.spec, pool.unmarked)
            for one in self._left:
                node = self.book.states.get((commit.pool, "node", str(one.node)))
                other = self.book.instance(getattr(node, "instance_id", None) or "")
                if other is not None and _is_right(one, build) and not _is_right(other, build):
                    text = f"{other.id} takes the place of {one.id}, and is not what the spec asks for"
                    self.fail(text, other.id, one.id)
        self._left.clear()
        self._respecced = False


def _is_right(one: Any, build: Build) -> bool:
    return build.lacks(one.image, one.disk_gb, one.offer) is None


def _moves(state: Any) -> bool:
    return isinstance(state, Replacing) and state.moving


def _ends(state: Any) -> bool:
    return isinstance(state, Draining) and state.reason == "moved"
