"""A pool's money alone: machines that come and go, and the account at the end of every turn."""

import math
from dataclasses import dataclass, field
from random import Random

from actors.buying import Budget
from actors.decision import View, World
from actors.events import BudgetFreed, BudgetReached, BudgetWarned, Event
from actors.index import Index
from actors.instance import parts
from actors.instance.state import Provisioning
from actors.node.state import Filling
from actors.policy import budget as policy
from actors.pool import money
from actors.pool.state import Active
from actors.spec import Nodes, PoolSpec
from providers.model import MICRO, BillingUnit, ClusterHandle, Handle, InstanceType, Offer

NOON = 20_000 * 86_400.0 + 43_200
UNITS: dict[BillingUnit, int] = {"second": 1, "minute": 60, "hour": 3600}
NEWS = (BudgetWarned, BudgetReached, BudgetFreed)


def on_sale(dollars: float, unit: BillingUnit, *, spot: bool = True) -> Offer:
    """An offer at so many dollars an hour."""
    return Offer(
        id=f"{dollars}-{unit}",
        instance_type=InstanceType(name="small", vcpus=4, memory_gb=16),
        billing_unit=unit,
        provider="sim",
        region="r",
        zone="a",
        lifecycle="spot" if spot else "on_demand",
        micro_usd_per_hour=round(dollars * MICRO),
    )


def pool(budget: Budget, nodes: int = 1, drain_s: float = 120, since: float = NOON) -> Active:
    """A pool that wants so many nodes."""
    spec = PoolSpec(provider=("sim",), nodes=Nodes(desired=nodes), budget=budget, drain_timeout=drain_s)
    return Active(name="pool", generation=1, spec=spec, desired=nodes, since=since)


@dataclass
class Rented:
    """A machine as its vendor bills it."""

    offer: Offer
    since: float
    until: float | None = None
    ends_at: float | None = None  # asked to end by then

    def billed(self, until: float) -> int:
        """What it has cost until then, by the vendor's own reckoning."""
        end = until if self.until is None else min(until, self.until)
        if end <= self.since:
            return 0
        unit = UNITS[self.offer.billing_unit]
        return math.ceil((end - self.since) / unit) * unit * self.offer.micro_usd_per_hour // 3600


@dataclass
class Account:
    """Turns of a pool of which only the money is looked at."""

    state: Active
    now: float = NOON
    offers: tuple[Offer, ...] = ()
    rented: dict[str, Rented] = field(default_factory=dict)
    news: list[Event] = field(default_factory=list)
    index: Index = field(default_factory=Index)
    looks: int = 0

    def __post_init__(self) -> None:
        """Make the pool known."""
        self.index.apply(("pool", "pool"), None, self.state)

    def view(self) -> View:
        """What rules look at now."""
        return View(self.now, NOON, 0.5, "owner", 1, World(offers={"sim": self.offers}), self.index)

    def put(self, state: Active) -> None:
        """Make it the pool's state."""
        self.index.apply(("pool", "pool"), self.state, state)
        self.state = state

    def launch(self, what: Offer) -> str:
        """A machine more."""
        name = f"m{len(self.rented)}"
        self.rented[name] = Rented(what, self.now)
        self._show(name)
        return name

    def _show(self, name: str) -> None:
        one = self.rented[name]
        handle = Handle(provider="sim", ref=name)
        state = Provisioning(
            id=name,
            key=f"owner/pool/0/{name}/1",
            pool="pool",
            node=0,
            request_id=name,
            offer=one.offer,
            cluster=ClusterHandle(cluster_id="c", provider="sim", region="r", ssh_user="u"),
            created_at=one.since,
            since=one.since,
            handle=handle,
            launched_at=one.since,
            deadline=one.since + 1e9,
        )
        self.index.apply(("instance", name), None, state)

    def lose(self, name: str) -> int:
        """A machine is gone; what it has cost."""
        one = self.rented[name]
        one.until = self.now
        state = self.index.instances[name]
        assert isinstance(state, Provisioning)
        cost = parts.cost(state, self.now)
        self.index.apply(("instance", name), state, None)
        self.put(self.state.model_copy(update={"spend": policy.gone(self.state.spend, cost)}))
        return cost

    def want(self, *, short: bool) -> None:
        """Whether a node asks for a machine."""
        if short:
            node = Filling(pool="pool", generation=1, node=0, since=self.now, request_id="r")
            self.index.asking[node.node] = None
        else:
            self.index.asking.clear()

    @property
    def living(self) -> list[str]:
        """Machines that are there."""
        return [name for name, one in self.rented.items() if one.until is None]

    def turn(self) -> list[Event]:
        """The end of a turn; what it tells."""
        before = self.state
        decision = money.account(self.state, self.view())
        assert isinstance(decision.state, Active)
        self.looks += decision.state is not before
        self.put(decision.state)
        told = [one.event for one in decision.facts]
        self.news += told
        return told

    def restart(self) -> None:
        """All that is derived is built anew."""
        states = dict(self.index.instances)
        self.index = Index()
        self.index.apply(("pool", "pool"), None, self.state)
        for name, state in states.items():
            self.index.apply(("instance", name), None, state)

    def billed(self, until: float) -> int:
        """What all machines have cost until then."""
        return sum(one.billed(until) for one in self.rented.values())

    def billed_on(self, day: int) -> int:
        """What they cost on a day, up to now."""
        begin, end = day * 86_400.0, (day + 1) * 86_400.0
        return self.billed(min(self.now, end)) - self.billed(min(self.now, begin))


def storm(account: Account, seed: int, days: float, wanted: int) -> None:
    """Machines are taken at any time; nodes are filled again as far as the budget lets."""
    dice, spec = Random(seed), account.state.spec
    end = account.now + days * 86_400
    slow_s = policy.lead_s(spec) - policy.LOOK_S
    while account.now < end:
        leaving = [one.ends_at for one in account.rented.values() if one.until is None and one.ends_at]
        due = account.state.account_at or account.now
        account.now = min([account.now + dice.expovariate(1 / dice.choice((30, 600, 7200))), due, *leaving])
        for name in account.living:
            at = account.rented[name].ends_at
            if (at is not None and at <= account.now) or dice.random() < 0.1:
                account.lose(name)
        if dice.random() < 0.02:
            account.restart()
        account.want(short=len(account.living) < wanted)
        account.turn()
        if not money.may_keep_machines(account.state):
            for name in account.living:
                one = account.rented[name]
                one.ends_at = one.ends_at or account.now + dice.uniform(0, slow_s)
            continue
        left = money.allowance(account.state, account.view()).micro_usd
        staying = [name for name in account.living if account.rented[name].ends_at is None]
        for _ in range(wanted - len(staying)):
            what = dice.choice(account.offers)
            commitment = policy.commitment_micro_usd(what, spec, account.state.habits.boot_s)
            if left is not None and commitment > left:
                break
            left = None if left is None else left - commitment
            account.launch(what)
        account.turn()
