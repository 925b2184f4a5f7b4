"""What a pool may buy, and for how much: the parts of its spec that placement, scaling and money read."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from providers.model import Lifecycle, Value

PolicyName = Literal[
    "hazard",
    "sticky-race",
    "karpenter",
    "spothedge",
    "eager-next-region",
    "round-robin",
    "even-spread",
    "on-demand",
]
Dollars = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Field(max_length=256)]


class Alternative(Value):
    """One kind of offer that will do; every key that is given must hold. Names may have `*` and `?` in them.

    `price_factor` is how dear such an offer counts beside the others: 0.5 as if at half its price, 2 as if
    at twice. What is paid, and every limit, stays the real price.
    """

    provider: Names = ()
    region: Names = ()
    zone: Names = ()
    instance_type: Names = ()
    lifecycle: Lifecycle | None = None
    price_factor: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0


class OnDemand(Value):
    """How many of the nodes are on demand: never fewer than `floor` and `share`, nor more than `ceiling`.

    A pool whose allocation is `spot` has as many on demand as floor and share say, and no ceiling.
    """

    floor: Annotated[int, Field(ge=0)] = 0
    share: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the desired nodes, rounded up
    ceiling: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.ceiling is not None and self.floor > self.ceiling:
            raise ValueError(f"floor={self.floor} exceeds ceiling={self.ceiling}")
        return self


class Buying(Value):
    """Which policy chooses the market of a machine, and what it may reckon with.

    What belongs to another policy than the one chosen is refused where a spec comes in, see
    `controller.config_pools`; here it means nothing.

    Attributes:
        policy: by name; `hazard` is in `actors/policy/hazard.py`, the others are in `published.py`.
        missing_node_hour: of `hazard`: what an hour of one missing node is worth, in hours of the cheapest
            on-demand machine that fits. More of it buys steadier machines.
        missing_node_hour_usd: the same in dollars; overrides it.
        availability: instead of either: the share of time in which all nodes should be ready.
        patience_s: how long a node may be missing before it is covered on demand; of every policy.
        spares: machines beyond the desired nodes; "auto": as many as `hazard` finds worth their price.
        extra: machines that `spothedge` keeps beyond the desired ones; it has no other spares.
    """

    policy: PolicyName = "hazard"
    missing_node_hour: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 20.0
    missing_node_hour_usd: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    availability: Annotated[float, Field(gt=0, lt=1)] | None = None
    patience_s: Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)] = 0.0
    spares: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = 0
    extra: Annotated[int, Field(ge=0, le=1000)] = 1


class Scaling(Value):
    """How many nodes there are by the tasks there are, between the pool's min and max.

    The least is `nodes.min`, or `nodes.desired` when that is not given; `nodes.max` must be given. A user who
    resizes the pool sets how many there are now; that is kept for `idle_timeout_s`, and scaling goes on from
    there. A task for one node only brings that node up, and keeps it.

    Work that the machines that are there will have finished before a new one could be set up asks for no
    node, as soon as the pool has seen how long both usually take. Only nodes that are idle go, after a drain;
    the dearest first.

    Attributes:
        idle_timeout_s: a node without a task for so long may go. A restart of the daemon begins it anew.
        up_cooldown_s: after the pool grew, it grows again no sooner; from no node at all it grows at once.
        down_cooldown_s: after it grew or shrank, no machine that works is given up sooner.
        tasks_per_node: queued and running tasks that one node should have; None: as many as run at once.
    """

    idle_timeout_s: Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)] = 300.0
    up_cooldown_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 30.0
    down_cooldown_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 60.0
    tasks_per_node: Annotated[float, Field(gt=0, le=100_000)] | None = None


class Budget(Value):
    """What a pool may spend, in dollars, and what is done about it.

    Attributes:
        per_day: from midnight to midnight, UTC.
        total: since the pool was made.
        warn_at: share of either at which a warning is told, once a day or once in all.
        then: what happens at the limit. `warn`: nothing more; `stop-launching`: machines that are there go
            on; `drain`: they are ended in time, so that the limit is passed by at most one billing unit of
            each, and come back when the day is over. With both, no machine is bought that the limit would
            not let be set up and drained. A machine whose vendor does not end it when asked still bills.
        waste_per_hour: machines that cost more within an hour and never worked park the pool; None: four or
            more that cost half of what all nodes do in an hour, at the cheapest price that fits. Those that
            were taken, or not wanted any more, before they worked count as well, but alone they park no
            pool in which any machine gets to work.
    """

    per_day: Dollars | None = None
    total: Dollars | None = None
    warn_at: Annotated[float, Field(gt=0, le=1)] = 0.8
    then: Literal["warn", "stop-launching", "drain"] = "drain"
    waste_per_hour: Dollars | None = None
