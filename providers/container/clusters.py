"""What is around containers: a cluster's network and volumes, and whatever of ours is left behind."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import anyio

from providers.container.config import ContainerConfig
from providers.container.engine import Engine, segment
from providers.container.faults import Call
from providers.container.wire import (
    CLUSTER,
    KEY,
    OWNER,
    PROVIDER,
    Seen,
    cluster_handle,
    cluster_labels,
    filters,
    handle,
    timestamp,
    volume_name,
)
from providers.errors import Fault, ProviderError
from providers.model import ClusterHandle, ClusterOrder, Leftover, LeftoverKind

_PLACES: dict[LeftoverKind, tuple[str, Call]] = {
    "network": ("/networks", "network"),
    "volume": ("/volumes", "volume"),
    "container": ("/containers", "remove"),
}


class Surroundings:
    """Networks and volumes of one provider."""

    def __init__(self, provider: str, config: ContainerConfig, engine: Engine) -> None:
        self._provider, self._config, self._engine = provider, config, engine
        self._making = anyio.Lock()

    async def open(self, order: ClusterOrder) -> ClusterHandle:
        """Make a cluster's network and volumes, those that are not there. Raises ProviderError."""
        cluster = cluster_handle(order, self._config, self._provider)
        labels = cluster_labels(order, self._provider)
        async with self._making:
            if "network" in cluster.specific:
                # Docker would make a second network of the same name for two that ask at once.
                body = {"Name": cluster.specific["network"], "CheckDuplicate": True, "Labels": labels}
                await self._make("network", cluster.specific["network"], body)
            for name in self._volumes(cluster):
                await self._make("volume", name, {"Name": name, "Labels": labels})
        return cluster

    async def expect(self) -> None:
        """See that the volumes are there which the config takes for given: an engine would just make them.

        Raises:
            ProviderError: rejected; one is not there.
        """
        for one in self._config.volumes:
            if one.scope == "engine" and one.source and not one.source.startswith("/"):
                if (await self._engine.look(f"/volumes/{segment(one.source)}")).status == 404:
                    text = f"there is no volume {one.source}: make it, or let its scope be cluster"
                    raise ProviderError(Fault.REJECTED, text)

    async def close(self, cluster: ClusterHandle) -> None:
        """Remove them. One that is gone is a success; Fault.CONFLICT while a container holds one."""
        owner = cluster.specific.get("owner")
        if not owner:  # nothing can be told from what others have
            return
        marks = {OWNER: owner, PROVIDER: self._provider, CLUSTER: cluster.cluster_id}
        things: list[tuple[LeftoverKind, str]] = [("volume", name) for name in self._volumes(cluster)]
        if "network" in cluster.specific:
            things.append(("network", cluster.specific["network"]))
        for kind, name in things:
            await self.remove(kind, name, marks)

    async def found(self, owner: str, containers: list[Seen]) -> list[Leftover]:
        """Every network and volume marked with `owner`; `containers`: all there are, for who uses what."""
        wanted = filters({OWNER: owner, PROVIDER: self._provider})
        networks = await self._engine.call("look", "GET", "/networks", query={"filters": wanted})
        volumes = await self._engine.call("look", "GET", "/volumes", query={"filters": wanted})
        found = []
        for one in self._marked(networks.json(), owner):
            in_use = any(one["Name"] in container.networks for container in containers)
            found.append(self._leftover("network", one, one.get("Created"), in_use))
        for one in self._marked(volumes.json().get("Volumes"), owner):
            in_use = any(one["Name"] in container.volumes for container in containers)
            found.append(self._leftover("volume", one, one.get("CreatedAt"), in_use))
        return found

    async def remove(
        self, kind: LeftoverKind, ref: str, marks: Mapping[str, str], owners: Collection[str] = ()
    ) -> None:
        """Remove one thing if it has exactly these marks, and one of `owners` if any are given.

        One that is gone is a success.

        Raises:
            ProviderError: rejected (its marks are others), conflict (something holds it).
        """
        place, call = _PLACES[kind]
        suffix = "/json" if kind == "container" else ""
        answer = await self._engine.call("look", "GET", f"{place}/{segment(ref)}{suffix}", allow=(404,))
        if answer.status == 404:
            return
        about = answer.json()
        labels = (about.get("Config") or {}).get("Labels") if kind == "container" else about.get("Labels")
        labels = labels or {}
        owner = labels.get(OWNER)
        strange = not owner or (owners and owner not in owners)
        if strange or any(labels.get(name, "") != value for name, value in marks.items()):
            raise ProviderError(Fault.REJECTED, f"{kind} {ref} has other marks than ours: not touched")
        if kind == "container" and (about.get("State") or {}).get("Running"):
            raise ProviderError(Fault.CONFLICT, f"container {ref[:12]} runs")
        query = {"v": "true"} if kind == "container" else None
        path = f"{place}/{segment(ref)}"
        try:
            answer = await self._engine.call(call, "DELETE", path, query=query, allow=(404,))
        except ProviderError as error:
            if error.fault is not Fault.GONE:
                raise

    def _volumes(self, cluster: ClusterHandle) -> list[str]:
        name = cluster.specific.get("name", "")
        own = {one.source for one in self._config.volumes if one.scope == "cluster"}
        return [volume_name(name, source) for source in sorted(own)]

    async def _make(self, kind: LeftoverKind, name: str, body: Mapping[str, Any]) -> None:
        place, call = _PLACES[kind]
        there = await self._engine.call("look", "GET", f"{place}/{segment(name)}", allow=(404,))
        if there.status == 404:
            try:
                await self._engine.call(call, "POST", f"{place}/create", json=body)
            except ProviderError as error:
                if error.fault is not Fault.CONFLICT:
                    raise
            there = await self._engine.call("look", "GET", f"{place}/{segment(name)}")
        labels = there.json().get("Labels") or {}
        if any(labels.get(mark) != body["Labels"][mark] for mark in (OWNER, PROVIDER, CLUSTER)):
            raise ProviderError(Fault.REJECTED, f"there is a {kind} {name} that is not this cluster's")

    def _marked(self, found: Iterable[dict[str, Any]] | None, owner: str) -> list[dict[str, Any]]:
        """Those with our marks, whatever the engine makes of filters."""
        marks = {OWNER: owner, PROVIDER: self._provider}.items()
        return [one for one in found or () if marks <= (one.get("Labels") or {}).items()]

    def _leftover(
        self, kind: LeftoverKind, about: Mapping[str, Any], created: object, in_use: bool
    ) -> Leftover:
        labels = about.get("Labels") or {}
        return Leftover(
            kind=kind,
            handle=handle(self._provider, about["Name"], labels),
            key=labels.get(KEY, ""),
            cluster_id=labels.get(CLUSTER, ""),
            created_at=timestamp(created),
            in_use=in_use,
        )
