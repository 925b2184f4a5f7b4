"""Situations for placement: worlds of markets, machines and nodes, drawn or told."""

from dataclasses import replace

from hypothesis import strategies as st

from actors.buying import Alternative, Buying, OnDemand, PolicyName
from actors.market.state import MarketState
from actors.policy.budget import NO_LIMIT, Allowance
from actors.policy.placement import POLICIES
from actors.policy.situation import Asking, Held, Rejection, Situation, market_name
from actors.spec import Nodes, PoolSpec
from providers.errors import Fault
from providers.model import MICRO, Offer
from tests.actors.model import CAPABILITIES, offer

NOW = 1_700_000_000.0
HOUR_S = 3600.0
NO_SPOT = CAPABILITIES.model_copy(update={"spot": False})
HOURLY = CAPABILITIES.model_copy(update={"billing_unit": "hour"})
FLOATING = CAPABILITIES.model_copy(update={"spot_price_floats": True})


def spec_of(**given: object) -> PoolSpec:
    """A pool's spec; `provider` is "sim" when it is not given."""
    return PoolSpec.model_validate({"provider": "sim", "nodes": 1} | given)


def situation(*offers: Offer, asking: int = 1, **given: object) -> Situation:
    """So many nodes ask and nothing is held, unless fields are given; `spec` may be a dictionary."""
    spec = given.pop("spec", {})
    nodes = given.pop("nodes", None)
    some = Situation(
        spec=spec if isinstance(spec, PoolSpec) else spec_of(**spec),  # type: ignore[arg-type]
        nodes=asking,
        spares=0,
        asking=tuple(Asking(node, NOW, ()) for node in range(asking)),
        held=(),
        offers={"sim": offers},
        offers_at={"sim": NOW},
        capabilities={"sim": CAPABILITIES},
        markets={},
        failures={},
        rejections={},
        down={},
        boot_s=180.0,
        allowance=NO_LIMIT,
        now=NOW,
    )
    some = replace(some, **given)  # type: ignore[arg-type]
    there = len({one.node for one in some.held} | {one.node for one in some.asking})
    return replace(some, nodes=there if nodes is None else nodes)  # type: ignore[arg-type]


def machine(
    node: int, where: Offer, *, age_s: float = 10 * HOUR_S, ready: bool = True, busy: int = 0
) -> Held:
    """A machine that fills a node, or is on its way."""
    return Held(node, f"i-{node}", where, NOW - age_s, ready, ready, busy)


def open_market(where: Offer, *, age_s: float = 100 * HOUR_S, **known: object) -> dict[str, MarketState]:
    """Memory of a market that has been open for so long, and was seen so just now."""
    update = {"good_at": NOW - 10, "up_since": NOW - age_s, "last_launch_at": NOW - age_s, "decayed_at": NOW}
    return {market_name(where): MarketState(market=where.market).model_copy(update=update | known)}


def closed_market(
    where: Offer, *, bad_s: float = 5.0, closed_s: float = 5.0, **known: object
) -> dict[str, MarketState]:
    """Memory of a market that refused last so many seconds ago, and has done so for `closed_s`."""
    update = {
        "bad_at": NOW - bad_s,
        "closed_since": NOW - closed_s,
        "last_refusal_at": NOW - bad_s,
        "last_fault": Fault.CAPACITY,
        "decayed_at": NOW,
    }
    return {market_name(where): MarketState(market=where.market).model_copy(update=update | known)}


# --- drawn ------------------------------------------------------------------------------------------

dollars = st.integers(1, 40).map(lambda tenths: tenths / 10)
offers = st.lists(
    st.builds(
        lambda zone, provider, price, spot: offer(
            zone, provider=provider, dollars=price, spot=spot
        ).model_copy(update={"region": "r1" if zone in "abc" else "r2"}),
        st.sampled_from("abcdef"),
        st.sampled_from(["sim", "other"]),
        dollars,
        st.booleans(),
    ),
    unique_by=lambda one: str(one.market),
    max_size=10,
)
alternatives = st.lists(
    st.builds(
        Alternative,
        zone=st.sampled_from([(), ("a", "b"), ("[a]",), ("?",)]),
        lifecycle=st.sampled_from([None, "spot"]),
        price_factor=st.sampled_from([0.5, 1.0, 3.0]),
    ),
    max_size=2,
).map(tuple)


@st.composite
def specs(draw: st.DrawFn, policy: PolicyName | None = None) -> PoolSpec:
    """What a pool may want."""
    floor = draw(st.integers(0, 3))
    ceiling = draw(st.none() | st.integers(floor, floor + 4))
    return PoolSpec(
        provider=draw(st.sampled_from([("sim",), ("sim", "other"), ("other", "sim", "silent")])),
        nodes=Nodes(desired=1),
        max_hourly_cost=draw(st.none() | dollars),
        allocation=draw(st.sampled_from(["spot", "on-demand", "spot-if-available", "cheapest"])),
        zone=draw(st.sampled_from([None, None, None, "a"])),
        alternatives=draw(alternatives),
        on_demand=OnDemand(floor=floor, share=draw(st.sampled_from([0.0, 0.0, 0.5])), ceiling=ceiling),
        spread=draw(st.sampled_from([None, None, "zones", "together"])),
        bootstrap_failures_max=draw(st.integers(1, 3)),
        buying=Buying(
            policy=policy or draw(st.sampled_from(sorted(POLICIES))),
            missing_node_hour=draw(st.sampled_from([0.0, 5.0, 20.0, 300.0])),
            patience_s=draw(st.sampled_from([0.0, 0.0, 600.0])),
            spares=draw(st.sampled_from([0, 0, 2, "auto"])),
        ),
    )


def _ago(draw: st.DrawFn, most: float = 50_000) -> float | None:
    return draw(st.none() | st.floats(0, most).map(lambda ago: NOW - ago))


@st.composite
def memories(draw: st.DrawFn, where: Offer) -> MarketState:
    """What may be remembered of a market."""
    bad_at = _ago(draw)
    closed = bad_at is not None and draw(st.booleans())
    held = draw(st.booleans())
    return MarketState(
        market=where.market,
        cool_until=draw(st.sampled_from([0.0, 0.0, NOW, NOW + 50])),
        last_fault=Fault.CAPACITY,
        last_detail=draw(st.sampled_from(["", "no room"])),
        last_launch_at=_ago(draw),
        last_refusal_at=_ago(draw),
        last_loss_at=_ago(draw),
        good_at=_ago(draw),
        bad_at=bad_at,
        closed_since=bad_at - draw(st.floats(0, 20_000)) if closed and bad_at is not None else None,
        up_since=_ago(draw, 500_000),
        events=draw(st.floats(0, 10)),
        expected=draw(st.floats(0, 10)),
        closures=draw(st.floats(0, 4)),
        joint_region=draw(st.floats(0, 4)),
        decayed_at=NOW - draw(st.floats(0, 1e6)),
        watched_at=NOW - draw(st.floats(0, 1e5)) if held else None,
        holders={"p": 1} if held else {},
    )


@st.composite
def situations(draw: st.DrawFn, policy: PolicyName | None = None) -> Situation:
    """Whatever placement may be asked."""
    some = draw(offers)
    by_provider: dict[str, tuple[Offer, ...]] = {"sim": (), "other": ()}
    for one in some:
        by_provider[one.provider] += (one,)
    markets = {str(one.market): draw(memories(one)) for one in some if draw(st.booleans())}
    count = draw(st.integers(0, 8))
    held, asking = list[Held](), list[Asking]()
    for node in range(count):
        kind = draw(st.sampled_from(["held", "held", "asks", "waits"]))
        if kind == "held" and some:
            ready = draw(st.booleans())
            age_s = draw(st.floats(0, 100_000))
            where, busy = draw(st.sampled_from(some)), draw(st.sampled_from([0, 0, 2]))
            factor = draw(st.sampled_from([1.0, 1.0, 1.0, 2.0]))  # its price changed since
            where = where.model_copy(update={"micro_usd_per_hour": int(where.micro_usd_per_hour * factor)})
            held.append(machine(node, where, age_s=age_s, ready=ready, busy=busy))
        elif kind == "asks":
            names = [market_name(one) for one in some]
            refused = draw(st.lists(st.sampled_from(names), max_size=2)) if names else []
            lost_in = draw(st.sampled_from([None, None, *names]))
            asking.append(Asking(node, _ago(draw, 2_000), tuple(refused), lost_in))
    return Situation(
        spec=draw(specs(policy)),
        nodes=draw(st.integers(max(0, count - 2), count)),
        spares=draw(st.integers(0, 2)),
        asking=tuple(asking),
        held=tuple(held),
        offers=by_provider,
        offers_at={"sim": NOW - draw(st.sampled_from([0.0, 4000.0])), "other": NOW},
        capabilities={
            "sim": CAPABILITIES,
            "other": draw(st.sampled_from([CAPABILITIES, NO_SPOT, HOURLY, FLOATING])),
        },
        markets=markets,
        failures={str(one.market): draw(st.integers(0, 3)) for one in some if draw(st.booleans())},
        rejections={
            str(one.market): Rejection(
                times=1, until=NOW + draw(st.sampled_from([-5, 40])), detail="no python3"
            )
            for one in some
            if draw(st.integers(0, 5)) == 0
        },
        down=draw(st.sampled_from([{}, {}, {"sim": "does not answer"}])),
        boot_s=draw(st.sampled_from([None, 30.0, 600.0])),
        allowance=draw(
            st.sampled_from([NO_LIMIT, NO_LIMIT, NO_LIMIT, Allowance(MICRO // 4, "too dear", NOW + 900)])
        ),
        now=NOW,
        task_s=draw(st.sampled_from([None, 60.0, 36_000.0])),
        moved_away=draw(st.sampled_from([0, 0, 1, 3])),
        blocked=draw(st.sampled_from([{}, {}, {("sim", "r1"): ("no network there", NOW + 60)}])),
    )
