"""What can be set about a local provider: what it has to offer, and the misfortunes it acts out."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from providers.model import Lifecycle, Value

MACHINES_MAX = 100
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class LocalOffer(Value):
    """One kind of machine in one zone; every lifecycle with a price is a market of its own.

    `vcpus` and `memory_gb` are what is said to the pools. Nothing holds a machine to them: all share
    the computer that runs the daemon.
    """

    instance_type: Name = "local"
    region: Name = "local"
    zone: Name = "local-a"
    vcpus: Annotated[float, Field(gt=0)] = 2
    memory_gb: Annotated[float, Field(gt=0)] = 4
    spot: Dollars | None = None  # dollars an hour; None: not sold so
    on_demand: Dollars | None = None
    capacity: Count | None = None  # machines at once in each of its markets; None: no limit

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.spot is None and self.on_demand is None:
            raise ValueError("give a price: spot, on_demand or both")
        return self


class ScriptedNotice(Value):
    """A preemption that is acted out on machines `after_s` seconds after they started.

    Attributes:
        zone: only on machines in this zone.
        lifecycle: only on machines bought so; None: on all.
        machines: only on the machines with these numbers; 1 is the first this provider ever made.
        within_s: lead time of the notice; 0: killed without a word; None: a notice without a
            deadline, and the kill comes after 30 s.
        withdraw_after_s: the notice is taken back so long after it was given, unless the kill came first.
        kill: False: the notice is never made true.
    """

    after_s: Seconds
    zone: str | None = None
    lifecycle: Lifecycle | None = "spot"
    machines: tuple[Annotated[int, Field(ge=1)], ...] = ()
    within_s: Seconds | None = 120
    withdraw_after_s: Seconds | None = None
    kill: bool = True
    reason: Annotated[str, Field(max_length=200)] = "spot interruption (scripted)"


_ZONES = ("local-a", "local-b", "local-c")
_DEFAULT_OFFERS = tuple(
    LocalOffer(zone=zone, spot=spot, on_demand=0.010)
    for zone, spot in zip(_ZONES, (0.003, 0.0035, 0.004), strict=True)
)


class LocalConfig(Value):
    """One [providers.<name>] table of kind local."""

    kind: Literal["local"] = "local"
    offers: tuple[LocalOffer, ...] = _DEFAULT_OFFERS
    launch_delay_s: Seconds = 0  # from launch to the start of the machine's ssh server
    notices: tuple[ScriptedNotice, ...] = ()
    isolate: bool = True  # a pid namespace for each machine, where the system allows
    machines_max: Annotated[int, Field(ge=1, le=MACHINES_MAX)] = (
        MACHINES_MAX  # of all owners, about 50 MB each
    )

    @model_validator(mode="after")
    def _places_differ(self) -> Self:
        places = [(offer.zone, offer.instance_type) for offer in self.offers]
        if len(set(places)) != len(places):
            raise ValueError("two offers have the same zone and instance_type")
        return self
