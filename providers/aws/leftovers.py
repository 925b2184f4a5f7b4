"""What is ours and no machine: volumes, network interfaces, groups, keys, templates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio

from providers.aws.clients import Clients
from providers.aws.config import AwsConfig
from providers.aws.wire import CLUSTER, KEY, OWNER, filters, tag_filter, tags_of
from providers.errors import Fault, ProviderError
from providers.model import MICRO, Handle, Leftover, LeftoverKind, Leftovers

HOURS_A_MONTH = 730
# Dollars of us-east-1, to show what it is about: https://aws.amazon.com/ebs/pricing/
USD_PER_GB_MONTH = 0.08


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of thing is listed and removed."""

    kind: LeftoverKind
    listing: str
    field: str  # of the answer
    ref: str  # field of the thing
    filter: str  # for one of them
    removal: str
    pages: bool = True


_KINDS = (
    _Kind("volume", "describe_volumes", "Volumes", "VolumeId", "volume_id", "delete_volume"),
    _Kind(
        "network",
        "describe_network_interfaces",
        "NetworkInterfaces",
        "NetworkInterfaceId",
        "network_interface_id",
        "delete_network_interface",
    ),
    _Kind(
        "template",
        "describe_launch_templates",
        "LaunchTemplates",
        "LaunchTemplateId",
        "",
        "delete_launch_template",
    ),
    _Kind(
        "key", "describe_key_pairs", "KeyPairs", "KeyPairId", "key_pair_id", "delete_key_pair", pages=False
    ),
    _Kind(
        "group", "describe_security_groups", "SecurityGroups", "GroupId", "group_id", "delete_security_group"
    ),
)


class LeftBehind:
    """Finds them by our mark and removes them."""

    def __init__(self, name: str, clients: Clients, config: AwsConfig) -> None:
        self._name, self._clients, self._config = name, clients, config

    async def found(self, owner: str) -> Leftovers:
        """See `Provider.leftovers`. What can't be read of one kind in one region is no scope."""
        found: dict[tuple[str, LeftoverKind], list[Leftover]] = {}
        failures: list[ProviderError] = []

        async def one(region: str) -> None:
            for kind in _KINDS:
                try:
                    things = await self._things(region, kind, [_owned(owner)])
                except ProviderError as error:
                    failures.append(error)
                    continue
                found[region, kind.kind] = [self._leftover(region, kind, thing) for thing in things]

        async with anyio.create_task_group() as reading:
            for region in self._config.regions:
                reading.start_soon(one, region)
        if not found:
            raise failures[0]
        wanted = [(region, kind.kind) for region in self._config.regions for kind in _KINDS]
        return Leftovers(
            found=tuple(left for scope in wanted for left in found.get(scope, ())),
            complete=not failures,
            unreachable=tuple(sorted({region for region, kind in wanted if (region, kind) not in found})),
            scopes=tuple(f"{region}/{kind}" for region, kind in wanted if (region, kind) in found),
        )

    async def remove(self, leftover: Leftover, owners: set[str]) -> None:
        """See `Provider.remove`. What is not marked with one of `owners` is never touched.

        Raises:
            ProviderError: rejected (it is not ours), conflict (in use), or what the call failed with.
        """
        handle = leftover.handle
        kind = next((one for one in _KINDS if one.kind == leftover.kind), None)
        if kind is None or not handle.region:
            raise ProviderError(
                Fault.REJECTED, f"a {leftover.kind} in {handle.region!r} is none of aws's here"
            )
        try:
            if kind.filter:
                things = await self._things(handle.region, kind, filters(**{kind.filter: handle.ref}))
            else:
                things = await self._things(handle.region, kind, [], LaunchTemplateIds=[handle.ref])
            if not things:
                return
            if tags_of(things[0]).get(OWNER) not in owners:
                raise ProviderError(Fault.REJECTED, f"{handle.ref} is not marked as ours")
            what: dict[str, Any] = {kind.ref: handle.ref}
            await self._clients.call("ec2", handle.region, kind.removal, **what)
        except ProviderError as error:
            if error.fault is not Fault.GONE:
                raise

    async def _things(
        self, region: str, kind: _Kind, wanted: Sequence[Mapping[str, Any]], **more: Any
    ) -> list[Mapping[str, Any]]:
        parameters = {"Filters": wanted, **more} if wanted else more
        if not kind.pages:
            reply = await self._clients.call("ec2", region, kind.listing, **parameters)
            return list(reply.data[kind.field])
        things: list[Mapping[str, Any]] = []
        async for page in self._clients.pages("ec2", region, kind.listing, **parameters):
            things += page.data[kind.field]
        return things

    def _leftover(self, region: str, kind: _Kind, thing: Mapping[str, Any]) -> Leftover:
        tags, dollars = tags_of(thing), 0.0
        if kind.kind == "volume":
            dollars = float(thing.get("Size", 0)) * USD_PER_GB_MONTH / HOURS_A_MONTH
        created = thing.get("CreateTime")
        return Leftover(
            kind=kind.kind,
            handle=Handle(
                provider=self._name,
                ref=str(thing[kind.ref]),
                region=region,
                zone=str(thing.get("AvailabilityZone") or ""),
            ),
            key=tags.get(KEY, ""),
            cluster_id=tags.get(CLUSTER, ""),
            created_at=_seconds(created) if isinstance(created, datetime) else None,
            micro_usd_per_hour=round(dollars * MICRO),
            in_use=_in_use(thing),
        )


def _owned(owner: str) -> Mapping[str, Any]:
    return tag_filter(OWNER, owner)


def _in_use(thing: Mapping[str, Any]) -> bool:
    state = thing.get("State", thing.get("Status"))
    return state in ("in-use", "attaching")


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
