"""Machines of aws EC2. See `providers/contract.py`; launching.py says which machine has which key."""

import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from providers.agent.attach import attach_over
from providers.aws.clients import Clients
from providers.aws.clusters import Clusters
from providers.aws.config import AwsConfig
from providers.aws.doctor import Doctor
from providers.aws.faults import NOT_KNOWN, AwsError, is_of_one
from providers.aws.images import Images
from providers.aws.launching import Launcher
from providers.aws.leftovers import LeftBehind
from providers.aws.machines import Machines, Seen
from providers.aws.offers import Offers
from providers.aws.places import Networks
from providers.aws.queue import Notices, Queue
from providers.aws.wire import NOTICE_LEAD_S, sighting
from providers.contract import AgentChannel
from providers.errors import Fault, ProviderError
from providers.host.ssh import connect
from providers.model import (
    Capabilities,
    Check,
    ClusterHandle,
    ClusterOrder,
    Handle,
    Leftover,
    Leftovers,
    Listing,
    Machine,
    Notice,
    Offer,
    Order,
    Sighting,
)

ORDERS_MAX = 100  # of one launch; how many share a call of aws's is `launch_batch`
TERMINATE_MAX = 100
CONNECT_WITHIN_S = 20.0
NEW_MAX = 10_000
_REF = re.compile(r"\bi-[0-9a-f]+\b")


class AwsProvider:
    """A `Provider` of one aws account, in one or many regions.

    Args:
        name: what the config calls this provider.
        config: see config.example.toml.
        directory: not used; nothing is kept on this computer.
        agent_source: the agent's program.
        now: wall time, seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        config: AwsConfig,
        directory: Path,
        agent_source: bytes,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        alone = config.launch_batch == 1
        self.capabilities = Capabilities(
            spot=True,
            notice_s=NOTICE_LEAD_S,
            launch_batch_max=ORDERS_MAX,
            terminate_batch_max=TERMINATE_MAX,
            dead_man_switch=True,
            tags=True,
            billing_unit="second",
            visible_within_s=config.visible_within_s,
            machines_max=config.machines_max,
            look_again_s=config.look_again_s,
            host_keys=alone,
            tokens=alone,
            spot_price_floats=True,
        )
        self._config, self._agent_source, self._now = config, agent_source, now
        self._clients = Clients(name, config)
        self._machines = Machines(name, self._clients, config)
        self._notices = Notices()
        self._new: OrderedDict[str, float] = OrderedDict()  # refs, and when they were launched
        networks, images = Networks(self._clients, config), Images(self._clients, config)
        self._offers = Offers(name, self._clients, config, networks)
        self._clusters = Clusters(name, self._clients, config, networks)
        self._launcher = Launcher(
            name, self._clients, config, images, self._machines, (self._offers, networks)
        )
        self._left = LeftBehind(name, self._clients, config)
        self._doctor = Doctor(name, self._clients, config, (images, networks, self._offers), now)

    async def offers(self) -> Sequence[Offer]:
        """See `Provider.offers`."""
        return await self._offers.offers()

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """See `Provider.open_cluster`."""
        self._notices.owners.add(order.owner)
        return await self._clusters.open(order)

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """See `Provider.close_cluster`. Raises ProviderError(conflict) while machines are ending."""
        await self._clusters.close(cluster)

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """See `Provider.launch`."""
        self._notices.owners.update(order.owner for order in orders)
        outcomes = await self._launcher.launch(orders)
        for outcome in outcomes:
            if isinstance(outcome, Handle):
                self._new[outcome.ref] = anyio.current_time()
        while len(self._new) > NEW_MAX:
            self._new.popitem(last=False)
        return outcomes

    async def find(self, key: str) -> Sighting | None:
        """See `Provider.find`. Raises ProviderError when it is not seen and a region can't be read."""
        owner = key.partition("/")[0]
        found: list[Sighting] = []
        failures: list[ProviderError] = []

        async def one(region: str) -> None:
            try:
                instances = (await self._machines.with_keys(region, owner, [key])).get(key, ())
            except ProviderError as error:
                failures.append(error)
                return
            for instance in instances:
                seen = sighting(
                    instance, key, self._machines.place(region), self._notices.of(str(instance["InstanceId"]))
                )
                if seen is not None and seen.ended_at is None:
                    found.append(seen)

        async with anyio.create_task_group() as looking:
            for region in self._config.regions:
                looking.start_soon(one, region)
        if found:
            return min(found, key=lambda seen: (seen.launched_at, seen.handle.ref))
        if failures:
            raise failures[0]
        return None

    async def observe(self, owner: str) -> Listing:
        """See `Provider.observe`. Machines that ended lately are shown with the time when they did.

        `scopes` are the regions of the config that were read whole: of a region that was taken out of the
        config nothing is proven, and machines live on there.
        """
        self._notices.owners.add(owner)
        asked_at = self._now()
        listed: dict[str, Seen] = {}
        failures: dict[str, ProviderError] = {}

        async def one(region: str) -> None:
            try:
                listed[region] = await self._machines.listed(region, owner)
            except ProviderError as error:
                failures[region] = error

        async with anyio.create_task_group() as looking:
            for region in self._config.regions:
                looking.start_soon(one, region)
        if not listed:
            raise failures[self._config.regions[0]]
        sightings = [
            seen
            for region in self._config.regions
            if region in listed
            for key, instance in listed[region].instances
            if (
                seen := sighting(
                    instance, key, self._machines.place(region), self._notices.of(str(instance["InstanceId"]))
                )
            )
            is not None
        ]
        whole = tuple(region for region in self._config.regions if region in listed and listed[region].whole)
        return Listing(
            at=min(asked_at if seen.at is None else seen.at for seen in listed.values()),
            sightings=tuple(sightings),
            complete=not failures and all(seen.whole for seen in listed.values()),
            unreachable=tuple(region for region in self._config.regions if region not in whole),
            scopes=whole,
        )

    def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """Events from the queues of the config; without any it never yields. See queue.py."""
        return Queue(self.name, self._clients, self._config, self._machines, self._notices, self._now)

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """See `Provider.terminate`. Also in regions that are not in the config (any more)."""
        outcomes: dict[str, ProviderError | None] = {}
        by_region: dict[str, list[str]] = {}
        for handle in handles:
            refs = by_region.setdefault(handle.region, [])
            if handle.ref not in refs:
                refs.append(handle.ref)
        async with anyio.create_task_group() as ending:
            for region, refs in by_region.items():
                for start in range(0, len(refs), TERMINATE_MAX):
                    ending.start_soon(self._end, region, refs[start : start + TERMINATE_MAX], outcomes)
        return [outcomes[handle.ref] for handle in handles]

    async def leftovers(self, owner: str) -> Leftovers:
        """See `Provider.leftovers`."""
        self._notices.owners.add(owner)
        return await self._left.found(owner)

    async def remove(self, leftover: Leftover) -> None:
        """See `Provider.remove`. Only what is marked with an owner that was asked about before."""
        await self._left.remove(leftover, self._notices.owners)

    async def check(self, owner: str) -> Sequence[Check]:
        """See `Provider.check`."""
        return await self._doctor.check(owner)

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncGenerator[AgentChannel]:
        """See `Provider.attach`. By ssh; the agent watches the metadata service for notices."""
        root = machine.ssh_user == "root"
        home = "/root" if root else f"/home/{machine.ssh_user}"
        # Shutdown behaviour is terminate, so that this ends the machine and its disks.
        end = "shutdown -h now" if root else "sudo -n shutdown -h now"
        async with (
            connect(machine, timeout_s=CONNECT_WITHIN_S) as host,
            attach_over(
                host,
                directory=f"{home}/.everpool/agent",
                agent_source=self._agent_source,
                python=self.capabilities.agent_python,
                options=("--metadata", "aws", "--end-command", end),
            ) as channel,
        ):
            yield channel

    async def aclose(self) -> None:
        """Close connections. Machines live on."""
        await self._clients.aclose()

    async def _end(self, region: str, refs: list[str], outcomes: dict[str, ProviderError | None]) -> None:
        """Terminate machines by one call: it ends all of them or none.

        So that one machine which can't be ended keeps no other alive, those that the error names are taken
        out and the rest is ended again; when it names none, each half by itself.
        """
        for ref in refs:
            self._notices.we_end(ref)
        left = list(refs)
        while left:
            try:
                await self._clients.call("ec2", region, "terminate_instances", urgent=True, InstanceIds=left)
            except AwsError as error:
                named = set(left) if len(left) == 1 else set(_REF.findall(error.detail)).intersection(left)
                if len(left) > 1 and not is_of_one(error):
                    named = set(left)
                elif not named or (len(named) == len(left) > 1 and error.code not in NOT_KNOWN):
                    async with anyio.create_task_group() as halves:
                        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
                            halves.start_soon(self._end, region, half, outcomes)
                    return
                for ref in named:
                    outcomes[ref] = self._unknown(ref) if error.code in NOT_KNOWN else error
                left = [ref for ref in left if ref not in named]
            except ProviderError as error:
                outcomes.update(dict.fromkeys(left, error))
                return
            else:
                outcomes.update(dict.fromkeys(left, None))
                return

    def _unknown(self, ref: str) -> ProviderError | None:
        """What it means that aws does not know a machine: it is gone, or too new to be known everywhere."""
        launched_at = self._new.get(ref)
        if launched_at is None or anyio.current_time() - launched_at > self._config.visible_within_s:
            return None
        return ProviderError(Fault.UNKNOWN, f"{ref} was launched a moment ago and is not known yet")
