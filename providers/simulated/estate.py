"""What exists in a simulated cloud, what it costs, and what is shown of it.

Everything here is synchronous and happens at one moment; `adapter.py` adds the time that calls take.
One heap of planned events drives all machines (`timeline.py`): no task and no thread per machine.
"""

import math
from collections import deque
from collections.abc import Callable

from providers.errors import Fault, ProviderError
from providers.model import Address, ClusterHandle, ClusterOrder, Handle, Leftover, Offer, Order, Sighting
from providers.simulated.config import SimulatedConfig
from providers.simulated.faults import Luck
from providers.simulated.host import SimulatedHost
from providers.simulated.machine import Machine
from providers.simulated.markets import Markets, Place, place_of
from providers.simulated.spectator import Spectator
from providers.simulated.timeline import Timeline

SSH_USER = "sim"
FOR_EVER = math.inf


class Estate:
    """One account's machines. `Cloud` adds what happens to them.

    Args:
        name: what the config calls the provider.
        config: what it sells and how it behaves.
        clock: the vendor's UTC seconds; never goes back.
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
        self.luck = Luck(config.seed, config.faults)
        self.timeline = Timeline(clock)
        self.machines: dict[str, Machine] = {}  # by ref, all there ever were
        self.living: dict[str, Machine] = {}  # by ref; also those that are stopped
        self.clusters: dict[str, ClusterHandle] = {}
        self._owners: dict[str, str] = {}  # of clusters
        self.spectator = spectator
        self._began_at: float | None = None
        self._of_key: dict[str, list[Machine]] = {}
        self._ended: deque[Machine] = deque()  # that are still shown
        self._billed = 0  # by machines that ended
        self._markets = Markets(config, name)
        self._used: dict[Place, int] = {}
        self._addresses = 0  # ever made
        self._at_address: dict[str, Machine] = {}
        self._free_addresses: list[str] = []
        self._dark: dict[str, float] = {}  # zone: until when
        self._pins: dict[str, str] = {}  # whose host key was seen under the name of an instance: its ref

    @property
    def age_s(self) -> float:
        """Seconds since the cloud began, which is when it is first looked at."""
        now = self.timeline.now()
        if self._began_at is None:
            self._began_at = now
        return now - self._began_at

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Every market, with the prices of the moment."""
        return self._markets.offers(self.age_s)

    def of_key(self, key: str) -> list[Machine]:
        """Every machine that was ever launched under a key, in that order."""
        return self._of_key.get(key, [])

    # --- clusters ---------------------------------------------------------------------------------

    def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Make a cluster, or find the one of that id."""
        handle = ClusterHandle(
            cluster_id=order.cluster_id, provider=self.name, region=order.region, ssh_user=SSH_USER
        )
        self._owners.setdefault(order.cluster_id, order.owner)
        return self.clusters.setdefault(order.cluster_id, handle)

    def close_cluster(self, cluster_id: str) -> None:
        """Remove a cluster. Raises ProviderError while there are machines in it."""
        if any(machine.cluster_id == cluster_id for machine in self.living.values()):
            raise ProviderError(Fault.CONFLICT, f"cluster {cluster_id} has machines (simulated)")
        self.clusters.pop(cluster_id, None)
        self._owners.pop(cluster_id, None)

    def leftovers(self, owner: str) -> tuple[Leftover, ...]:
        """Every cluster of an owner, whoever knows of it; one with machines in it is in use."""
        if not self.clusters:
            return ()
        used = {machine.cluster_id for machine in self.living.values()}
        return tuple(
            Leftover(
                kind="group",
                handle=Handle(provider=self.name, ref=name, region=cluster.region),
                cluster_id=name,
                in_use=name in used,
            )
            for name, cluster in self.clusters.items()
            if self._owners[name] == owner
        )

    # --- machines ---------------------------------------------------------------------------------

    def make(self, order: Order, *, version: str = "1", late: bool = False) -> Machine:
        """Launch one machine, or find the one that has the key, where keys are tokens.

        Raises:
            ProviderError: there is none to be had, or not so.
        """
        known = self.of_key(order.key) if self.config.tokens else []
        if known:
            if known[0].ended_at is not None:
                raise ProviderError(Fault.GONE, f"the machine of {order.key} has ended (simulated)")
            return known[0]
        offer = self._markets.offer(order.offer.market, self.age_s)
        if offer is None:
            raise ProviderError(Fault.REJECTED, f"nobody sells {order.offer.market} (simulated)")
        if order.cluster.cluster_id not in self.clusters:
            raise ProviderError(Fault.REJECTED, f"no cluster {order.cluster.cluster_id} (simulated)")
        if len(self.living) >= self.config.machines_max:
            raise ProviderError(Fault.QUOTA, f"{self.config.machines_max} machines are the limit (simulated)")
        capacity = self._markets.capacity(place_of(offer), self.age_s)
        if capacity is not None and self._used.get(place_of(offer), 0) >= capacity:
            raise ProviderError(Fault.CAPACITY, f"none left in {offer.market} (simulated)")
        return self.plant(
            order.key,
            order.owner,
            offer,
            epoch=order.epoch,
            cluster_id=order.cluster.cluster_id,
            instance_id=order.instance_id if order.host_key else "",
            version=version,
            late=late,
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
        instance_id: str = "",
        version: str = "1",
        late: bool = False,
    ) -> Machine:
        """Make a machine, perhaps one that nobody ordered here, or that is not ours and has no agent."""
        now = self.timeline.now()
        machine = Machine(
            ref=f"{self.name}-{len(self.machines) + 1:06d}",
            key=key,
            owner=owner,
            epoch=epoch,
            offer=self._markets.offer(offer.market, self.age_s) or offer,
            cluster_id=cluster_id,
            has_agent=has_agent,
            instance_id=instance_id,
            version=version,
            launched_at=now,
            began_at=now,
            visible_at=now + round(self.luck.random() * self.config.visible_within_s, 3),
            boots=not self.luck.boots_never(),
        )
        if self.luck.is_unreachable():
            machine.silent_until = FOR_EVER
        self.machines[machine.ref] = self.living[machine.ref] = machine
        self._of_key.setdefault(key, []).append(machine)
        self._count(machine, 1)
        if self.spectator is not None:
            self.spectator.machine_made(self.name, key, machine.ref, late)
        self.timeline.after(self.luck.delay_s(self.config.boot_delay), lambda: self._boot(machine))
        self._was_made(machine)
        return machine

    def _was_made(self, machine: Machine) -> None:
        """What follows from a machine being there; nothing, in itself."""

    def _boot(self, machine: Machine) -> None:
        if machine.state != "pending" or machine.ended_at is not None or not machine.boots:
            return
        machine.state, machine.shown = "running", None
        self._give_address(machine)
        if machine.has_agent:
            machine.host = SimulatedHost(
                machine.ref,
                self.timeline,
                lambda: self.end(machine, "lease"),
                self.spectator,
                machine.version,
            )

    def terminate(self, ref: str) -> None:
        """Begin to end a machine; one that is gone is no error."""
        machine = self.living.get(ref)
        if machine is None or machine.state == "stopping":
            return
        machine.state, machine.shown = "stopping", None
        if machine.host is not None:
            machine.host.die()
        self.timeline.after(self.luck.delay_s(self.config.end_delay), lambda: self.end(machine, "terminated"))

    def end(self, machine: Machine, reason: str) -> None:
        """A machine is gone, now."""
        if machine.ended_at is not None:
            return
        now = self.timeline.now()
        machine.ended_at = now
        if machine.host is not None:
            machine.host.die()
        machine.host = machine.disk = None
        del self.living[machine.ref]
        if machine.stopped_at is None:
            self._stop_billing(machine, reason)
        self._billed += machine.billed_micro_usd(now)
        self._free_address(machine)
        machine.state, machine.notice, machine.shown = "stopped", None, None
        if self.config.shows_ended_s > 0:
            self._ended.append(machine)

    def _stop_billing(self, machine: Machine, reason: str) -> None:
        machine.stopped_at = self.timeline.now()
        self._count(machine, -1)
        if self.spectator is not None:
            self.spectator.machine_ended(self.name, machine.key, machine.ref, reason)

    def _count(self, machine: Machine, change: int) -> None:
        place = place_of(machine.offer)
        self._used[place] = self._used.get(place, 0) + change

    def billed_micro_usd(self) -> int:
        """What everything here has cost so far."""
        now = self.timeline.now()
        return self._billed + sum(machine.billed_micro_usd(now) for machine in self.living.values())

    # --- addresses --------------------------------------------------------------------------------

    def _give_address(self, machine: Machine) -> None:
        if self._free_addresses:
            host = self._free_addresses.pop()
        else:
            self._addresses += 1
            number = self._addresses
            host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        machine.address = Address(host=host)
        self._at_address[host] = machine

    def _free_address(self, machine: Machine) -> None:
        if machine.address is None:
            return
        del self._at_address[machine.address.host]
        if self.config.addresses_reused:
            self._free_addresses.append(machine.address.host)
        machine.address = None

    def at_address(self, host: str) -> Machine | None:
        """Whose address that is now."""
        return self._at_address.get(host)

    def is_trusted(self, machine: Machine, instance_id: str) -> bool:
        """Whether a machine shows the host key that is known under the name of an instance.

        It is, when it was given that instance's key; without a key given, whoever was met first is.
        """
        if machine.instance_id:
            return machine.instance_id == instance_id
        return self._pins.setdefault(instance_id, machine.ref) == machine.ref

    # --- what is shown ----------------------------------------------------------------------------

    def sightings(self, owner: str) -> tuple[Sighting, ...]:
        """Every machine of an owner that is visible by now."""
        now, dark = self.timeline.now(), self.dark_zones()
        shown = [
            machine.sighting(self.name)
            for machine in self.living.values()
            if machine.owner == owner and machine.offer.zone not in dark and self._is_visible(machine, now)
        ]
        for machine in self._still_shown(now):
            if machine.owner == owner and machine.offer.zone not in dark:
                shown.append(machine.sighting(self.name))
        return tuple(shown)

    def find(self, key: str) -> Sighting | None:
        """The first living machine of a key that is visible, else one that ended and is still shown.

        Raises:
            ProviderError: it may be in a zone that can't be asked.
        """
        now, dark = self.timeline.now(), self.dark_zones()
        living = (one for one in self.of_key(key) if one.ended_at is None and self._is_visible(one, now))
        ended = (one for one in self._still_shown(now) if one.key == key)
        for machine in (*living, *ended):
            if machine.offer.zone not in dark:
                return machine.sighting(self.name)
        if dark:
            raise ProviderError(Fault.UNKNOWN, f"find {key}: no answer from {', '.join(dark)} (simulated)")
        return None

    def dark_zones(self) -> tuple[str, ...]:
        """Zones that can't be asked now."""
        if not self._dark:
            return ()
        now = self.timeline.now()
        return tuple(sorted(zone for zone, until in self._dark.items() if until > now))

    def _is_visible(self, machine: Machine, now: float) -> bool:
        if machine.visible_at > now or machine.unlisted_until > now:
            return False
        return machine.state != "stopped" or self.config.lists_stopped

    def _still_shown(self, now: float) -> deque[Machine]:
        while self._ended and (self._ended[0].ended_at or 0.0) + self.config.shows_ended_s < now:
            self._ended.popleft().shown = None
        return self._ended

    def handle(self, machine: Machine) -> Handle:
        """How we name a machine."""
        return machine.handle(self.name)
