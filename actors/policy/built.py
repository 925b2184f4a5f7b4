"""Whether a machine is still what its pool's spec asks for: the image it was made from, and its shape. Pure.

A machine keeps a short mark of its image: what it was launched with, then what it was set up with, "b" or
"b.s". A part that differs from the spec's makes it outdated; so does an offer that has less than is asked.
"""

import hashlib
import json
from typing import Any, NamedTuple

from actors.policy.eligible import FILTERS
from actors.spec import Image, PoolSpec
from providers.model import Offer, Value

SHAPE = ("vcpus", "memory_gb", "disk_gb", "architecture", "accelerator", "region", "zone", "instance_type")
BUILT_IN = ("image", *SHAPE)  # keys that a machine can't follow: it is replaced
MIXED = "mixed"  # set up by the steps of more than one image: what no spec asks for
_CHARS = 12
_TESTS = tuple(test for name, test in FILTERS if name in SHAPE)


class Unmarked(Value):
    """What machines without a mark, those of an older everpool, were made with."""

    image: str
    disk_gb: float | None


class Build(NamedTuple):
    """What a spec asks of machines, as they keep it.

    Attributes:
        base: mark of what a machine is launched with.
        steps: mark of what it is set up with.
        unmarked: what those have that keep no mark; None: they are as the spec says.
    """

    spec: PoolSpec
    base: str
    steps: str
    unmarked: Unmarked | None

    @classmethod
    def of(cls, spec: PoolSpec, unmarked: Unmarked | None) -> "Build":
        """What this spec asks for."""
        base, steps = _marks(spec.image)
        return cls(spec, base, steps, unmarked)

    @property
    def mark(self) -> str:
        """Of a machine that was launched and set up by this spec."""
        return f"{self.base}.{self.steps}"

    def set_up(self, mark: str) -> str:
        """The mark of a machine when it is set up now, by the steps of this spec."""
        base, _, steps = self._known(mark).partition(".")
        return f"{base}.{self.steps if steps in ('', self.steps) else MIXED}"

    def lacks(self, mark: str, disk_gb: float | None, offer: Offer) -> str | None:
        """Why a machine is not what the spec asks for; None: it is.

        Args:
            mark: as the machine keeps it; "": an older everpool made it.
            disk_gb: what was ordered for it; counts where the offer itself tells of no disk.
            offer: as it was bought.
        """
        base, _, steps = self._known(mark).partition(".")
        if base != self.base or (steps and steps != self.steps):
            return "is of another image"
        return self.lacks_shape(mark, disk_gb, offer)

    def lacks_shape(self, mark: str, disk_gb: float | None, offer: Offer) -> str | None:
        """The same of its shape alone."""
        for test in _TESTS:
            if (reason := test(self.spec, offer)) is not None:
                return reason
        disk_gb = self.ordered_gb(mark, disk_gb)
        if offer.disk_gb is None and (disk_gb or 0) < (self.spec.disk_gb or 0):
            return f"was ordered with {disk_gb:g} GB disk" if disk_gb else "was ordered without a disk's size"
        return None

    def ordered_gb(self, mark: str, disk_gb: float | None) -> float | None:
        """The disk that was ordered for a machine; one without a mark does not keep it itself."""
        if mark:
            return disk_gb
        return self.spec.disk_gb if self.unmarked is None else self.unmarked.disk_gb

    def _known(self, mark: str) -> str:
        return mark or (self.mark if self.unmarked is None else self.unmarked.image)


def _marks(image: Image) -> tuple[str, str]:
    """Of what a machine is launched with, and of the rest. Defaults are left out: new keys change no mark."""
    said: dict[str, Any] = image.model_dump(mode="json", exclude_defaults=True)
    base = said.pop("base", None)
    return _digest(base), _digest(said)


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:_CHARS]
