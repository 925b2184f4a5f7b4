"""How many machines of a pool are not what its spec asks for: kept by commits, a read looks at none."""

from collections.abc import Iterable

from actors.instance.state import InstanceState
from actors.policy.built import Build
from actors.pool.rolling import is_kept
from actors.pool.state import PoolState


class Outdated:
    """Counts a pool's machines while it rolls; without a roll there is nothing to count.

    Attributes:
        count: machines at work or coming that are outdated.
    """

    def __init__(self) -> None:
        self.count = 0
        self._build: Build | None = None
        self._pool: PoolState | None = None
        self._known: dict[str, bool] = {}

    def pool(self, state: PoolState, instances: Iterable[InstanceState]) -> None:
        """Take in the pool's state. A look at each of its machines where it asks for something else."""
        before, self._pool = self._pool, state
        if getattr(state, "roll", None) is None:
            self._known, self._build, self.count = {}, None, 0
            return
        is_same = before is not None and before.spec is state.spec and before.unmarked == state.unmarked
        if self._build is not None and is_same:
            return
        self._known, self.count = {}, 0
        self._build = Build.of(state.spec, state.unmarked)
        for one in instances:
            self.machine(one.id, one)

    def machine(self, name: str, state: InstanceState | None) -> None:
        """Take in a machine's state; None: it is forgotten."""
        if self._build is None:
            return
        known = self._known.pop(name, None)
        if known is not None:
            self.count -= known
        if state is not None and is_kept(state):
            is_outdated = self._build.lacks(state.image, state.disk_gb, state.offer) is not None
            self._known[name] = is_outdated
            self.count += is_outdated

    def has(self, name: str) -> bool:
        """Whether a machine is one of those."""
        return self._known.get(name, False)
