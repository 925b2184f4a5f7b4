"""How machines are made: one call for one machine, or one call for several.

A machine's host key is in its user data, and all machines of one call have the same user data. Machines of
one call could then read each other's host keys and pass for each other. So an order that brings a host key
is a call of its own, RunInstances or, for a fleet's offer, CreateFleet of one: that is `launch_batch = 1`.
With a greater `launch_batch` we hand in no host keys: each machine makes its own, which is pinned when it is
first seen (`Capabilities.host_keys` says so, and orders come without). That trust on first use is the price
of a hundred machines by one call, where the vendor's limit is two calls a second.

Which machine of such a call is whose: RunInstances numbers them (AmiLaunchIndex), and the tags they are born
with have all keys in that order. CreateFleet does not, so that machines and keys are put into an order and
written onto all machines at once, see `Machines.write_down`.

What runs on a machine can read that machine's user data, and so its own host key: it could show it elsewhere,
and is believed to be that machine and no other.
"""

from base64 import b64encode
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import ceil
from typing import Any

import anyio

from providers.aws.clients import Clients
from providers.aws.config import FLEET_OVERRIDES_MAX, AwsConfig, FleetConfig
from providers.aws.faults import AwsError, fault_of
from providers.aws.images import Image, Images
from providers.aws.machines import ENDED, Instance, Machines
from providers.aws.offers import Kind, Offers
from providers.aws.places import Networks
from providers.aws.wire import (
    ANY_ZONE,
    FLEET_PREFIX,
    SUBNET,
    TEMPLATE,
    VPC,
    Tags,
    check_key,
    digest,
    fits,
    handle_of,
    machine_marks,
    specification,
    state_of,
    user_data,
)
from providers.errors import Fault, ProviderError
from providers.model import MICRO, ClusterHandle, Handle, Lifecycle, Order
from providers.redaction import log_unknown_answer

Outcome = Handle | ProviderError
NEW_MAX = 10_000
# Of several things that kept a fleet from making a machine, the one to act on: the first of these.
_WEIGHTIEST = (
    Fault.CREDENTIALS,
    Fault.FUNDS,
    Fault.UNKNOWN,
    Fault.QUOTA,
    Fault.THROTTLED,
    Fault.CAPACITY,
    Fault.CONFLICT,
    Fault.REJECTED,
)


class Launcher:
    """Makes machines for orders."""

    def __init__(
        self,
        name: str,
        clients: Clients,
        config: AwsConfig,
        images: Images,
        machines: Machines,
        parts: tuple[Offers, Networks],
    ) -> None:
        self._name, self._clients, self._config = name, clients, config
        self._images, self._machines = images, machines
        self._offers, self._networks = parts
        self._fleets = {f"{FLEET_PREFIX}{fleet.name}": fleet for fleet in config.fleets}
        self._busy: dict[str, anyio.Event] = {}  # keys that are being launched
        self._new: OrderedDict[str, tuple[float, Handle]] = OrderedDict()  # launched lately, perhaps unlisted

    async def launch(self, orders: Sequence[Order]) -> list[Outcome]:
        """See `Provider.launch`."""
        by_key = {order.key: order for order in reversed(orders)}
        outcomes: dict[str, Outcome] = {}
        async with anyio.create_task_group() as launching:
            for group in self._groups(by_key.values()):
                launching.start_soon(self._group, group, outcomes)
        return [outcomes[order.key] for order in orders]

    def _groups(self, orders: Iterable[Order]) -> list[list[Order]]:
        """Which orders share a call."""
        groups: dict[object, list[list[Order]]] = {}
        for order in sorted(orders, key=lambda one: one.key):
            some = groups.setdefault(self._alike(order), [[]])
            if len(some[-1]) >= self._config.launch_batch or not fits([*some[-1], order]):
                some.append([])
            some[-1].append(order)
        return [group for some in groups.values() for group in some if group]

    def _alike(self, order: Order) -> object:
        if order.host_key or self._config.launch_batch == 1:
            return order.key
        market = order.offer.market
        fleet = market.instance_type in self._fleets
        return (
            market.model_copy(update={"lifecycle": "spot"}) if fleet else market,
            None if fleet else order.offer.micro_usd_per_hour,
            (order.cluster.cluster_id, order.micro_usd_per_hour_max),
            (order.owner, order.pool, order.epoch, order.image, order.disk_gb),
        )

    async def _group(self, group: list[Order], outcomes: dict[str, Outcome]) -> None:
        async with self._alone(sorted(order.key for order in group)):
            try:
                made = await self._made(group)
                self._remember(made)
                outcomes.update(made)
            except ProviderError as error:
                outcomes.update({order.key: error for order in group})

    @asynccontextmanager
    async def _alone(self, keys: Sequence[str]) -> AsyncGenerator[None]:
        """Wait until no other call launches any of these keys. Taken in order, so none waits for ever."""
        taken: list[str] = []
        try:
            for key in keys:
                while (busy := self._busy.get(key)) is not None:
                    await busy.wait()
                self._busy[key] = anyio.Event()
                taken.append(key)
            yield
        finally:
            for key in taken:
                self._busy.pop(key).set()

    async def _made(self, group: list[Order]) -> Mapping[str, Outcome]:
        first, outcomes = group[0], dict[str, Outcome]()
        region = first.offer.region
        for order in group:
            check_key(order)
        if first.cluster.region != region or TEMPLATE not in first.cluster.specific:
            raise ProviderError(Fault.REJECTED, f"the cluster is not of {region}")
        fleet = first.offer.instance_type.name.startswith(FLEET_PREFIX)
        if fleet or self._config.launch_batch > 1:
            # A token answers the same call again: but a key may come in other company now, and a fleet's
            # answer does not say whether its machine has ended since.
            there = await self._machines.with_keys(region, first.owner, [order.key for order in group])
            for order in group:
                if order.key in there:
                    outcomes[order.key] = self._outcome(order, region, there[order.key])
                elif (new := self._lately(order.key)) is not None:
                    outcomes[order.key] = new
            group = [order for order in group if order.key not in outcomes]
        if group:
            make = self._by_fleet if fleet else self._by_run
            try:
                outcomes.update(await make(region, group))
            except AwsError as error:
                outcomes.update(await self._explained(region, group, error))
        return outcomes

    def _lately(self, key: str) -> Handle | None:
        """The machine of a key that we launched so lately that a listing may lack it."""
        at, handle = self._new.get(key, (0.0, None))
        return handle if anyio.current_time() - at < self._config.visible_within_s else None

    def _remember(self, outcomes: Mapping[str, Outcome]) -> None:
        for key, outcome in outcomes.items():
            if isinstance(outcome, Handle):
                self._new[key] = (anyio.current_time(), outcome)
        while len(self._new) > NEW_MAX:
            self._new.popitem(last=False)

    def _outcome(self, order: Order, region: str, instances: Sequence[Instance]) -> Outcome:
        living = [one for one in instances if state_of(one) not in ENDED]
        if not living:
            return ProviderError(Fault.GONE, f"the machine of {order.key} has ended")
        return handle_of(living[0], self._machines.place(region))

    async def _explained(self, region: str, group: Sequence[Order], error: AwsError) -> dict[str, Outcome]:
        """What an error means for each key. A token that was used otherwise has its machine already."""
        outcomes: dict[str, Outcome] = {order.key: error for order in group}
        if error.fault is Fault.CONFLICT and len(group) == 1:
            key = group[0].key
            try:
                found = (await self._machines.with_keys(region, group[0].owner, [key])).get(key)
            except ProviderError as blind:
                # Why we can't see it says nothing of the launch: the machine is most likely there.
                text = f"{error.detail}; what there is can't be seen: {blind.detail}"
                return {key: ProviderError(Fault.UNKNOWN, text, blind.retry_after_s)}
            if found:
                outcomes[key] = self._outcome(group[0], region, found)
        elif error.fault is Fault.GONE and error.code != "IdempotentInstanceTerminated":
            # The group, key or template is gone, and not the machine: there never was one.
            outcomes = {order.key: ProviderError(Fault.REJECTED, error.detail) for order in group}
        return outcomes

    async def _by_run(self, region: str, group: list[Order]) -> dict[str, Outcome]:
        """RunInstances: as many as there are, in the order of their keys."""
        first, zone = group[0], group[0].offer.zone
        subnet = (await self._subnets(first.cluster, [zone])).get(zone)
        if subnet is None:
            raise ProviderError(Fault.REJECTED, f"there is no subnet in zone {zone!r} of {region}")
        shape = first.offer.instance_type
        image = await self._images.image(region, first.image, shape.architecture)
        marks = machine_marks(group, self._config.tags, "run")
        kinds = ["instance", "volume", "network-interface"]
        request: dict[str, Any] = {}
        if first.offer.lifecycle == "spot":
            kinds.append("spot-instances-request")
            spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot | self._cap(first)}
        reply = await self._clients.call(
            "ec2",
            region,
            "run_instances",
            ClientToken=digest(*(order.key for order in group)),
            MinCount=1,
            MaxCount=len(group),
            ImageId=image.id,
            InstanceType=shape.name,
            SubnetId=subnet,
            LaunchTemplate={"LaunchTemplateId": first.cluster.specific[TEMPLATE], "Version": "$Default"},
            UserData=user_data(first.host_key if len(group) == 1 else ""),
            BlockDeviceMappings=self._disks(first, image),
            TagSpecifications=specification(kinds, marks),
            **request,
        )
        made = {int(one.get("AmiLaunchIndex", 0)): one for one in reply.data["Instances"]}
        none = ProviderError(Fault.CAPACITY, f"{len(made)} of {len(group)} machines were there to be had")
        return {
            order.key: self._outcome(order, region, [made[index]]) if index in made else none
            for index, order in enumerate(group)
        }

    async def _by_fleet(self, region: str, group: list[Order]) -> dict[str, Outcome]:
        """CreateFleet of type instant: of several types, zones and lifecycles, what there is."""
        first = group[0]
        fleet = self._fleets.get(first.offer.instance_type.name)
        if fleet is None or first.offer.zone != ANY_ZONE:
            raise ProviderError(
                Fault.REJECTED, f"there is no {first.offer.instance_type.name} in this config"
            )
        marks = machine_marks(group, self._config.tags, "fleet")
        members = await self._offers.members(region, fleet)
        subnets = await self._subnets(first.cluster, [zone for kind in members for zone in kind.zones])
        overrides = await self._overrides(fleet, first, members, subnets)
        wanted = {lifecycle: _count(group, lifecycle) for lifecycle in ("spot", "on_demand")}
        told = user_data(first.host_key if len(group) == 1 else "")
        template = {
            "LaunchTemplateId": first.cluster.specific[TEMPLATE],
            "Version": "$Default",
            # botocore encodes what RunInstances is told, and this not.
            "LaunchTemplateSpecificationUserData": b64encode(told.encode()).decode(),
        }
        reply = await self._clients.call(
            "ec2",
            region,
            "create_fleet",
            ClientToken=digest(*(order.key for order in group)),
            Type="instant",
            LaunchTemplateConfigs=[{"LaunchTemplateSpecification": template, "Overrides": overrides}],
            TargetCapacitySpecification={
                "TotalTargetCapacity": len(group),
                "SpotTargetCapacity": wanted["spot"],
                "OnDemandTargetCapacity": wanted["on_demand"],
                "DefaultTargetCapacityType": "spot" if wanted["spot"] else "on-demand",
            },
            SpotOptions={"AllocationStrategy": fleet.strategy, "InstanceInterruptionBehavior": "terminate"},
            OnDemandOptions={"AllocationStrategy": "lowest-price"},
            TagSpecifications=specification(["fleet", "instance"], marks),
        )
        made: dict[Lifecycle, list[str]] = {}
        zones: dict[str, str] = {}
        zone_of = {subnet: zone for zone, subnet in subnets.items()}
        for one in reply.data.get("Instances", ()):
            made.setdefault("spot" if one.get("Lifecycle") == "spot" else "on_demand", []).extend(
                one["InstanceIds"]
            )
            override = (one.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
            zone = one.get("AvailabilityZone") or zone_of.get(override.get("SubnetId", ""), "")
            zones.update(dict.fromkeys(one["InstanceIds"], str(zone)))
        if len(group) == 1:
            assigned = [ref for some in made.values() for ref in some] or [""]
        else:
            assigned = await self._written_down(region, marks, made) if made else [""] * len(group)
        faults = {kind: self._fleet_fault(reply.data, kind) for kind in ("spot", "on_demand")}
        return {
            order.key: Handle(provider=self._name, ref=ref, region=region, zone=zones[ref])
            if ref
            else faults[order.offer.lifecycle]
            for order, ref in zip(group, assigned, strict=True)
        }

    async def _written_down(
        self, region: str, marks: Tags, made: Mapping[Lifecycle, Sequence[str]]
    ) -> list[str]:
        try:
            return await self._machines.write_down(region, marks, made)
        except (
            ProviderError
        ) as error:  # the machines are there: who looks for them names them, see `Machines`
            text = f"the machines of a fleet have no keys yet: {error.detail}"
            raise ProviderError(Fault.UNKNOWN, text) from error

    async def _overrides(
        self, fleet: FleetConfig, order: Order, members: Iterable[Kind], subnets: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Each type in each zone, with the image and the disks that it starts from."""
        region = order.offer.region
        found = []
        for kind in members:
            image = await self._images.image(region, order.image, kind.shape.architecture)
            for zone in kind.zones:
                subnet = subnets.get(zone)
                if subnet is None or (fleet.zones and zone not in fleet.zones):
                    continue
                override = {"InstanceType": kind.shape.name, "SubnetId": subnet, "ImageId": image.id}
                disks = self._disks(order, image)
                found.append({**override, **self._cap(order), "BlockDeviceMappings": disks})
        if not found:
            raise ProviderError(Fault.REJECTED, f"fleet {fleet.name!r} has no types in {region}")
        return found[:FLEET_OVERRIDES_MAX]

    async def _subnets(self, cluster: ClusterHandle, zones: Iterable[str]) -> dict[str, str]:
        """The cluster's subnets by zone. Offers know of zones that came after it was opened: for those of
        `zones` that it lacks, what there is now in its vpc, where its group is. Raises ProviderError.
        """
        had = cluster.specific
        found = {name.removeprefix(SUBNET): ref for name, ref in had.items() if name.startswith(SUBNET)}
        if not found.keys() >= set(zones):
            network = await self._networks.network(cluster.region)
            if had.get(VPC) == network.vpc or not set(found.values()).isdisjoint(network.subnets.values()):
                return network.subnets | found
        return found

    def _disks(self, order: Order, image: Image) -> list[dict[str, Any]]:
        """The root disk in the size that is wanted; every disk goes when its machine goes."""
        root, *others = image.devices
        size = max(order.disk_gb or self._config.disk_gb, image.least_gb)
        kind = self._config.disk_type
        ebs = {"VolumeSize": ceil(size), "VolumeType": kind, "DeleteOnTermination": True}
        return [
            {"DeviceName": root, "Ebs": ebs},
            *({"DeviceName": device, "Ebs": {"DeleteOnTermination": True}} for device in others),
        ]

    def _cap(self, order: Order) -> dict[str, str]:
        """The most that a spot machine may cost, by the config and by its pool; the vendor ends it above."""
        factor, most = self._config.spot_max_price_factor, order.micro_usd_per_hour_max
        caps = [] if factor is None else [order.offer.micro_usd_per_hour * factor]
        caps += [] if most is None else [most]
        return {"MaxPrice": f"{min(caps) / MICRO:.6f}"} if caps else {}

    def _fleet_fault(self, answer: Mapping[str, Any], lifecycle: str) -> ProviderError:
        """Why a fleet did not make all machines of a lifecycle."""
        said: dict[Fault, str] = {}
        for one in answer.get("Errors", ()):
            if ("spot" if one.get("Lifecycle") == "spot" else "on_demand") != lifecycle:
                continue
            code, message = str(one.get("ErrorCode", "")), str(one.get("ErrorMessage", ""))
            fault = fault_of(code, message)
            if fault is None:
                log_unknown_answer(self._name, "create_fleet", status=200, code=code, raw=message)
                # The fleet has told all that it made, so that surely nothing was made of this.
                fault = Fault.CAPACITY
            elif fault is Fault.GONE:  # what it was to be made of, as in `_explained`
                fault = Fault.REJECTED
            said.setdefault(fault, f"create_fleet: {code}: {message}"[:300])
        for fault in _WEIGHTIEST:
            if fault in said:
                # No machine is there: what is unknown elsewhere is a refusal here.
                return ProviderError(Fault.CAPACITY if fault is Fault.UNKNOWN else fault, said[fault])
        return ProviderError(Fault.CAPACITY, "the fleet made no machine for this order")


def _count(group: Sequence[Order], lifecycle: str) -> int:
    return sum(order.offer.lifecycle == lifecycle for order in group)
