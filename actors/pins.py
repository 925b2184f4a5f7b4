"""What waits for one node only, added up by what changes: part of what is derived from states."""

from collections import Counter
from collections.abc import Callable, Mapping, Sized

from actors.events import InstanceId
from actors.policy.scaling import Pins
from actors.pool.ranks import Removed, is_number

Bounds = tuple[int, Removed, int]
# a node's machine, and how many tasks are on it
Look = Callable[[int], tuple[InstanceId | None, int]]


class PinSums:
    """Sums over all nodes that tasks are pinned to; a node is looked at again only after it changed."""

    def __init__(self) -> None:
        self._shapes: Counter[tuple[int, int]] = Counter()
        self._waiting = 0
        self._missing: set[int] = set()
        self._counted: dict[int, tuple[int, tuple[int, int] | None]] = {}  # all tasks, and its shape
        self._changed: dict[int, None] = {}
        self._seen_by: dict[InstanceId, set[int]] = {}  # nodes of which that says something by this machine
        self._bounds: Bounds | None = None

    def node_changed(self, node: int) -> None:
        """Its tasks, or its machine."""
        self._changed[node] = None

    def machine_changed(self, instance: InstanceId) -> None:
        """The tasks on it."""
        for node in self._seen_by.pop(instance, ()):
            self._changed[node] = None

    def add_up(
        self, pinned: Mapping[int, Sized], look: Look, nodes: int, removed: Removed, most: int
    ) -> Pins:
        """What waits for the nodes that are there, or may be; valid until something changes.

        Args:
            pinned: all tasks that could start, by node.
            look: at a node.
            nodes, removed: which numbers are nodes now.
            most: other numbers may be nodes, when they are lower.
        """
        bounds = (nodes, removed, most)
        if bounds != self._bounds:
            self._bounds = bounds
            self._changed.update(dict.fromkeys(self._counted))
        for node in self._changed:
            self._count_again(node, len(pinned.get(node, ())), look, bounds)
        self._changed.clear()
        return Pins(pinned, self._shapes, tuple(sorted(self._missing)), self._waiting)

    def _count_again(self, node: int, waiting: int, look: Look, bounds: Bounds) -> None:
        before, shape = self._counted.pop(node, (0, None))
        self._waiting += waiting - before
        self._missing.discard(node)
        if shape is not None:
            self._shapes[shape] -= 1
            if not self._shapes[shape]:
                del self._shapes[shape]
        if not waiting:
            return
        nodes, removed, most = bounds
        is_missing = not is_number(node, nodes, removed)
        shape = None
        if node < most or not is_missing:
            name, beside = look(node)
            shape = (waiting, beside)
            self._shapes[shape] += 1
            if name is not None:
                self._seen_by.setdefault(name, set()).add(node)
            if is_missing:
                self._missing.add(node)
        self._counted[node] = (waiting, shape)
