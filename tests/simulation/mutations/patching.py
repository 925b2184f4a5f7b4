"""How a planted fault gets into the product, and out again."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from actors.decision import Decision, View

Decide = Callable[[Any, Any, View], Decision]
Heard = Callable[[Decide, Any, Any, View], Decision]


class Patch:
    """Places of the product that were changed; `undo` changes them back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def put(self, where: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put what `make` makes of `where.name` in its place.

        Raises:
            KeyError: there is no such place any more: the mutation has to follow the product.
        """
        there = vars(where)[name]
        self._undo.append((where, name, there))
        setattr(where, name, make(there))

    def hear(self, rules: ModuleType, heard: Heard) -> None:
        """Put `heard(decide, state, message, view)` in the place of an actor's `decide`."""
        self.put(
            rules, "decide", lambda decide: lambda state, message, view: heard(decide, state, message, view)
        )

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            where, name, there = self._undo.pop()
            setattr(where, name, there)


Mutation = Callable[[Patch], None]


def without(decision: Decision, *kinds: type) -> Decision:
    """The decision without tells, effects and facts of these kinds."""
    return Decision(
        decision.state,
        tuple(tell for tell in decision.tells if not isinstance(tell[1], kinds)),
        tuple(effect for effect in decision.effects if not isinstance(effect, kinds)),
        tuple(fact for fact in decision.facts if not isinstance(fact.event, kinds)),
        decision.taken,
    )


def never(there: property) -> property:
    """In the place of a state's `due_at`: its timer is forgotten."""
    return property(lambda self: None, doc=there.__doc__)
