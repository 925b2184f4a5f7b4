"""What machines of ours there are: listings, and who is who in a fleet that was made by one call."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from providers.aws.clients import Clients
from providers.aws.config import AwsConfig
from providers.aws.wire import (
    BATCH,
    KEY,
    OWNER,
    Place,
    Tags,
    as_tags,
    assign,
    batch_keys,
    filters,
    key_of,
    literal,
    machines_marks,
    tag_filter,
    tags_of,
)
from providers.errors import Fault, ProviderError
from providers.model import Lifecycle

FLEET_ID = (
    "aws:ec2:fleet-id"  # aws's own tag: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/tag-fleet.html
)
PAGE = 1000
RESOURCES_MAX = 500  # of one CreateTags
Instance = Mapping[str, Any]
_log = structlog.get_logger("providers.aws")


class Seen:
    """Instances of one region at one moment, with their launch keys; `at` by the vendor's clock."""

    def __init__(self) -> None:
        self.instances: list[tuple[str, Instance]] = []
        self.at: float | None = None


class Machines:
    """Reads machines by their marks."""

    def __init__(self, name: str, clients: Clients, config: AwsConfig) -> None:
        self._name, self._clients, self._config = name, clients, config

    def place(self, region: str) -> Place:
        """What `wire.sighting` needs besides the listing."""
        return Place(self._name, region, self._config.ssh_port, self._config.private_address)

    async def listed(self, region: str, owner: str) -> Seen:
        """All machines of an owner. Raises ProviderError, also when one can't be told apart from another."""
        return await self._seen(region, [tag_filter(OWNER, owner)])

    async def with_keys(self, region: str, owner: str, keys: Sequence[str]) -> dict[str, list[Instance]]:
        """Machines launched under these keys of one owner, ended ones also. Raises ProviderError."""
        wanted = [{"Name": f"tag:{KEY}", "Values": [literal(key) for key in keys]}]
        found: dict[str, list[Instance]] = {}
        for key, instance in (await self._seen(region, wanted)).instances:
            found.setdefault(key, []).append(instance)
        if len(found) < len(set(keys)):  # the rest may be among those that were made several by one call
            wanted = [tag_filter(OWNER, owner), {"Name": "tag-key", "Values": [BATCH]}]
            for key, instance in (await self._seen(region, wanted)).instances:
                if key in keys:
                    found.setdefault(key, []).append(instance)
        return found

    async def by_ref(self, region: str, refs: Sequence[str]) -> list[tuple[str, Instance]]:
        """Those of these machines that are there, of whatever owner: key, instance. Raises ProviderError."""
        return (await self._seen(region, filters(instance_id=refs), any_owner=True)).instances

    async def write_down(
        self, region: str, tags: Tags, machines: Mapping[Lifecycle, Sequence[str]]
    ) -> list[str]:
        """Give a fleet's machines their keys, for all to see: one call for all of them.

        Args:
            tags: that the fleet's machines have had since they were made.
            machines: all that the fleet made.

        Returns: machines in the order of the fleet's keys, "" where there is none. Whoever does this comes to
        the same, so that it does no harm when two do.
        """
        refs = sorted(ref for some in machines.values() for ref in some)
        assigned = assign(batch_keys(tags), machines)
        marks = as_tags(machines_marks(assigned))
        for start in range(0, len(refs), RESOURCES_MAX):
            await self._clients.call(
                "ec2", region, "create_tags", Resources=refs[start : start + RESOURCES_MAX], Tags=marks
            )
        return assigned

    async def _seen(self, region: str, wanted: list[dict[str, Any]], *, any_owner: bool = False) -> Seen:
        seen, nameless = Seen(), dict[str, list[Instance]]()
        async for page in self._clients.pages(
            "ec2", region, "describe_instances", Filters=wanted, MaxResults=PAGE
        ):
            seen.at = page.at if seen.at is None else seen.at
            for reservation in page.data["Reservations"]:
                for instance in reservation["Instances"]:
                    tags = tags_of(instance)
                    if OWNER not in tags:
                        if any_owner:
                            seen.instances.append(("", instance))
                        continue
                    key = key_of(instance, tags)
                    if key is None:
                        nameless.setdefault(tags.get(FLEET_ID, ""), []).append(instance)
                    else:
                        seen.instances.append((key, instance))
        for fleet, instances in nameless.items():
            seen.instances += await self._named(region, fleet, instances)
        return seen

    async def _named(
        self, region: str, fleet: str, instances: Sequence[Instance]
    ) -> list[tuple[str, Instance]]:
        """Name machines whose maker died before it could: the fleet itself knows all that it made."""
        tags = tags_of(instances[0])
        machines: dict[Lifecycle, list[str]] = {}
        if fleet:
            reply = await self._clients.call("ec2", region, "describe_fleets", FleetIds=[fleet])
            for one in reply.data["Fleets"][0].get("Instances", ()) if reply.data["Fleets"] else ():
                lifecycle: Lifecycle = "spot" if one.get("Lifecycle") == "spot" else "on_demand"
                machines.setdefault(lifecycle, []).extend(one["InstanceIds"])
        known = {ref for some in machines.values() for ref in some}
        if not known.issuperset(str(instance["InstanceId"]) for instance in instances):
            raise ProviderError(Fault.UNKNOWN, f"fleet {fleet!r} does not tell which machines it made")
        _log.info(
            "machines of a fleet are given their keys", provider=self._name, fleet=fleet, machines=len(known)
        )
        assigned = await self.write_down(region, tags, machines)
        named = tags | machines_marks(assigned)
        return [(key_of(instance, named) or "", instance) for instance in instances]
