"""What is around machines: a firewall rule per cluster, and disks that outlived their machine."""

import uuid
from collections.abc import Mapping
from typing import Any

from providers.errors import Fault, ProviderError
from providers.gcp import names, wire
from providers.gcp.api import Api, last
from providers.gcp.config import GcpConfig
from providers.gcp.faults import operation_failure
from providers.gcp.scopes import Scopes
from providers.model import ClusterHandle, ClusterOrder, Handle, Leftover, Leftovers

RULE_WITHIN_S = 45.0
REMOVE_WITHIN_S = 30.0
DISKS = wire.aggregated("disks", "name,description,zone,creationTimestamp,users")


class Surroundings:
    """Clusters and leftovers of one project."""

    def __init__(self, name: str, config: GcpConfig, api: Api) -> None:
        self._name, self._config, self._api = name, config, api
        self._firewalls = f"{api.project}/global/firewalls"
        self._owners: dict[tuple[str, str, str], str] = {}  # of leftovers as they were found

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """See `Provider.open_cluster`: a rule that lets ssh in to machines with the cluster's tag."""
        rule = names.cluster_name(order.owner, order.cluster_id)
        specific = {"tag": rule, "owner": order.owner}
        if self._config.firewall:
            specific["firewall"] = rule
            if await self._rule(rule, order.owner, order.cluster_id) is None:
                await self._make_rule(rule, order)
        return ClusterHandle(
            cluster_id=order.cluster_id,
            provider=self._name,
            region=order.region,
            ssh_user=self._config.ssh_user,
            specific=specific,
        )

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """See `Provider.close_cluster`."""
        rule = cluster.specific.get("firewall")
        if rule and await self._rule(rule, cluster.specific.get("owner", ""), cluster.cluster_id) is not None:
            await self._delete("firewalls.delete", f"{self._firewalls}/{rule}")

    async def leftovers(self, owner: str) -> Leftovers:
        """See `Provider.leftovers`."""
        found, unreachable, scopes = list[Leftover](), set[str](), list[str]()
        failed: list[ProviderError] = []
        for what, list_of in (("disks", self._disks), ("firewall rules", self._rules)):
            try:
                listed = await list_of(owner)
            except ProviderError as error:
                failed.append(error)
                unreachable.add(what)
            else:
                found += listed.found
                unreachable |= set(listed.unreachable)
                scopes += listed.scopes
        if len(failed) == 2:
            raise failed[0]
        others = {one: whose for one, whose in self._owners.items() if whose != owner}
        self._owners = others | {(one.kind, one.handle.ref, one.handle.zone): owner for one in found}
        return Leftovers(
            found=tuple(found),
            complete=not unreachable,
            unreachable=tuple(sorted(unreachable)),
            scopes=tuple(scopes) if unreachable else (),
        )

    async def remove(self, leftover: Leftover) -> None:
        """See `Provider.remove`."""
        handle, path = leftover.handle, ""
        match leftover.kind:
            case "disk":
                call, path = "disks", f"{self._api.project}/zones/{handle.zone}/disks/{handle.ref}"
            case "group":
                call, path = "firewalls", f"{self._firewalls}/{handle.ref}"
            case kind:
                raise ProviderError(Fault.REJECTED, f"{self._name} makes no {kind}")
        try:
            found = (await self._api.read(f"{call}.get", path)).json()
        except ProviderError as error:
            if error.fault is Fault.GONE:
                return
            raise
        marks = names.marks_of(found.get("description"))
        owner = self._owners.get((leftover.kind, handle.ref, handle.zone))
        told = (leftover.key, leftover.cluster_id)
        if marks is None or (marks.key, marks.cluster) != told or owner not in (None, marks.owner):
            raise ProviderError(Fault.REJECTED, f"{handle.ref} is not marked as ours")
        if found.get("users"):
            raise ProviderError(Fault.CONFLICT, f"{handle.ref} is in use")
        await self._delete(f"{call}.delete", path)

    # --- firewall rules ---------------------------------------------------------------------------

    async def _rule(self, rule: str, owner: str, cluster_id: str) -> Mapping[str, Any] | None:
        """The cluster's rule. Raises ProviderError(conflict) when one of that name is not ours."""
        try:
            found: Mapping[str, Any] = (
                await self._api.read("firewalls.get", f"{self._firewalls}/{rule}")
            ).json()
        except ProviderError as error:
            if error.fault is Fault.GONE:
                return None
            raise
        if names.marks_of(found.get("description")) != names.Marks(owner=owner, cluster=cluster_id):
            raise ProviderError(Fault.CONFLICT, f"firewall rule {rule} is not ours")
        return found

    async def _make_rule(self, rule: str, order: ClusterOrder) -> None:
        body = {
            "name": rule,
            "description": names.Marks(owner=order.owner, cluster=order.cluster_id).text(),
            "network": wire.network(self._config),
            "direction": "INGRESS",
            "sourceRanges": list(self._config.firewall_sources),
            "targetTags": [rule],
            "allowed": [{"IPProtocol": "tcp", "ports": [str(self._config.ssh_port)]}],
        }
        try:
            # A token per call: a cluster may be closed and opened again, and then this is no repetition.
            answer = await self._api.write(
                "firewalls.insert",
                "POST",
                self._firewalls,
                query={"requestId": str(uuid.uuid4())},
                json=body,
                making=True,
            )
            operation = await self._api.wait(answer.json(), within_s=RULE_WITHIN_S)
            failed = operation_failure(self._name, "firewalls.insert", operation)
        except ProviderError as error:
            failed = error
        if failed is None:
            return
        if failed.fault is Fault.CONFLICT and await self._rule(rule, order.owner, order.cluster_id):
            return
        raise failed

    async def _rules(self, owner: str) -> Leftovers:
        found = list[Leftover]()
        for page in await self._api.pages("firewalls.list", self._firewalls):
            for rule in page.json.get("items") or ():
                marks = names.marks_of(rule.get("description"))
                if marks is not None and marks.owner == owner:
                    handle = Handle(provider=self._name, ref=rule["name"])
                    found.append(
                        Leftover(
                            kind="group",
                            handle=handle,
                            cluster_id=marks.cluster,
                            created_at=wire.seconds(rule["creationTimestamp"]),
                        )
                    )
        return Leftovers(found=tuple(found), scopes=("/group",))

    # --- disks ------------------------------------------------------------------------------------

    async def _disks(self, owner: str) -> Leftovers:
        found, scopes = list[Leftover](), Scopes()
        path = f"{self._api.project}/aggregated/disks"
        query = {"filter": f'labels.{names.OWNER} = "{names.label(owner)}"', "fields": DISKS}
        for page in await self._api.pages("disks.aggregatedList", path, query):
            scopes.read(page.json)
            for scope in (page.json.get("items") or {}).values():
                for disk in scope.get("disks") or ():
                    marks = names.marks_of(disk.get("description"))
                    if marks is not None and marks.owner == owner:
                        zone = last(disk.get("zone"))
                        found.append(
                            Leftover(
                                kind="disk",
                                handle=Handle(
                                    provider=self._name, ref=disk["name"], region=_region(zone), zone=zone
                                ),
                                key=marks.key,
                                cluster_id=marks.cluster,
                                created_at=wire.seconds(disk["creationTimestamp"]),
                                in_use=bool(disk.get("users")),
                            )
                        )
        return Leftovers(
            found=tuple(found),
            unreachable=tuple(scopes.hidden),
            scopes=tuple(f"{region}/disk" for region in scopes.whole_regions(_region)),
        )

    async def _delete(self, call: str, path: str) -> None:
        try:
            answer = await self._api.write(call, "DELETE", path, query={"requestId": str(uuid.uuid4())})
            operation = await self._api.wait(answer.json(), within_s=REMOVE_WITHIN_S)
        except ProviderError as error:
            if error.fault is Fault.GONE:
                return
            raise
        if (failed := operation_failure(self._name, call, operation)) is not None:
            raise failed


def _region(zone: str) -> str:
    """The region of a disk's zone, as zones are named: the same in every listing, whatever else is known."""
    return zone.rpartition("-")[0]
