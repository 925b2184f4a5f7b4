"""Compute Engine as a provider. See `providers/contract.py`."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from providers.agent.attach import attach_over
from providers.contract import AgentChannel
from providers.errors import Fault, ProviderError
from providers.gcp import names, wire
from providers.gcp.api import Api, last
from providers.gcp.config import GcpConfig
from providers.gcp.doctor import Doctor
from providers.gcp.launching import Launcher
from providers.gcp.offers import Catalog
from providers.gcp.surroundings import Surroundings, unreached
from providers.gcp.tokens import Tokens
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

NOTICE_S = 30.0  # from the soft-off to the end, at best
LAUNCH_BATCH_MAX = 100
TERMINATE_BATCH_MAX = 100
ENDS_AT_ONCE = 16
CONNECT_WITHIN_S = 20.0
PREEMPTED = "compute.instances.preempted"
PREEMPTED_MAX = 10_000  # remembered
KEYS_MAX = 50_000  # of machines, by name
OLD_NEWS_S = 300.0  # a preemption that began so long ago is no news any more


class GcpProvider:
    """A `Provider` that rents at Compute Engine, in one project.

    Args:
        name: what the config calls this provider.
        config: which project, where, and how.
        directory: not used; nothing is kept here.
        agent_source: the agent's program.
        now: wall time, seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        config: GcpConfig,
        directory: Path,
        agent_source: bytes,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.capabilities = Capabilities(
            spot=True,
            notice_s=NOTICE_S + (config.preemption_notice_s or 0),
            launch_batch_max=LAUNCH_BATCH_MAX,
            terminate_batch_max=TERMINATE_BATCH_MAX,
            dead_man_switch=True,
            tags=True,
            billing_unit="second",
            visible_within_s=config.visible_within_s,
            machines_max=config.machines_max,
            agent_python=config.agent_python,
        )
        self._config, self._agent_source, self._now = config, agent_source, now
        tokens = Tokens(config, now)
        self._api = Api(name, config, tokens)
        self._catalog = Catalog(name, config, self._api, now)
        self._surroundings = Surroundings(name, config, self._api)
        self._launcher = Launcher(name, config, self._api, self._catalog.region_of, self._learn, now)
        self._doctor = Doctor(config, self._api, tokens, self._catalog, now)
        self._ending = anyio.CapacityLimiter(ENDS_AT_ONCE)
        self._keys: dict[str, str] = {}  # launch keys of machines, by name
        self._preempted: dict[str, Notice] = {}  # by name

    async def offers(self) -> Sequence[Offer]:
        """See `Provider.offers`."""
        return await self._catalog.offers()

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """See `Provider.open_cluster`."""
        return await self._surroundings.open_cluster(order)

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """See `Provider.close_cluster`."""
        await self._surroundings.close_cluster(cluster)

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Returns when the vendor has made the machines, or says why not. See `Provider.launch`."""
        return await self._launcher.launch(orders)

    async def find(self, key: str) -> Sighting | None:
        """See `Provider.find`. Raises ProviderError(unknown) when a zone that may have it is not shown."""
        query = {"filter": f'name = "{names.machine_name(key)}"'}
        hidden = set[str]()
        for page in await self._api.pages("instances.aggregatedList", self._instances, query):
            hidden |= unreached(page.json)
            for found in _machines(page.json):
                seen = self._sighting(found)
                if seen is not None and seen.key == key:
                    return seen
        if hidden:
            raise ProviderError(Fault.UNKNOWN, f"{key} is not seen, nor is {', '.join(sorted(hidden))}")
        return None

    async def observe(self, owner: str) -> Listing:
        """See `Provider.observe`. All zones of the project, not only those of the config."""
        query = {"filter": f'labels.{names.OWNER} = "{names.label(owner)}"'}
        pages, broken = await self._api.readable_pages("instances.aggregatedList", self._instances, query)
        seen: dict[tuple[str, str], Sighting] = {}  # a machine may be on two pages
        hidden = set[str]() if broken is None else {f"page {len(pages) + 1} ({broken.detail})"}
        for page in pages:
            hidden |= unreached(page.json)
            for found in _machines(page.json):
                one = self._sighting(found)
                if one is not None and wire.owner_of(found) == owner:
                    seen[one.handle.zone, one.handle.ref] = one
        # The vendor tells whole seconds; what a listing shows has happened before it.
        at = self._now() if pages[0].at is None else pages[0].at
        return Listing(
            at=max(at, *(one.launched_at for one in seen.values()), at),
            sightings=tuple(seen.values()),
            complete=not hidden,
            unreachable=tuple(sorted(hidden)),
        )

    async def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """Preemptions as the project's operations tell them, which may be when the machine is gone already.

        The early word comes from the machine itself, whose agent watches the metadata server.
        """
        known = set[str]()
        while True:
            for told in await self._preemptions(known):
                yield told
            await anyio.sleep(self._config.notices_every_s)

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """Delete machines with their disks. See `Provider.terminate`."""
        outcomes: dict[Handle, ProviderError | None] = {}

        async def one(handle: Handle) -> None:
            try:
                async with self._ending:
                    await self._delete(handle)
            except ProviderError as error:
                outcomes[handle] = None if error.fault is Fault.GONE else error
            else:
                outcomes[handle] = None

        async with anyio.create_task_group() as ending:
            for handle in dict.fromkeys(handles):
                ending.start_soon(one, handle)
        return [outcomes[handle] for handle in handles]

    async def leftovers(self, owner: str) -> Leftovers:
        """See `Provider.leftovers`: disks and firewall rules."""
        return await self._surroundings.leftovers(owner)

    async def remove(self, leftover: Leftover) -> None:
        """See `Provider.remove`."""
        await self._surroundings.remove(leftover)

    async def check(self, owner: str) -> Sequence[Check]:
        """See `Provider.check`."""
        return await self._doctor.check()

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncGenerator[AgentChannel]:
        """See `Provider.attach`."""
        home = "/root" if machine.ssh_user == "root" else f"/home/{machine.ssh_user}"
        end = "shutdown -h now" if machine.ssh_user == "root" else "sudo -n shutdown -h now"
        options = ["--metadata", "gcp", "--end-command", end]
        if self._config.metadata_url is not None:
            options += ["--metadata-url", self._config.metadata_url]
        async with (
            connect(machine, timeout_s=CONNECT_WITHIN_S) as host,
            attach_over(
                host,
                directory=f"{home}/.everpool/agent",
                agent_source=self._agent_source,
                python=self.capabilities.agent_python,
                options=options,
            ) as channel,
        ):
            yield channel

    async def aclose(self) -> None:
        """See `Provider.aclose`."""
        await self._api.aclose()

    # --- pieces -----------------------------------------------------------------------------------

    @property
    def _instances(self) -> str:
        return f"{self._api.project}/aggregated/instances"

    def _sighting(self, found: Mapping[str, Any]) -> Sighting | None:
        name = str(found.get("name"))
        seen = wire.sighting(
            self.name,
            found,
            region=self._catalog.region_known(last(found.get("zone"))),
            ssh_port=self._config.ssh_port,
            external_ip=self._config.external_ip,
            notice=self._preempted.get(name),
        )
        if seen is not None:
            self._learn(name, seen.key)
        return seen

    def _learn(self, name: str, key: str) -> None:
        if name not in self._keys and len(self._keys) >= KEYS_MAX:
            del self._keys[next(iter(self._keys))]
        self._keys[name] = key

    async def _delete(self, handle: Handle) -> None:
        # A token per call: asked for again it is asked for anew. Nothing is waited for; listings tell.
        await self._api.write(
            "instances.delete",
            "DELETE",
            f"{self._api.project}/zones/{handle.zone}/instances/{handle.ref}",
            query={"requestId": str(uuid.uuid4())},
            urgent=True,
        )

    async def _preemptions(self, known: set[str]) -> list[tuple[str, Notice]]:
        """Those of our machines that are not in `known`, which are put there (the operations' ids)."""
        path = f"{self._api.project}/aggregated/operations"
        query = {"filter": f'operationType = "{PREEMPTED}"'}
        found, there = list[tuple[str, Notice]](), set[str]()
        for page in await self._api.pages("globalOperations.aggregatedList", path, query):
            for scope in (page.json.get("items") or {}).values():
                for operation in scope.get("operations") or ():
                    number = str(operation.get("id") or operation.get("name"))
                    there.add(number)
                    if number not in known and self._is_news(operation, page.at):
                        told = await self._told(operation, page.at)
                        found += [] if told is None else [told]
        known.clear()  # what the vendor forgets is forgotten
        known |= there
        return found

    def _is_news(self, operation: Mapping[str, Any], at: float | None) -> bool:
        began = operation.get("insertTime")
        return began is None or wire.seconds(began) > (at or self._now()) - OLD_NEWS_S

    async def _told(self, operation: Mapping[str, Any], at: float | None) -> tuple[str, Notice] | None:
        """Whose preemption it is, when it is one of ours."""
        name, zone = last(operation.get("targetLink")), last(operation.get("zone"))
        key = self._keys.get(name)
        if key is None:
            key = await self._key_of(name, zone)
        if key is None:
            return None
        began, now = operation.get("insertTime"), self._now()
        # The vendor promises no time, only that it pulls the plug so long after the soft-off, if not before.
        ends_at = (
            None if began is None else wire.seconds(began) + NOTICE_S + now - (now if at is None else at)
        )
        notice = Notice(reason=operation.get("statusMessage") or "preempted", deadline_at=ends_at)
        if len(self._preempted) >= PREEMPTED_MAX:
            del self._preempted[next(iter(self._preempted))]
        self._preempted[name] = notice
        return key, notice

    async def _key_of(self, name: str, zone: str) -> str | None:
        try:
            answer = await self._api.read(
                "instances.get", f"{self._api.project}/zones/{zone}/instances/{name}"
            )
        except ProviderError:  # it is gone, and nobody here knew it
            return None
        seen = self._sighting(answer.json())
        return None if seen is None else seen.key


def _machines(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [found for scope in (page.get("items") or {}).values() for found in scope.get("instances") or ()]
