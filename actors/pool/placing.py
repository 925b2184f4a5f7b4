"""How a pool asks placement, and what it does with the answer. Pure."""

from dataclasses import replace

from actors.address import Address
from actors.decision import Decision, View
from actors.effects import RefreshOffers
from actors.messages import DrainGivenUp, Message, Move, NotPlaced, Placed
from actors.node.state import Filled, Filling, Replacing
from actors.policy import placement
from actors.policy.eligible import mismatch
from actors.policy.situation import Asking, Choice, Plan, Situation, market_name
from actors.pool import money, pausing, rolling, spares
from actors.pool.clusters import Clusters
from actors.pool.parking import park
from actors.pool.state import Active, OpenCluster, OpeningCluster, PoolState
from actors.pool.wanted import may_launch, wanted_count
from providers.model import ClusterHandle, Offer

MARKETS_TO_BLAME_STEPS = 2
REGIONS_AHEAD = 3  # besides those that are needed, the best ones are got ready
LOOK_EVERY_S = 5.0  # without a node that asks, placement is looked at no more often
CLUSTER_WAIT_S = 60.0  # hurried as soon as the cluster is open
SHOWN = 3  # markets in a reason
RENEWS = "in the place of one that an older spec asked for"

Tells = list[tuple[Address, Message]]


def situation(state: Active, view: View) -> Situation:
    """What placement looks at. A look at each node."""
    world, index = view.world, view.index
    return Situation(
        spec=state.spec,
        nodes=state.desired,
        spares=state.spares,
        asking=tuple(_asking(node, state.resumed_at, view) for node in sorted(index.asking)),
        held=index.machines(),
        offers=world.offers,
        offers_at=world.offers_at,
        capabilities=world.capabilities,
        markets=world.markets,
        failures=state.failures,
        rejections=state.rejections,
        down=world.down,
        boot_s=state.habits.boot_s,
        allowance=money.allowance(state, view),
        now=view.now,
        task_s=state.habits.task_s,
        moved_away=index.moved_away,
        blocked=_blocked(state, view),
    )


def _blocked(state: Active, view: View) -> dict[tuple[str, str], tuple[str, float]]:
    """Regions whose network or keys could not be made: why, and when that is tried again."""
    found: dict[tuple[str, str], tuple[str, float]] = {}
    for one in state.clusters.values():
        if isinstance(one, OpeningCluster) and one.tries:
            # the answer of a call that is out is heard at once
            at = view.now + CLUSTER_WAIT_S if one.next_at is None else one.next_at
            found[one.provider, one.region] = (one.detail or "its network and keys can't be made", at)
    return found


def _asking(node: int, resumed_at: float, view: View) -> Asking:
    state = view.index.nodes[node]
    assert isinstance(state, Filling | Replacing)
    since = None
    if isinstance(state, Filling):
        since = state.since if state.missing_since is None else state.missing_since
        since = max(since, resumed_at)  # nobody looked for a machine in a pause
    return Asking(node, since, state.refused, state.lost_in)


def place(state: PoolState, view: View) -> Decision:
    """Choose a market for every node that asks; move nodes, and change the spares, where that is worth it."""
    if not isinstance(state, Active):
        return Decision(state)
    if state.paused is not None:
        return pausing.held(state, view)
    if (burnt := money.burns(state)) is not None:
        return park(state, burnt, view, end_unready=True)
    is_due = state.look_at is not None and state.look_at <= view.now
    if not view.index.asking and not is_due:
        return Decision(state)
    if not view.index.asking and not wanted_count(state):
        return Decision(state.model_copy(update={"look_at": None}))
    state = rolling.followed(state, view)
    renewing = rolling.due(state, view)
    here = situation(state, view)
    here = replace(here, asking=renewing) if renewing else here  # no node asks by itself then
    plan = placement.place(here)
    if here.asking and ((plan.hopeless and not plan.choices) or _steps_are_broken(state)):
        reason = "machines could not be set up: mend the image's steps, then update the pool"
        return park(state, reason, view, end_unready=True)
    return _carried_out(state, here, plan, view)


def _stopped(state: Active) -> set[str]:
    most = state.spec.bootstrap_failures_max
    return {market for market, count in state.failures.items() if count >= most}


def _steps_are_broken(state: Active) -> bool:
    """Two markets were stopped and no machine was ever set up: the steps are to blame, not the markets."""
    return not state.proven and len(_stopped(state)) >= MARKETS_TO_BLAME_STEPS


def _carried_out(state: Active, here: Situation, plan: Plan, view: View) -> Decision:
    clusters = Clusters.of(state)
    tells: Tells = []
    renewals: Tells = []
    lacks = ""  # what those wait for
    room = _room(state, here)
    waits = _waits(plan, here) if len(plan.choices) < len(here.asking) else ""
    for one in here.asking:
        tell = _answer(one, plan, here, waits, clusters, room, view)
        if isinstance(tell, Placed) and room is not None:
            room -= 1
        address: Address = ("node", str(one.node))
        if isinstance(view.index.nodes[one.node], Filled):  # it works, and is to be replaced
            if isinstance(tell, Placed):
                renewals.append((address, Move(tell.offer, tell.cluster, f"{tell.why}; {RENEWS}")))
            else:
                lacks = lacks or tell.reason
            continue
        tells.append((address, tell))
        if isinstance(tell, NotPlaced) and not may_launch(state):
            if view.index.nodes[one.node].drain_request is not None:
                tells.append((address, DrainGivenUp("the budget is spent, and it is not replaced yet")))
    look_at = None if plan.look_at is None else max(plan.look_at, view.now + LOOK_EVERY_S)
    looked = rolling.looked(state.model_copy(update={"look_at": look_at}), lacks, view)
    changed = spares.resized(looked, plan.spares, plan.surplus, view)
    assert isinstance(changed.state, Active)
    # Machines may change nodes when the number of spares does: moves wait for the next turn, it looks anew.
    steady = changed.state.spares == state.spares and not changed.tells
    if not renewals or (plan.moves and here.spec.spread == "together"):  # a gang gets together first
        moves, renewals = plan.moves, []
    else:
        moves = ()  # each leaves the other room next time
    for move in moves if room is None and steady else ():
        cluster = clusters.at(move.offer.provider, move.offer.region)
        if isinstance(cluster, OpenCluster) and isinstance(view.index.nodes.get(move.node), Filled):
            tells.append((("node", str(move.node)), Move(move.offer, cluster.handle, move.why)))
    tells += renewals if steady else []
    _open_ahead(plan, clusters)
    refresh = tuple(RefreshOffers(provider) for provider in plan.refresh)
    return Decision(
        changed.state.model_copy(update={"clusters": clusters.found}),
        tells=(*tells, *changed.tells),
        effects=(*clusters.effects, *refresh),
        facts=tuple(clusters.facts),
    )


def _room(state: Active, here: Situation) -> int | None:
    """How many more may be launched while it is not known that any machine can be set up; None: any number.

    Where machines of one market failed one after the other, a few elsewhere show whether that was its fault:
    as many as stop another market, those counted that failed there already, and one in any case.
    """
    stopped = _stopped(state)
    if state.proven or not stopped:
        return None
    trying = sum(1 for one in here.held if not one.ready and market_name(one.offer) not in stopped)
    failed = sum(count for market, count in state.failures.items() if market not in stopped)
    return max(0, state.spec.bootstrap_failures_max - failed - trying, 1 - trying)


def _answer(
    asking: Asking,
    plan: Plan,
    here: Situation,
    waits: str,
    clusters: Clusters,
    room: int | None,
    view: View,
) -> Placed | NotPlaced:
    choice = plan.choices.get(asking.node)
    # What waits at one time does not all ask again at one time.
    retry_at = max(plan.retry_at, view.now + 1 + 0.5 * view.draw)
    if choice is None:
        return NotPlaced(_why_not(asking.node, waits, view), retry_at)
    if room is not None and room <= 0:
        reason = "waits for one machine to be set up: those of another market could not be"
        return NotPlaced(reason, retry_at)
    found = _open_one(choice, clusters)
    if isinstance(found, str):
        return NotPlaced(found, view.now + CLUSTER_WAIT_S)
    offer, handle = found
    return Placed(offer, handle, choice.why)


def _open_one(choice: Choice, clusters: Clusters) -> tuple[Offer, ClusterHandle] | str:
    """The first offer that can be asked now, or what it waits for.

    What is got ready for the first time is waited for; what could not be is tried again meanwhile.
    """
    for offer in choice.offers:
        match clusters.at(offer.provider, offer.region):
            case OpenCluster(handle=handle):
                return offer, handle
            case OpeningCluster(tries=0):
                break
            case _:
                continue
    return "waits for the provider's network and keys"


def _open_ahead(plan: Plan, clusters: Clusters) -> None:
    """Get the best regions ready before they are needed; not all that could be."""
    ahead: dict[tuple[str, str], None] = {}
    for one in plan.considered:
        provider, region, _ = one.market.split("/", 2)
        if (provider, region) not in clusters.needed:
            ahead[provider, region] = None
        if len(ahead) >= REGIONS_AHEAD:
            break
    for provider, region in ahead:
        clusters.at(provider, region)


def _why_not(node: int, waits: str, view: View) -> str:
    """What it was refused with just now says more than the plan; what it waited for before does not."""
    state = view.index.nodes[node]
    if isinstance(state, Filling | Replacing) and state.refused and state.why_waiting:
        return state.why_waiting
    return waits


def _waits(plan: Plan, here: Situation) -> str:
    """Why nodes that ask get nothing: what is said of markets that fit, of others only where none fits."""
    if plan.too_dear and here.allowance.why:
        return here.allowance.why
    if not plan.passed:
        return "no provider has an offer"
    fits = {
        market_name(one)
        for name in here.spec.provider
        for one in here.offers.get(name, ())
        if mismatch(here.spec, one) is None
    }
    passed = [one for one in plan.passed if one.market in fits or "/" not in one.market] or plan.passed
    shown = "; ".join(f"{one.market}: {one.reason}" for one in passed[:SHOWN])
    more = len(passed) - SHOWN
    return shown + (f"; and {more} more" if more > 0 else "")
