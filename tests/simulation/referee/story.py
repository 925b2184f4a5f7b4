"""Short hand-made histories for the referee: a ledger that is written to, a cloud in which things happen."""

from collections.abc import Iterable
from typing import Any

from actors.events import (
    Envelope,
    Event,
    Fact,
    InstanceBootstrapped,
    InstanceLaunched,
    InstanceProvisioned,
    InstanceRequested,
    Request,
)
from actors.instance.facts import node_instance, running
from actors.instance.state import Provisioning, Ready, Requested
from actors.node.state import Filled
from actors.policy.adoption import Quarantined
from actors.pool.state import Active
from actors.ports import Commit, StateRow
from actors.spec import Nodes, PoolSpec, TaskSpec, Worker
from actors.task.state import Pending
from controller.simulation.house import GUARD_S, OWNER
from controller.simulation.ledger import Ledger
from providers.model import Address, ClusterHandle, Listing, Value
from providers.simulated.cloud import Cloud, Machine
from providers.simulated.config import SimulatedConfig, SimulatedOffer
from tests.simulation.referee import Fair, Referee

POOL, PROVIDER = "pool", "sim"
CLUSTER = ClusterHandle(cluster_id="c", provider=PROVIDER, region="sim", ssh_user="u")
CONFIG = SimulatedConfig(offers=(SimulatedOffer(spot=1.0),), visible_within_s=5)


class Story:
    """One history, told step by step.

    Args:
        config: how the cloud is.
        bound: whether the referee may look at cloud and ledger.
    """

    def __init__(self, config: SimulatedConfig = CONFIG, *, bound: bool = True) -> None:
        self.now = 1_700_000_000.0
        self.referee = Referee(lambda: self.now)
        self.ledger = Ledger(self.referee)
        self.ledger.epoch = self.ledger.writer = 1
        self.cloud = Cloud(PROVIDER, config, lambda: self.now, self.referee)
        if bound:
            self.referee.bind({PROVIDER: self.cloud}, self.ledger)

    @property
    def broken(self) -> str | None:
        """The name of the broken rule."""
        broken = self.referee.broken
        return None if broken is None else broken.partition(":")[0]

    # --- time -------------------------------------------------------------------------------------

    def wait(self, seconds: float, *, fair: bool = True, lists: bool = False) -> None:
        """Time passes, fair or not, with or without listings; the referee hears of it."""
        left = seconds
        while left > 0:
            step = min(60.0, left)
            self.now += step
            left -= step
            if lists:
                self.list()
            self.referee.tick(step, Fair(fair, fair, frozenset({PROVIDER} if fair else ())))

    # --- the journal ------------------------------------------------------------------------------

    def write(self, *what: Event | StateRow, ends: Iterable[str] = (), pool: str = POOL) -> None:
        """Commit events and states; the last fact ends requests."""
        rows = [one for one in what if isinstance(one, StateRow)]
        events = [one for one in what if not isinstance(one, StateRow)]
        envelopes = [
            Envelope(
                seq=self.ledger.next_seq + i,
                at=self.now,
                pool=pool,
                request_id=getattr(event, "request_id", None),
                ends=tuple(ends) if i == len(events) - 1 else (),
                event=event,
            )
            for i, event in enumerate(events)
        ]
        self.ledger.next_seq += len(envelopes)
        self.ledger.write(Commit(pool, rows, envelopes))

    def ask(self, request: Request, pool: str = POOL) -> None:
        """A user's request is journaled."""
        seq = self.ledger.next_seq
        self.ledger.next_seq += 1
        envelope = Envelope(
            seq=seq, at=self.now, pool=pool, request_id=request.request_id, principal="user", event=request
        )
        self.ledger.write(Commit(pool, (), (envelope,)))

    def end(self, fact: Fact, *requests: str) -> None:
        """A fact ends requests."""
        self.write(fact, ends=requests)

    # --- the cloud --------------------------------------------------------------------------------

    def make(self, key: str, *, owner: str = OWNER, late: bool = False, epoch: int = 1) -> Machine:
        """A machine is there."""
        return self.cloud.plant(key, owner, self.cloud.offers[0], epoch=epoch, late=late)

    def list(self, *, without: Iterable[Machine] = (), complete: bool = True) -> None:
        """The daemon hears a listing."""
        hidden = {machine.ref for machine in without}
        shown = tuple(one for one in self.cloud.sightings(OWNER) if one.handle.ref not in hidden)
        listing = Listing(at=self.now, sightings=shown, complete=complete)
        self.referee.listed(PROVIDER, listing)

    # --- longer pieces ----------------------------------------------------------------------------

    def pool(self, *, desired: int = 1, **spec: Any) -> Active:
        """A pool is there, without a word about how it came."""
        state = pool(desired=desired, **spec)
        self.keep(state)
        return state

    def keep(self, *states: Value) -> None:
        """Commit states without a word."""
        self.write(*(row(state) for state in states))

    def launch(self, node: int = 0, incarnation: int = 1, replacing: str | None = None) -> Requested:
        """An instance is ordered."""
        state = requested(node, incarnation, replacing=replacing, now=self.now)
        asked = InstanceRequested(
            request_id=state.request_id,
            provider=PROVIDER,
            cluster_id="c",
            node_id=node,
            replacing=replacing,
        )
        self.write(asked, row(state))
        return state

    def launched(self, state: Requested, machine: Machine) -> Provisioning:
        """Its launch is answered."""
        provisioning = Provisioning(
            **_common(state),
            since=self.now,
            handle=self.cloud.handle(machine),
            launched_at=self.now,
            deadline=self.now + 300,
        )
        fact = InstanceLaunched(
            request_id=state.request_id,
            cluster_id="c",
            node_id=state.node,
            provider=PROVIDER,
            instance_id=state.id,
        )
        self.write(fact, row(provisioning))
        return provisioning

    def ready(self, node: int = 0, incarnation: int = 1, *, late: bool = False) -> tuple[Ready, Machine]:
        """A machine is launched and set up for a node that is filled with it."""
        asked = self.launch(node, incarnation)
        machine = self.make(asked.key, late=late)
        there = self.launched(asked, machine)
        state = ready(there, now=self.now)
        addressed = there.model_copy(update={"address": Address(host="h")})
        self.write(
            running(addressed),
            InstanceProvisioned(request_id=state.request_id, instance=node_instance(addressed)),
        )
        filled = Filled(pool=POOL, generation=1, node=node, instance_id=state.id)
        self.write(
            InstanceBootstrapped(instance=node_instance(state)),
            row(state),
            row(filled),
            ends=(state.request_id,),
        )
        return state, machine


def _common(state: Any) -> dict[str, Any]:
    names = ("id", "key", "pool", "node", "request_id", "replacing", "offer", "cluster", "created_at")
    return {name: getattr(state, name) for name in names}


def pool(*, desired: int = 1, steered: int | None = None, **spec: Any) -> Active:
    """A pool that has told its nodes."""
    wanted = PoolSpec(provider=(PROVIDER,), nodes=Nodes(desired=desired), **spec)
    told = desired if steered is None else steered
    return Active(name=POOL, generation=1, spec=wanted, desired=desired, steered=(told, ()))


def requested(node: int = 0, incarnation: int = 1, *, now: float, **more: Any) -> Requested:
    """An order that is out."""
    key = f"{OWNER}/{POOL}/{node}/1.{incarnation}/1"
    cloud = Cloud(PROVIDER, CONFIG, lambda: now)
    return Requested(
        id=f"{POOL}-{node}-1.{incarnation}.1",
        key=key,
        pool=POOL,
        node=node,
        request_id=f"instance:{POOL}-{node}-1.{incarnation}",
        offer=cloud.offers[0],
        cluster=CLUSTER,
        created_at=now,
        since=now,
        asked_at=now,
        **more,
    )


def ready(state: Provisioning, *, now: float, **more: Any) -> Ready:
    """The same machine at work."""
    return Ready(
        **_common(state),
        since=now,
        handle=state.handle,
        launched_at=state.launched_at,
        address=Address(host="h"),
        **more,
    )


def pending(task: str, *, attempt: int = 1, **spec: Any) -> Pending:
    """A task that waits for a slot."""
    return Pending(id=task, pool=POOL, spec=TaskSpec(argv=("x",), **spec), seq=1, attempt=attempt)


def quarantined(machine: Machine, cloud: Cloud, now: float) -> Quarantined:
    """A machine in quarantine."""
    return Quarantined(
        key=machine.key,
        handle=cloud.handle(machine),
        micro_usd_per_hour=1,
        seen_at=now,
        reap_at=now + GUARD_S,
    )


def row(state: Value, *, over: bool = False) -> StateRow:
    """A state as it is committed."""
    module = type(state).__module__
    kind = "quarantine" if module.endswith("adoption") else module.split(".")[1]
    name = {"pool": "name", "node": "node"}.get(kind, "id")
    return StateRow(kind, str(getattr(state, name)), 1, state, over)


def slots(count: int) -> Worker:
    """So many tasks at once on each machine."""
    return Worker(concurrency=count)
