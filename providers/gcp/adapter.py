"""Compute Engine as a provider. See `providers/contract.py`."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

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
from providers.gcp.preemptions import NOTICE_S, Preemptions
from providers.gcp.scopes import Scopes
from providers.gcp.surroundings import Surroundings
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

LAUNCH_BATCH_MAX = 100
TERMINATE_BATCH_MAX = 100
ENDS_AT_ONCE = 16
CONNECT_WITHIN_S = 20.0
KEYS_MAX = 50_000  # of machines, by name
LOOK_AGAIN_S = 2.0
T = TypeVar("T")
MACHINES = wire.aggregated("instances", wire.MACHINE)


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
            look_again_s=LOOK_AGAIN_S,
            host_keys=config.bulk is None,
            agent_python=config.agent_python,
            spot_price_floats=True,
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
        self._listed: dict[str, tuple[str, Sighting]] = {}  # owner and last sighting of machines, by name
        self._preemptions = Preemptions(name, self._api, config.notices_every_s, self._key_of, now)

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
        query = {"filter": f'name = "{names.machine_name(key)}"', "fields": MACHINES}
        scopes = Scopes()
        for page in await self._api.pages("instances.aggregatedList", self._instances, query):
            scopes.read(page.json)
            for found in _machines(page.json):
                seen = self._sighting(found)
                if seen is not None and seen.key == key:
                    return seen
        if scopes.hidden:
            raise ProviderError(
                Fault.UNKNOWN, f"{key} is not seen, nor is {', '.join(sorted(scopes.hidden))}"
            )
        return None

    async def observe(self, owner: str) -> Listing:
        """See `Provider.observe`. All zones of the project, not only those of the config."""
        query = {"filter": f'labels.{names.OWNER} = "{names.label(owner)}"', "fields": MACHINES}
        pages, broken = await self._api.readable_pages("instances.aggregatedList", self._instances, query)
        seen: dict[tuple[str, str], Sighting] = {}  # a machine may be on two pages
        scopes = Scopes()
        if broken is not None:
            scopes.lose(f"page {len(pages) + 1} ({broken.detail})")
        for page in pages:
            scopes.read(page.json)
            for found in _machines(page.json):
                one = self._sighting(found)
                if one is not None and wire.owner_of(found) == owner:
                    _keep(self._listed, one.handle.ref, (owner, one))
                    seen[one.handle.zone, one.handle.ref] = one
        hidden, whole = scopes.hidden, scopes.whole(self._catalog.region_known)
        for name in self._preemptions.ended.keys() & self._listed.keys():
            whose, one = self._listed[name]
            if (
                whose == owner
                and (one.handle.zone, name) not in seen
                and (not hidden or one.handle.zone in whole)
            ):
                seen[one.handle.zone, name] = self._tombstone(one)
        # The vendor tells whole seconds; what a listing shows has happened before it.
        at = self._now() if pages[0].at is None else pages[0].at
        return Listing(
            at=max(at, *(one.ended_at or one.launched_at for one in seen.values()), at),
            sightings=tuple(seen.values()),
            complete=not hidden,
            unreachable=tuple(sorted(hidden)),
            scopes=whole,
        )

    def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """Preemptions as the project's operations tell them, which may be when the machine is gone already.

        The early word comes from the machine itself, whose agent watches the metadata server.
        """
        return self._preemptions.notices()

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
            notice=self._preemptions.of(name),
        )
        if seen is not None:
            self._learn(name, seen.key)
        return seen

    def _learn(self, name: str, key: str) -> None:
        _keep(self._keys, name, key)

    def _tombstone(self, seen: Sighting) -> Sighting:
        """A machine whose preemption is over and that is listed no more."""
        name = seen.handle.ref
        notice = self._preemptions.of(name)
        said = "preempted" if notice is None else notice.reason
        more = {"ended_at": max(self._preemptions.ended[name], seen.launched_at), "address": None}
        return seen.model_copy(update=more | {"state": "stopped", "notice": notice, "detail": said})

    async def _delete(self, handle: Handle) -> None:
        # A token per call: asked for again it is asked for anew. Nothing is waited for; listings tell.
        await self._api.write(
            "instances.delete",
            "DELETE",
            f"{self._api.project}/zones/{handle.zone}/instances/{handle.ref}",
            query={"requestId": str(uuid.uuid4())},
            urgent=True,
        )

    async def _key_of(self, name: str, zone: str) -> str | None:
        if (known := self._keys.get(name)) is not None:
            return known
        try:
            answer = await self._api.read(
                "instances.get",
                f"{self._api.project}/zones/{zone}/instances/{name}",
                query={"fields": wire.MACHINE},
            )
        except ProviderError:  # it is gone, and nobody here knew it
            return None
        seen = self._sighting(answer.json())
        return None if seen is None else seen.key


def _keep(held: dict[str, T], name: str, value: T) -> None:
    if name not in held and len(held) >= KEYS_MAX:
        del held[next(iter(held))]
    held[name] = value


def _machines(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [found for scope in (page.get("items") or {}).values() for found in scope.get("instances") or ()]
