"""What can be set about a simulated provider: what it sells, how fast it is, and how it misbehaves."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from providers.model import BillingUnit, Capabilities, Value
from providers.simulated.series import Trace, Walk

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]
PerHour = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]


def _kind(value: Any) -> str:
    """Which of a constant, a trace and a walk is meant; so errors speak of that one only."""
    if isinstance(value, Trace) or (isinstance(value, dict) and "path" in value):
        return "trace"
    return "walk" if isinstance(value, Walk | dict) else "constant"


_Trace = Annotated[Trace, Tag("trace")]
_Walk = Annotated[Walk, Tag("walk")]
Price = Annotated[Annotated[Dollars, Tag("constant")] | _Trace | _Walk, Discriminator(_kind)]
Capacity = Annotated[Annotated[Count, Tag("constant")] | _Trace | _Walk, Discriminator(_kind)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Delay(Value):
    """A time that varies: `least_s` and more, by an exponential tail of mean `more_s`, cut at `most_s`."""

    least_s: Seconds = 0
    more_s: Seconds = 0
    most_s: Seconds = 3600

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.least_s > self.most_s:
            raise ValueError(f"least_s={self.least_s:g} exceeds most_s={self.most_s:g}")
        return self


class SimulatedOffer(Value):
    """One kind of machine in one zone; every lifecycle with a price is a market of its own.

    Attributes:
        spot, on_demand: dollars an hour, or how they go over time; None: not sold so. A machine keeps the
            price of the moment in which it was launched.
        capacity: machines at once in each of the markets; None: no limit. One that changes over time is
            that of spot alone, on demand has no limit then: when it falls below what runs there as spot,
            the surplus is taken back.
        preemptions_per_hour: of each spot machine here; None: as the provider.
    """

    instance_type: Name = "sim"
    region: Name = "sim"
    zone: Name = "sim-a"
    vcpus: Annotated[float, Field(gt=0)] = 4
    memory_gb: Annotated[float, Field(gt=0)] = 16
    spot: Price | None = None
    on_demand: Price | None = None
    capacity: Capacity | None = None
    preemptions_per_hour: PerHour | None = None

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.spot is None and self.on_demand is None:
            raise ValueError("give a price: spot, on_demand or both")
        for price in (self.spot, self.on_demand):
            if isinstance(price, Trace) and price.unlimited:
                raise ValueError("unlimited is for capacity, not for prices")
        return self


class Faults(Value):
    """How often calls go wrong, each as a share of the calls. What is left over goes well.

    Attributes:
        launch_capacity: refused, none left.
        launch_refused_made: the answer is that none is left; the machine is there.
        launch_throttled: refused, try later.
        launch_unknown_made: the answer is lost; the machine is there.
        launch_unknown_lost: the answer is lost; there is no machine.
        launch_partly: of a batch (share of calls), some machines are made, then the whole call fails.
        terminate_unknown: the answer is lost; the machine ends.
        terminate_ignored: the answer is yes; the machine lives on.
        terminate_refused_pending: of a machine that is not running yet (share of those): a conflict.
        listing_incomplete: a listing that could not be read whole, and says so.
        listing_misses: a listing lacks some machines and says it is complete; never the same ones twice
            in a row.
        listing_stale: the listing before comes again, up to `visible_within_s` old.
        call_throttled: any other call is refused, try later.
        boot_never: of machines: stays pending for ever.
        boot_unreachable: of machines: runs, and nobody can ever talk to it.
        notice_twice: of pushed notices: pushed again, up to a minute later.
        notice_misdirected: of pushed notices: names another machine, which is not meant.
        cuts_per_hour: of each open agent stream; half of the cuts are in the middle of a line.
    """

    launch_capacity: Share = 0
    launch_refused_made: Share = 0
    launch_throttled: Share = 0
    launch_unknown_made: Share = 0
    launch_unknown_lost: Share = 0
    launch_partly: Share = 0
    terminate_unknown: Share = 0
    terminate_ignored: Share = 0
    terminate_refused_pending: Share = 0
    listing_incomplete: Share = 0
    listing_misses: Share = 0
    listing_stale: Share = 0
    call_throttled: Share = 0
    boot_never: Share = 0
    boot_unreachable: Share = 0
    notice_twice: Share = 0
    notice_misdirected: Share = 0
    cuts_per_hour: PerHour = 0


Misfortune = Literal[
    "preempt",
    "false_notice",
    "dark",
    "credentials",
    "throttle",
    "silence",
    "isolate",
    "unlist",
    "stop",
    "kill_agent",
    "cut",
    "repeat_notice",
    "misdirect_notice",
]


class Incident(Value):
    """Something that goes wrong at a set time.

    Attributes:
        at_s: seconds after the cloud began.
        what: preempt (with the provider's notice), false_notice (withdrawn after `for_s`), dark (a zone),
            credentials and throttle (all calls are refused), silence, isolate, unlist, stop (outbid; runs
            again after `for_s`, 0: never), kill_agent, cut (streams), repeat_notice, misdirect_notice.
        zone: where; None: everywhere.
        for_s: how long, where it has an end.
        count: of how many machines, drawn by seed; None: as `share` says.
        share: of which share of the machines there.
    """

    at_s: Seconds
    what: Misfortune
    zone: Name | None = None
    for_s: Seconds = 600
    count: Count | None = None
    share: Share = 1


_DEFAULT_OFFERS = tuple(
    SimulatedOffer(zone=zone, spot=spot, on_demand=0.010)
    for zone, spot in (("sim-a", 0.003), ("sim-b", 0.0035), ("sim-c", 0.004))
)


class SimulatedConfig(Value):
    """One [providers.<name>] table of kind simulated."""

    kind: Literal["simulated"] = "simulated"
    seed: int = 0
    offers: tuple[SimulatedOffer, ...] = _DEFAULT_OFFERS
    call_delay: Delay = Delay(least_s=0.05, more_s=0.1, most_s=5)  # of every call
    boot_delay: Delay = Delay(least_s=15, more_s=15, most_s=240)  # from launch to an address
    end_delay: Delay = Delay(least_s=2, more_s=5, most_s=60)  # from terminate to absence
    billing_unit: BillingUnit = "second"  # what is billed whole once begun
    visible_within_s: Seconds = 5  # a machine may be missing from listings so long after its launch
    preemptions_per_hour: PerHour = 0  # of each spot machine
    notice_s: Seconds | None = 120  # lead time of a notice; None: there are no notices
    notice_share: Share = 1  # preemptions that are announced
    notice_push_delay: Delay = Delay()  # until a notice is pushed; listing and machine show it at once
    tokens: bool = True  # False: launching a key again makes a second machine, as on marketplaces
    shows_ended_s: Seconds = 0  # so long an ended machine is listed with its end; 0: not at all
    lists_stopped: bool = True  # False: a machine that is stopped (outbid) is not listed
    addresses_reused: bool = False  # a new machine gets the address of the one that ended last
    faults: Faults = Faults()
    incidents: tuple[Incident, ...] = ()
    launch_batch_max: Annotated[int, Field(ge=1, le=1000)] = 100
    machines_max: Annotated[int, Field(ge=1)] = 100_000

    @model_validator(mode="after")
    def _places_differ(self) -> Self:
        places = [(offer.zone, offer.instance_type) for offer in self.offers]
        if len(set(places)) != len(places):
            raise ValueError("two offers have the same zone and instance_type")
        zones = {offer.zone for offer in self.offers}
        for incident in self.incidents:
            if incident.zone is not None and incident.zone not in zones:
                raise ValueError(f"incident in zone {incident.zone!r}, where nothing is sold")
        return self

    def capabilities(self) -> Capabilities:
        """What this provider can do."""
        # What a stale listing shows may itself lack what was launched just before.
        late = 2 if self.faults.listing_stale else 1
        return Capabilities(
            spot=any(offer.spot is not None for offer in self.offers),
            notice_s=self.notice_s,
            launch_batch_max=self.launch_batch_max,
            dead_man_switch=True,
            tags=True,
            tokens=self.tokens,
            billing_unit=self.billing_unit,
            visible_within_s=late * self.visible_within_s,
            heartbeat=False,
            host_keys=False,
            machines_max=self.machines_max,
        )
