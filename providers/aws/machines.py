"""What machines of ours there are: listings, and who is who in a fleet that was made by one call."""

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
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
    launched_at,
    literal,
    machines_marks,
    nobodys_key,
    state_of,
    tag_filter,
    tags_of,
)
from providers.errors import Fault, ProviderError
from providers.model import Lifecycle

FLEET_ID = (
    "aws:ec2:fleet-id"  # aws's own tag: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/tag-fleet.html
)
PAGE = 100  # botocore reads a thousand machines in 0.4 s, and nothing else runs meanwhile
RESOURCES_MAX = 500  # of one CreateTags
DOUBT_S = 3600.0  # for so long a fleet may yet tell which machines are its
FLEETS_MAX = 1000
ENDED = ("shutting-down", "terminated")
Instance = Mapping[str, Any]
_log = structlog.get_logger("providers.aws")


class Seen:
    """Instances of one region at one moment, with their launch keys; `at` by the vendor's clock.

    Left out are machines of a fleet that can't tell yet which are its: each may have any of the keys in
    `doubtful`, and without them the region is not read whole.
    """

    def __init__(self) -> None:
        self.instances: list[tuple[str, Instance]] = []
        self.at: float | None = None
        self.doubtful: set[str] = set()

    @property
    def whole(self) -> bool:
        """Whether it shows all that is there."""
        return not self.doubtful


@dataclass(slots=True)
class _Shared:
    """A listing for all that ask while another is being read. Moments are numbered."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    moment: int = 0
    begun: int = -1  # of the last one
    seen: Seen | ProviderError = field(default_factory=Seen)


class Machines:
    """Reads machines by their marks."""

    def __init__(self, name: str, clients: Clients, config: AwsConfig) -> None:
        self._name, self._clients, self._config = name, clients, config
        self._batches = defaultdict[tuple[str, str], _Shared](_Shared)
        self._fleets: OrderedDict[str, Mapping[Lifecycle, Sequence[str]]] = OrderedDict()  # that have told

    def place(self, region: str) -> Place:
        """What `wire.sighting` needs besides the listing."""
        return Place(self._name, region, self._config.ssh_port, self._config.private_address)

    async def listed(self, region: str, owner: str) -> Seen:
        """All machines of an owner. Raises ProviderError."""
        return await self._seen(region, [tag_filter(OWNER, owner)])

    async def with_keys(self, region: str, owner: str, keys: Sequence[str]) -> dict[str, list[Instance]]:
        """Machines launched under these keys of one owner, ended ones also.

        Raises ProviderError, also when one of them may be there and can't be told apart from another.
        """
        wanted = [{"Name": f"tag:{KEY}", "Values": [literal(key) for key in keys]}]
        found: dict[str, list[Instance]] = {}
        for key, instance in (await self._seen(region, wanted)).instances:
            found.setdefault(key, []).append(instance)
        if len(found) < len(set(keys)):  # the rest may be among those that were made several by one call
            seen = await self._in_batches(region, owner)
            for key, instance in seen.instances:
                if key in keys:
                    found.setdefault(key, []).append(instance)
            if not seen.doubtful.isdisjoint(set(keys) - set(found)):
                raise ProviderError(Fault.UNKNOWN, f"a fleet in {region} does not tell its machines yet")
        return found

    async def _in_batches(self, region: str, owner: str) -> Seen:
        """All machines of an owner that were made several by one call: no filter finds one of their keys.

        Those who ask while a listing is read share the next: one that began before proves nothing to them.
        """
        shared = self._batches[region, owner]
        asked, shared.moment = shared.moment, shared.moment + 1
        async with shared.lock:
            if shared.begun < asked:
                begun, shared.moment = shared.moment, shared.moment + 1
                wanted = [tag_filter(OWNER, owner), {"Name": "tag-key", "Values": [BATCH]}]
                try:
                    shared.seen = await self._seen(region, wanted)
                except ProviderError as error:
                    shared.seen = error
                shared.begun = begun
            seen = shared.seen
            if not shared.lock.statistics().tasks_waiting:
                shared.begun, shared.seen = -1, Seen()  # it may be large
        if isinstance(seen, ProviderError):
            raise seen
        return seen

    async def by_ref(self, region: str, refs: Sequence[str]) -> list[tuple[str, Instance]]:
        """Those of these machines that are there, of whatever owner: key, instance. Raises ProviderError."""
        return (await self._seen(region, filters(instance_id=refs), any_owner=True)).instances

    async def write_down(
        self,
        region: str,
        tags: Tags,
        machines: Mapping[Lifecycle, Sequence[str]],
        there: Collection[str] | None = None,
    ) -> list[str]:
        """Give a fleet's machines their keys, for all to see: one call for all of them.

        Args:
            tags: that the fleet's machines have had since they were made.
            machines: all that the fleet made.
            there: those that are told; None: all. One that aws has forgotten would fail the call for all.

        Returns: machines in the order of the fleet's keys, "" where there is none. Whoever does this comes to
        the same, so that it does no harm when two do.
        """
        refs = sorted(ref for some in machines.values() for ref in some if there is None or ref in there)
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
            await self._name_all(region, fleet, instances, seen)
        return seen

    async def _name_all(self, region: str, fleet: str, instances: Sequence[Instance], seen: Seen) -> None:
        """Name machines whose maker died before it could: the fleet itself knows all that it made.

        When it can't be told, they get keys that nobody wants, so that the sweep ends them. Not at once: a
        fleet may be too new to be known everywhere, or can't be asked just now.
        """
        tags = tags_of(instances[0])
        refs = [str(instance["InstanceId"]) for instance in instances]
        wait_s = self._config.visible_within_s
        try:
            machines = await self._made_by(region, fleet) if fleet else {}
        except ProviderError as error:
            _log.warning("a fleet can't be asked", provider=self._name, fleet=fleet, why=str(error))
            machines = {}
            if error.fault in (Fault.THROTTLED, Fault.NOT_SENT, Fault.UNKNOWN):
                wait_s = max(wait_s, DOUBT_S)
        if machines and {ref for some in machines.values() for ref in some}.issuperset(refs):
            living = [str(one["InstanceId"]) for one in instances if state_of(one) not in ENDED]
            named = tags | machines_marks(assign(batch_keys(tags), machines))
            seen.instances += [(key_of(instance, named) or "", instance) for instance in instances]
            self._fleets[fleet] = machines
            while len(self._fleets) > FLEETS_MAX:
                self._fleets.popitem(last=False)
            await self._try_to_write_down(region, fleet, tags, machines, living)
            return
        keys = {key for _, key in batch_keys(tags)}
        for ref, instance in zip(refs, instances, strict=True):
            if keys and seen.at is not None and seen.at - launched_at(instance) < wait_s:
                seen.doubtful |= keys
            else:
                seen.instances.append((nobodys_key(ref, tags), instance))

    async def _made_by(self, region: str, fleet: str) -> Mapping[Lifecycle, Sequence[str]]:
        """All machines that a fleet made; nothing when it says so, or is gone. Raises ProviderError."""
        if fleet in self._fleets:
            return self._fleets[fleet]
        machines: dict[Lifecycle, list[str]] = {}
        try:
            reply = await self._clients.call("ec2", region, "describe_fleets", FleetIds=[fleet])
        except ProviderError as error:
            if error.fault is Fault.GONE:
                return machines
            raise
        for one in reply.data["Fleets"][0].get("Instances", ()) if reply.data["Fleets"] else ():
            lifecycle: Lifecycle = "spot" if one.get("Lifecycle") == "spot" else "on_demand"
            machines.setdefault(lifecycle, []).extend(one["InstanceIds"])
        return machines

    async def _try_to_write_down(
        self,
        region: str,
        fleet: str,
        tags: Tags,
        machines: Mapping[Lifecycle, Sequence[str]],
        living: Collection[str],
    ) -> None:
        """Write names down that whoever asks the fleet comes to as well: the next listing tries again."""
        if not living:
            return
        try:
            await self.write_down(region, tags, machines, living)
        except ProviderError as error:
            _log.warning(
                "machines of a fleet can't be given their keys",
                provider=self._name,
                fleet=fleet,
                why=str(error),
            )
        else:
            _log.info(
                "machines of a fleet are given their keys",
                provider=self._name,
                fleet=fleet,
                machines=len(living),
            )
