"""The cloud in memory: what exists in it, what it costs, and what it takes back.

Everything here is synchronous and happens at one moment; `adapter.py` adds the time that calls take.
One heap of planned events drives all machines (`timeline.py`): no task and no thread per machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from providers.errors import Fault, ProviderError
from providers.model import (
    Address,
    ClusterHandle,
    ClusterOrder,
    Handle,
    Notice,
    Offer,
    Order,
    Sighting,
    SightingState,
)
from providers.simulated.config import SimulatedConfig, offers_of
from providers.simulated.faults import Luck
from providers.simulated.host import SimulatedHost, Spectator
from providers.simulated.timeline import Timeline

SSH_USER = "sim"


@dataclass(slots=True)
class Machine:
    """One machine, from its launch on; kept after its end, because its key is never used again."""

    ref: str
    key: str
    owner: str
    epoch: int
    offer: Offer
    cluster_id: str
    launched_at: float
    visible_at: float
    state: SightingState = "pending"
    address: Address | None = None
    notice: Notice | None = None
    ended_at: float | None = None
    host: SimulatedHost | None = None
    has_agent: bool = True
    silent_until: float = 0.0
    shown: Sighting | None = None  # as it was listed last; None: changed since

    def billed_micro_usd(self, now: float) -> int:
        """What it has cost, to the begun second."""
        end = now if self.ended_at is None else self.ended_at
        return math.ceil(max(0.0, end - self.launched_at)) * self.offer.micro_usd_per_hour // 3600


class Cloud:
    """One account's machines.

    Args:
        name: what the config calls the provider.
        config: what it sells and how it behaves.
        clock: UTC seconds.
        spectator: who watches what really happens.
    """

    def __init__(
        self,
        name: str,
        config: SimulatedConfig,
        clock: Callable[[], float],
        spectator: Spectator | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.offers = offers_of(config, name)
        self.luck = Luck(config.seed, config.faults)
        self.timeline = Timeline(clock)
        self.machines: dict[str, Machine] = {}  # by key, all there ever were
        self.living: dict[str, Machine] = {}  # by ref
        self.clusters: dict[str, ClusterHandle] = {}
        self.on_notice: list[Callable[[str, Notice | None], None]] = []  # who is pushed notices
        self._spectator = spectator
        self._markets = {offer.market: offer for offer in self.offers}
        self._capacity = {(one.zone, one.instance_type): one.capacity for one in config.offers}
        self._used: dict[tuple[str, str, str], int] = {}

    async def run(self) -> None:
        """Make time pass. Exactly one task must do this."""
        await self.timeline.run()

    # --- clusters ---------------------------------------------------------------------------------

    def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Make a cluster, or find the one of that id."""
        handle = ClusterHandle(
            cluster_id=order.cluster_id, provider=self.name, region=order.region, ssh_user=SSH_USER
        )
        return self.clusters.setdefault(order.cluster_id, handle)

    def close_cluster(self, cluster_id: str) -> None:
        """Remove a cluster. Raises ProviderError while there are machines in it."""
        if any(machine.cluster_id == cluster_id for machine in self.living.values()):
            raise ProviderError(Fault.CONFLICT, f"cluster {cluster_id} has machines (simulated)")
        self.clusters.pop(cluster_id, None)

    # --- machines ---------------------------------------------------------------------------------

    def make(self, order: Order) -> Machine:
        """Launch one machine, or find the one that has the key. Raises ProviderError."""
        known = self.machines.get(order.key)
        if known is not None:
            if known.ended_at is not None:
                raise ProviderError(Fault.GONE, f"the machine of {order.key} has ended (simulated)")
            return known
        if order.offer.market not in self._markets:
            raise ProviderError(Fault.REJECTED, f"nobody sells {order.offer.market} (simulated)")
        if order.cluster.cluster_id not in self.clusters:
            raise ProviderError(Fault.REJECTED, f"no cluster {order.cluster.cluster_id} (simulated)")
        if len(self.living) >= self.config.machines_max:
            raise ProviderError(Fault.QUOTA, f"{self.config.machines_max} machines are the limit (simulated)")
        capacity = self._capacity[(order.offer.zone, order.offer.instance_type.name)]
        if capacity is not None and self._used.get(_place(order.offer), 0) >= capacity:
            raise ProviderError(Fault.CAPACITY, f"none left in {order.offer.market} (simulated)")
        return self.plant(
            order.key, order.owner, order.offer, epoch=order.epoch, cluster_id=order.cluster.cluster_id
        )

    def plant(
        self,
        key: str,
        owner: str,
        offer: Offer,
        *,
        epoch: int = 0,
        cluster_id: str = "",
        has_agent: bool = True,
    ) -> Machine:
        """Make a machine, perhaps one that nobody ordered here, or that is not ours and has no agent."""
        now = self.timeline.now()
        machine = Machine(
            ref=f"i-{len(self.machines) + 1:06d}",
            key=key,
            owner=owner,
            epoch=epoch,
            offer=self._markets.get(offer.market, offer),
            cluster_id=cluster_id,
            has_agent=has_agent,
            launched_at=now,
            visible_at=now + round(self.luck.random() * self.config.visible_within_s, 3),
        )
        self.machines[key] = self.living[machine.ref] = machine
        self._used[_place(offer)] = self._used.get(_place(offer), 0) + 1
        if self._spectator is not None:
            self._spectator.machine_made(self.name, key, machine.ref, False)
        self.timeline.after(self.luck.delay_s(self.config.boot_delay), lambda: self._boot(machine))
        if offer.lifecycle == "spot":
            self._plan_preemption(machine)
        return machine

    def _boot(self, machine: Machine) -> None:
        if machine.state != "pending" or machine.ended_at is not None:
            return
        number = int(machine.ref[2:])
        host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        machine.state, machine.address, machine.shown = "running", Address(host=host), None
        if machine.has_agent:
            machine.host = SimulatedHost(
                machine.ref, self.timeline, lambda: self.end(machine, "lease"), self._spectator
            )
        if machine.notice is not None:
            self._tell_host(machine)

    def terminate(self, ref: str) -> None:
        """Begin to end a machine; one that is gone is no error."""
        machine = self.living.get(ref)
        if machine is None or machine.state == "stopping":
            return
        machine.state, machine.shown = "stopping", None
        if machine.host is not None:
            machine.host.die("terminated")
        self.timeline.after(self.luck.delay_s(self.config.end_delay), lambda: self.end(machine, "terminated"))

    def end(self, machine: Machine, reason: str) -> None:
        """A machine is gone, now."""
        if machine.ended_at is not None:
            return
        machine.ended_at, machine.shown = self.timeline.now(), None
        del self.living[machine.ref]
        self._used[_place(machine.offer)] -= 1
        if machine.host is not None:
            machine.host.die(reason)
            machine.host = None
        if self._spectator is not None:
            self._spectator.machine_ended(self.name, machine.key, machine.ref, reason)

    def billed_micro_usd(self) -> int:
        """What everything here has cost so far."""
        now = self.timeline.now()
        return sum(machine.billed_micro_usd(now) for machine in self.machines.values())

    # --- what is shown ----------------------------------------------------------------------------

    def sightings(self, owner: str) -> tuple[Sighting, ...]:
        """Every machine of an owner that is visible by now."""
        now = self.timeline.now()
        return tuple(
            self._sighting(machine)
            for machine in self.living.values()
            if machine.owner == owner and machine.visible_at <= now
        )

    def find(self, key: str) -> Sighting | None:
        """The machine of a key, when it is visible."""
        machine = self.machines.get(key)
        if machine is None or machine.ended_at is not None or machine.visible_at > self.timeline.now():
            return None
        return self._sighting(machine)

    def handle(self, machine: Machine) -> Handle:
        """How we name a machine."""
        return Handle(
            provider=self.name, ref=machine.ref, region=machine.offer.region, zone=machine.offer.zone
        )

    def _sighting(self, machine: Machine) -> Sighting:
        if machine.shown is None:
            machine.shown = Sighting(
                key=machine.key,
                handle=self.handle(machine),
                state=machine.state,
                address=machine.address,
                launched_at=machine.launched_at,
                micro_usd_per_hour=machine.offer.micro_usd_per_hour,
                lifecycle=machine.offer.lifecycle,
                instance_type=machine.offer.instance_type.name,
                notice=machine.notice,
                epoch=machine.epoch,
                detail=machine.state,
            )
        return machine.shown

    # --- preemption -------------------------------------------------------------------------------

    def _plan_preemption(self, machine: Machine) -> None:
        hazard = self.config.hazard_per_hour(machine.offer.zone, machine.offer.instance_type.name)
        wait = self.luck.wait_s(hazard)
        if wait is None:
            return
        lead = self.config.notice_s
        if lead is not None and self.luck.random() >= self.config.notice_share:
            lead = None
        self.timeline.after(wait, lambda: None if self.luck.calm else self.preempt(machine, lead))

    def preempt(self, machine: Machine, within_s: float | None, *, kill: bool = True) -> None:
        """Take a machine back: after a notice of so many seconds, or (None) without a word."""
        if machine.ended_at is not None or machine.notice is not None:
            return
        if within_s is None:
            self.end(machine, "preempted")
            return
        self._announce(machine, Notice(reason="spot", deadline_at=self.timeline.now() + within_s))
        if kill:
            self.timeline.after(within_s, lambda: self._take(machine))

    def silence(self, machine: Machine, seconds: float) -> None:
        """Nobody can talk to a machine for a while; what runs on it goes on."""
        machine.silent_until = self.timeline.now() + seconds
        if machine.host is not None and machine.host.channel is not None:
            machine.host.channel.close("silence")

    def withdraw(self, machine: Machine) -> None:
        """Take a notice back; the machine stays."""
        if machine.notice is not None:
            self._announce(machine, None)

    def _take(self, machine: Machine) -> None:
        if machine.notice is not None:
            self.end(machine, "preempted")

    def _announce(self, machine: Machine, notice: Notice | None) -> None:
        machine.notice, machine.shown = notice, None
        self._tell_host(machine)
        for push in list(self.on_notice):
            push(machine.key, notice)

    def _tell_host(self, machine: Machine) -> None:
        if machine.host is None:
            return
        notice = machine.notice
        if notice is None or notice.deadline_at is None:
            machine.host.noticed(notice.reason if notice else None, None)
        else:
            machine.host.noticed(notice.reason, round(notice.deadline_at - self.timeline.now(), 3))


def _place(offer: Offer) -> tuple[str, str, str]:
    return offer.zone, offer.instance_type.name, offer.lifecycle
