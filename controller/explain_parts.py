"""What is known of a pool at one moment, part by part: values for `controller.explain`. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from actors.decision import View, World
from actors.index import Index
from actors.instance import state as instances
from actors.instance.state import InstanceState
from actors.market.state import MarketState
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.policy import budget as budgets
from actors.policy import waste as wastes
from actors.policy.placement import place
from actors.policy.scaling import growth
from actors.policy.situation import Plan, market_name
from actors.pool import money, pausing
from actors.pool.pausing import is_paused
from actors.pool.placing import situation
from actors.pool.ranks import numbers
from actors.pool.scale import load_of
from actors.pool.state import Active, Parked
from actors.pool.wanted import spare_ranks
from actors.task.state import Pending, TaskState
from controller.funnel import Sieve
from controller.status import Snapshot
from controller.telling import ranks, unkeyed
from controller.views import Json, doing, dollars, micro_usd_per_hour
from providers.model import MICRO, Offer

SHOWN_MAX = 200  # machines, nodes or markets in one answer; their number is always told
TASKS_MAX = 20_000  # that wait; what scaling makes of more is not looked into
TOLD_MAX = 4  # alike things in sentences
NEXT_MAX = 12
_LOOKS, _SCALES = "placement looks again, for moves and spares too", "scaling looks at the tasks"
ROUTINE = frozenset((_LOOKS, _SCALES))  # what comes every few seconds or minutes, whatever happens
_STARTING = (instances.Requested, instances.Provisioning, instances.Bootstrapping)
_LEAVING = (instances.Draining, instances.Destroying)


class SetupFailed(NamedTuple):
    """A machine that could not be set up: which, and in which step, in the words of that."""

    instance_id: str
    phase: str
    error: str


@dataclass(frozen=True)
class Picture:
    """One pool and the world around it, at `now`."""

    pool: Snapshot
    world: World
    now: float
    tasks: Sequence[TaskState] = ()  # of all pools; only a pool that follows its tasks looks at them
    failed: "SetupFailed | None" = None  # the last that is remembered

    @cached_property
    def index(self) -> Index:
        """What rules derive from these states; tasks that are on no machine are not among them."""
        index = Index()
        index.apply(("pool", self.pool.state.name), None, self.pool.state)
        for name, instance in self.pool.instances.items():
            index.apply(("instance", name), None, instance)
        for node, state in self.pool.nodes.items():
            index.apply(("node", str(node)), None, state)
        for task in self.pool.placed:
            index.apply(("task", task.id), None, task)
        return index

    @cached_property
    def view(self) -> View:
        """As rules would look at it."""
        return View(now=self.now, began=0.0, draw=0.5, owner="", epoch=0, world=self.world, index=self.index)

    @cached_property
    def plan(self) -> Plan | None:
        """What placement decides by this; None when the pool places nothing."""
        state = self.pool.state
        if not isinstance(state, Active) or is_paused(state):
            return None
        return place(situation(state, self.view))

    @cached_property
    def waits_for(self) -> str:
        """Why scaling does not do just now what the tasks ask for; empty: it does, or need not."""
        state, name = self.pool.state, self.pool.state.name
        if not isinstance(state, Active) or state.spec.scaling is None:
            return ""
        pending = [one for one in self.tasks if isinstance(one, Pending) and one.pool == name]
        if len(pending) > TASKS_MAX:
            return ""
        for task in pending:
            self.index.apply(("task", task.id), None, task)
        load = load_of(state, self.view)
        return growth(load).why if load.wanted > load.nodes or load.pins.missing else ""

    @cached_property
    def sieve(self) -> Sieve:
        """Which offers fit, and what removed the others."""
        return Sieve.of(self.pool.state.spec, self.world)

    @cached_property
    def allowance(self) -> budgets.Allowance:
        """What the budget lets."""
        return money.allowance(self.pool.state, self.view)

    @cached_property
    def spares(self) -> int:
        """How many machines there should be beyond the desired ones."""
        return getattr(self.pool.state, "spares", 0)

    @cached_property
    def spare_nodes(self) -> set[int]:
        """The numbers of the spares."""
        return set(spare_ranks(self.pool.state))

    @cached_property
    def wanted(self) -> list[int]:
        """The numbers of the desired nodes."""
        return numbers(self.pool.state.desired, self.pool.state.removed)

    @cached_property
    def held(self) -> Counter[str]:
        """Machines there now, by market."""
        return Counter(market_name(one.offer) for one in self.pool.instances.values())


# --- what is there --------------------------------------------------------------------------------


def there(picture: Picture) -> Json:
    """How many machines are there, and what for."""
    nodes, living = picture.pool.nodes, picture.pool.instances.values()
    wanted = set(picture.wanted)
    ready = [node for node, state in nodes.items() if isinstance(state, Filled | Replacing)]
    return {
        "ready": sum(1 for node in ready if node in wanted),
        "spares": sum(1 for node in ready if node not in wanted),
        "starting": sum(1 for one in living if isinstance(one, _STARTING)),
        "leaving": sum(1 for one in living if isinstance(one, _LEAVING)),
        "spot": sum(1 for one in living if one.offer.lifecycle == "spot"),
        "on_demand": sum(1 for one in living if one.offer.lifecycle == "on_demand"),
    }


def machines(picture: Picture) -> Json:
    """The machines, those that are going first, then those that come."""
    order = {
        "draining": 0,
        "destroying": 1,
        "requested": 2,
        "provisioning": 2,
        "bootstrapping": 2,
        "ready": 3,
    }
    living = sorted(picture.pool.instances.values(), key=lambda one: (order[one.status], one.node, one.id))
    return {
        "machines": [_machine(one, picture) for one in living[:SHOWN_MAX]],
        "machines_count": len(living),
    }


def _machine(one: InstanceState, picture: Picture) -> Json:
    return {
        "id": one.id,
        "node": one.node,
        "spare": one.node in picture.spare_nodes,
        "status": one.status,
        "doing": "" if isinstance(one, instances.Ready) else doing(one),
        "market": str(one.offer.market),
        "lifecycle": one.offer.lifecycle,
        "usd_per_hour": dollars(micro_usd_per_hour(one)),
        "why": one.why,
        "reason": getattr(one, "reason", getattr(one, "leave", None)) or "",
        "outdated": one.id in picture.index.outdated,
        "tasks": len(picture.pool.tasks_on.get(one.id, ())),
        "created_at": one.created_at,
        "since": one.since,
        "deadline": getattr(one, "deadline", None),
    }


# --- what is missing ------------------------------------------------------------------------------


def missing(picture: Picture) -> list[Json]:
    """Desired nodes without a machine that stays, in the order of their numbers."""
    found: list[Json] = []
    for node in picture.wanted:
        state = picture.pool.nodes.get(node)
        if isinstance(state, Filled) or _stays(state):
            continue
        found.append(_lacking(node, state, picture))
    return found


def replacing(picture: Picture) -> list[Json]:
    """Nodes whose machine works on until another in its place is ready, in the order of their numbers."""
    found: list[Json] = []
    for node, state in sorted(picture.pool.nodes.items()):
        if isinstance(state, Replacing) and _stays(state):
            found.append({**_lacking(node, state, picture), "old_instance_id": state.old_id})
    return found


def _stays(state: NodeState | None) -> bool:
    """Whether its machine works on, and stays if the other is never ready."""
    return isinstance(state, Replacing) and state.moving


def _lacking(node: int, state: NodeState | None, picture: Picture) -> Json:
    name = getattr(state, "instance_id", None) or ""
    machine = picture.pool.instances.get(name)
    since = getattr(state, "missing_since", None)
    if since is None:
        since = state.since if state is not None else picture.now
    if isinstance(state, Retired):  # it may have gone long before it was wanted again
        since = max(since, getattr(picture.pool.state, "short_since", None) or since)
    return {
        "node": node,
        "status": state.status if state is not None else "vacant",
        "instance_id": machine.id if machine is not None else None,
        "works": isinstance(state, Replacing),
        "why": unkeyed(_why_lacking(state, machine, picture)),
        "failures_in_a_row": state.losses if state is not None else 0,
        "next_at": machine.due_at if machine is not None else _asks_again(state, picture),
        "since": since,
    }


def _asks_again(state: NodeState | None, picture: Picture) -> float | None:
    """When a node asks again and may be answered otherwise; None: not by itself."""
    if is_paused(picture.pool.state):
        return None
    at: float | None = getattr(state, "next_at", None)
    return None if at is not None and forbidden(picture) and picture.allowance.until is None else at


def _why_lacking(state: NodeState | None, machine: InstanceState | None, picture: Picture) -> str:
    if isinstance(machine, instances.Requested):
        return doing(machine)
    if machine is not None:
        return f"{doing(machine)} ({machine.offer.market})"
    pool = picture.pool.state
    if is_paused(pool):
        return pausing.reason(pool)
    if isinstance(pool, Parked):
        return "the pool is parked"  # whatever it waited for before
    match state:
        case Filling(backing_off=True) | Replacing(backing_off=True) if state.losses > 1:
            return (
                f"{state.why_waiting or 'waits'}: {state.losses} machines in a row did not get or stay ready"
            )
        case Filling() | Replacing():
            return state.why_waiting or "is to be placed"
        case _ if not money.may_keep_machines(picture.pool.state):
            return picture.allowance.why or "the budget is reached"
        case Retired(reason=reason):
            return f"is retired ({reason})"
        case _:
            return "asks for no machine yet"


def groups(missing: Iterable[Json]) -> list[Json]:
    """Nodes that lack a machine for the same reason, together; the largest group first."""
    groups: dict[tuple[str, bool, bool], list[Json]] = {}
    for one in missing:
        groups.setdefault((one["why"], one["works"], one["instance_id"] is not None), []).append(one)
    shown = [
        {
            "why": why,
            "works": works,
            "starting": starting,
            "count": len(group),
            "nodes": [one["node"] for one in group[:SHOWN_MAX]],
            "since": min(one["since"] for one in group),
            "next_at": min((one["next_at"] for one in group if one["next_at"] is not None), default=None),
        }
        for (why, works, starting), group in groups.items()
    ]
    return sorted(shown, key=lambda group: (-int(str(group["count"])), str(group["why"])))[:SHOWN_MAX]


# --- markets --------------------------------------------------------------------------------------


def markets(picture: Picture) -> Json:
    """Markets whose offers fit: first those that may be asked now, best first, then the others."""
    offers, plan = {market_name(one): one for one in picture.sieve.fitting}, picture.plan
    rows: dict[str, Json] = {}
    for one in plan.considered if plan is not None else ():
        if one.market in offers:
            said = {"allowed": True, "why": one.detail, "losses_per_hour": one.losses_per_hour}
            rows[one.market] = _market(one.market, offers[one.market], picture) | said
    down: list[Json] = []
    for passed in plan.passed if plan is not None else ():
        if passed.market in offers:
            said = {"allowed": False, "why": unkeyed(passed.reason), "losses_per_hour": None}
            rows.setdefault(passed.market, _market(passed.market, offers[passed.market], picture) | said)
        elif "/" not in passed.market:  # a provider as a whole
            down.append({"market": passed.market, "why": passed.reason})
    if plan is None:
        for name, offer in offers.items():
            said = {"allowed": False, "why": f"the pool is {picture.pool.status}", "losses_per_hour": None}
            rows[name] = _market(name, offer, picture) | said
    allowed = [row for row in rows.values() if row["allowed"]]
    others = sorted(
        (row for row in rows.values() if not row["allowed"]),
        key=lambda row: (not row["tried"], row["usd_per_hour"], row["market"]),
    )
    return {
        "markets": [*allowed, *others][:SHOWN_MAX],
        "markets_allowed": len(allowed),
        "markets_passed": len(others),
        "passed_providers": down,
    }


def _market(name: str, offer: Offer, picture: Picture) -> Json:
    state = picture.pool.state
    memory = picture.world.markets.get(name)
    rejection = getattr(state, "rejections", {}).get(name)
    return {
        "market": name,
        "usd_per_hour": dollars(offer.micro_usd_per_hour),
        "lifecycle": offer.lifecycle,
        "held": picture.held[name],
        "tried": rejection is not None or (memory is not None and bool(memory.launches + memory.refusals)),
        "memory": None if memory is None else remembered(memory),
        "rejected": None if rejection is None else rejection.model_dump(mode="json"),
        "setup_failures": getattr(state, "failures", {}).get(name, 0),
    }


def remembered(memory: MarketState) -> Json:
    """What all pools together know of a market."""
    return {
        "launches": memory.launches,
        "refusals": memory.refusals,
        "losses": memory.losses,
        "last_launch_at": memory.last_launch_at,
        "last_refusal_at": memory.last_refusal_at,
        "last_loss_at": memory.last_loss_at,
        "last_fault": memory.last_fault.value if memory.last_fault is not None else None,
        "last_detail": unkeyed(memory.last_detail),
        "closed_since": memory.closed_since,
        "good_at": memory.good_at,
        "cool_until": memory.cool_until or None,
        "held": sum(memory.holders.values()),
    }


def cooling(picture: Picture) -> list[Json]:
    """What is left alone for a while, the first to be tried again first."""
    now, state = picture.now, picture.pool.state
    found: list[Json] = []
    fitting = {market_name(one) for one in picture.sieve.fitting}
    for name in sorted(fitting):
        memory = picture.world.markets.get(name)
        if memory is not None and memory.cool_until > now:
            fault = memory.last_fault.value if memory.last_fault is not None else "refused"
            found.append(
                {
                    "market": name,
                    "until": memory.cool_until,
                    "fault": fault,
                    "detail": unkeyed(memory.last_detail),
                }
            )
    for name, one in sorted(getattr(state, "rejections", {}).items()):
        if one.until > now:
            found.append(
                {"market": name, "until": one.until, "fault": "rejected", "detail": unkeyed(one.detail)}
            )
    return sorted(found, key=lambda one: (one["until"], one["market"]))


def providers(picture: Picture) -> list[Json]:
    """The pool's providers: how many offers, how old, and why one is passed over."""
    found = []
    for name in picture.pool.state.spec.provider:
        at = picture.world.offers_at.get(name)
        offers = picture.world.offers.get(name)
        found.append(
            {
                "provider": name,
                "offers": len(offers) if offers is not None else None,
                "offers_age_s": picture.now - at if at is not None else None,
                "down": picture.world.down.get(name),
            }
        )
    return found


# --- money, policy, scaling -----------------------------------------------------------------------


def account(picture: Picture) -> Json:
    """What the pool costs and has cost, and what its budget lets."""
    state, now, purse = picture.pool.state, picture.now, picture.index.purse
    spend, limits = budgets.closed(state.spend, now, purse.living), state.spec.budget
    spent = spend.gone + purse.living(now)
    allowance = picture.allowance
    return {
        "usd_per_hour": purse.rate / MICRO,
        "usd_total": spent / MICRO,
        "usd_today": (spent - spend.before_day) / MICRO,
        "per_day": limits.per_day,
        "total": limits.total,
        "then": limits.then,
        "warned": list(spend.warned),
        "reached": spend.reached,
        "usd_set_aside": spend.needed / MICRO,
        "max_hourly_cost": state.spec.max_hourly_cost,
        "allowance_usd": None if allowance.micro_usd is None else allowance.micro_usd / MICRO,
        "forbids": forbidden(picture),
        "until": allowance.until,
        "wasted_usd_last_hour": sum(
            one.micro_usd for one in wastes.recent(state.waste, now - wastes.WASTE_WINDOW_S, now)
        )
        / MICRO,
    }


def forbidden(picture: Picture) -> str:
    """Why the budget keeps something from being bought; empty: it does not."""
    if not _too_little(picture):
        return ""
    dear = picture.sieve.too_dear()
    return dear.text.rstrip(".") if dear is not None else picture.allowance.why or "the budget is reached"


def _too_little(picture: Picture) -> bool:
    left, state = picture.allowance.micro_usd, picture.pool.state
    boot_s = state.habits.boot_s if isinstance(state, Active) else None
    least = (budgets.commitment_micro_usd(one, state.spec, boot_s) for one in picture.sieve.fitting)
    if left is not None and left < min(least, default=0):
        return True
    if left == 0 or not money.may_keep_machines(picture.pool.state):
        return True
    return picture.plan is not None and picture.plan.too_dear


def policy(picture: Picture) -> Json:
    """Which policy and knobs are in force."""
    spec = picture.pool.state.spec
    return {
        "name": spec.buying.policy,
        "knobs": spec.buying.model_dump(mode="json", exclude={"policy"}, exclude_none=True),
        "allocation": spec.allocation,
        "on_demand": spec.on_demand.model_dump(mode="json", exclude_none=True),
        "spread": spec.spread,
        "alternatives": [one.model_dump(mode="json", exclude_defaults=True) for one in spec.alternatives],
    }


def scaling(picture: Picture) -> Json | None:
    """What scaling did last, and what it waits for; None: the pool does not follow its tasks."""
    state = picture.pool.state
    if state.spec.scaling is None:
        return None
    scaled = state.scaled if isinstance(state, Active) else None
    return {
        **state.spec.scaling.model_dump(mode="json"),
        "why": scaled.why if scaled is not None else "",
        "waits_for": picture.waits_for,
        "grew_at": (scaled.grew_at or None) if scaled is not None else None,
        "shrank_at": (scaled.shrank_at or None) if scaled is not None else None,
        "look_at": state.scale_at if isinstance(state, Active) else None,
        "tasks": dict(picture.pool.task_counts),
    }


# --- what happens next ----------------------------------------------------------------------------


def next_steps(picture: Picture) -> list[Json]:
    """What is due by itself, the soonest first; alike things of one moment are one."""
    now, state = picture.now, picture.pool.state
    found: list[tuple[float, str]] = []
    asking: list[tuple[float, int]] = []
    for node, it in picture.pool.nodes.items():
        if isinstance(it, Vacant | Filling | Replacing) and getattr(it, "instance_id", None) is None:
            found_at = it.next_at
            if found_at is not None:
                asking.append((found_at, node))
    asking.sort()
    if asking and not is_paused(state):
        first = asking[0][0]
        soon = [node for at, node in asking if at <= first + 1]
        who = f"node {soon[0]} asks" if len(soon) == 1 else f"nodes {ranks(soon)} ask"
        found.append((first, f"{who} for a machine again"))
    found += _due_machines(picture)
    if isinstance(state, Active) and not is_paused(state):
        if state.look_at is not None:
            found.append((state.look_at, _LOOKS))
        if state.scale_at is not None:
            found.append((state.scale_at, _SCALES))
    allowance = picture.allowance
    if allowance.until is not None and state.spec.budget.per_day is not None:
        found.append((allowance.until, "a new day begins, and its budget"))
    for one in cooling(picture)[:TOLD_MAX]:
        found.append((one["until"], f"{one['market']} may be tried again"))
    for cluster in state.clusters.values():
        if cluster.status != "open" and cluster.next_at is not None:
            verb = "made" if cluster.status == "opening" else "removed"
            found.append(
                (
                    cluster.next_at,
                    f"network and keys at {cluster.provider}/{cluster.region} are {verb}, tried again",
                )
            )
    for waiting in state.waiting:
        found.append(
            (waiting.deadline, f"request {waiting.request_id} ends in an Error if not all are ready")
        )
    return [{"at": at, "what": what} for at, what in sorted(found) if at > now - 5]


def _due_machines(picture: Picture) -> list[tuple[float, str]]:
    """The soonest end of patience with machines that start, and the soonest end of machines that leave."""
    living = picture.pool.instances.values()
    starting = [
        (one.deadline, one.id)
        for one in living
        if isinstance(one, instances.Provisioning | instances.Bootstrapping)
    ]
    leaving = [(one.deadline, one.id) for one in living if isinstance(one, instances.Draining)]
    ending = [
        (one.next_at, one.id)
        for one in living
        if isinstance(one, instances.Destroying) and one.next_at is not None
    ]
    found = []
    if starting:
        found.append((min(starting)[0], f"{min(starting)[1]} is given up if it is not ready"))
    if leaving:
        found.append((min(leaving)[0], f"{min(leaving)[1]} is ended, its tasks done or not"))
    if ending:
        found.append((min(ending)[0], f"{min(ending)[1]}: its provider is asked again to end it"))
    return found
