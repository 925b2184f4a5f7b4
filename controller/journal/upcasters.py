"""How states written by older releases become states of this one."""

from collections.abc import Callable
from typing import Any

from controller.journal.errors import StateUnreadable

Body = dict[str, Any]
Upcaster = Callable[[Body], Body]


class Upcasters:
    """One step per (kind, version), each leading to the next version."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, int], Upcaster] = {}

    def register(self, kind: str, from_version: int) -> Callable[[Upcaster], Upcaster]:
        """Decorate the function that turns a body of `from_version` into one of the next version."""

        def enter(step: Upcaster) -> Upcaster:
            if (kind, from_version) in self._steps:
                raise ValueError(f"two upcasters for {kind} version {from_version}")
            self._steps[kind, from_version] = step
            return step

        return enter

    def upcast(self, kind: str, version: int, body: Body, current: int) -> Body:
        """Lift `body` from `version` to `current`.

        Raises:
            StateUnreadable: it is newer than `current`, or a step is missing.
        """
        if version > current:
            raise StateUnreadable(
                f"a {kind} state has version {version}, and this everpool knows up to {current}: "
                "install the newer everpool again"
            )
        for number in range(version, current):
            step = self._steps.get((kind, number))
            if step is None:
                raise StateUnreadable(
                    f"a {kind} state has version {version}, too old for this everpool (nothing leads from "
                    f"{number} to {number + 1}): start an everpool from in between first"
                )
            body = step(body)
        return body


UPCASTERS = Upcasters()


@UPCASTERS.register("market", 1)
def _market_with_spells(body: Body) -> Body:
    """It knew launches and losses by their counts and last times, and when others were to be preferred."""
    good_at, bad_at = body.get("last_launch_at"), body.get("last_loss_at")
    is_closed = bad_at is not None and (good_at is None or bad_at > good_at)
    return {name: value for name, value in body.items() if name != "avoid_until"} | {
        "good_at": good_at,
        "bad_at": bad_at,
        "closed_since": bad_at if is_closed else None,
        "up_since": good_at,
        "decayed_at": body.get("since", 0.0),
    }


upcast = UPCASTERS.upcast
