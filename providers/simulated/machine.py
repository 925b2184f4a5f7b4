"""One simulated machine, as its cloud knows it."""

import math
from dataclasses import dataclass

from providers.model import Address, BillingUnit, Handle, Notice, Offer, Sighting, SightingState
from providers.simulated.host import SimulatedHost

_UNIT_S: dict[BillingUnit, int] = {"second": 1, "minute": 60, "hour": 3600}


@dataclass(slots=True, eq=False)
class Machine:
    """One machine, from its launch on; kept after its end, because its key is never used again."""

    ref: str
    key: str
    owner: str
    epoch: int
    offer: Offer  # with the price of the moment of its launch, which it keeps
    cluster_id: str
    launched_at: float
    visible_at: float
    version: str = "1"  # of the agent that it begins with
    instance_id: str = ""  # whose host key it was given; "": it made its own
    state: SightingState = "pending"
    address: Address | None = None
    notice: Notice | None = None
    ended_at: float | None = None
    host: SimulatedHost | None = None  # None: nothing runs there
    has_agent: bool = True
    boots: bool = True
    silent_until: float = 0.0
    unlisted_until: float = 0.0
    is_leaving: bool = False  # its notice will come true
    shown: Sighting | None = None  # as it was listed last; None: changed since
    disk: SimulatedHost | None = None  # of a machine that is stopped
    began_at: float = 0.0  # of what is billed now, or was billed last
    stopped_at: float | None = None  # None: it costs
    billed: int = 0  # micro-dollars, up to the time it was last started again

    def billed_micro_usd(self, now: float) -> int:
        """What it has cost; each time that it runs is paid to the begun second, minute or hour."""
        until = now if self.stopped_at is None else self.stopped_at
        unit_s = _UNIT_S[self.offer.billing_unit]
        seconds = math.ceil(max(0.0, until - self.began_at) / unit_s) * unit_s
        return self.billed + seconds * self.offer.micro_usd_per_hour // 3600

    def handle(self, provider: str) -> Handle:
        """How we name it."""
        return Handle(provider=provider, ref=self.ref, region=self.offer.region, zone=self.offer.zone)

    def sighting(self, provider: str) -> Sighting:
        """As a listing shows it, all times the vendor's."""
        if self.shown is None:
            self.shown = Sighting(
                key=self.key,
                handle=self.handle(provider),
                state=self.state,
                address=self.address,
                launched_at=self.began_at,
                ended_at=None if self.ended_at is None else self.stopped_at,
                micro_usd_per_hour=self.offer.micro_usd_per_hour,
                lifecycle=self.offer.lifecycle,
                instance_type=self.offer.instance_type.name,
                notice=self.notice,
                epoch=self.epoch,
                detail="terminated" if self.ended_at is not None else self.state,
            )
        return self.shown
