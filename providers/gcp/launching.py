"""Launches: an insert per machine, or one bulkInsert for many that are alike.

The token of an insert is a UUID made of the launch key, and the machine's name is made of the key too: so a
key launched again is answered with the operation of the first time, or by the name that is taken. Stockouts
are told in the operation, seconds later, so that it is waited for.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio

from providers.errors import Fault, ProviderError
from providers.gcp import names, wire
from providers.gcp.api import Api, last
from providers.gcp.config import BULK_MAX, GcpConfig
from providers.gcp.faults import operation_failure
from providers.model import Handle, Order

LAUNCH_WITHIN_S = 100.0  # from the beginning of a launch, its operation is waited for so long
LAUNCHES_AT_ONCE = 32  # calls under way; many more may be waited for
NAMES_A_FILTER = 20

Outcome = Handle | ProviderError


class Launcher:
    """Launches of one project."""

    def __init__(
        self,
        name: str,
        config: GcpConfig,
        api: Api,
        region_of: Callable[[str], Awaitable[str]],
        learn: Callable[[str, str], None],
        now: Callable[[], float],
    ) -> None:
        self._name, self._config, self._api = name, config, api
        self._region_of, self._learn, self._now = region_of, learn, now
        self._posting = anyio.CapacityLimiter(LAUNCHES_AT_ONCE)

    async def launch(self, orders: Sequence[Order]) -> list[Outcome]:
        """See `Provider.launch`."""
        first = {order.key: order for order in reversed(orders)}  # a key that is named twice is made once
        outcomes: dict[str, Outcome] = {}

        async def alone(order: Order) -> None:
            outcomes[order.key] = await self._guarded(partial(self._insert, order))

        async def together(group: list[Order]) -> None:
            fresh = await self._sorted_out(group, outcomes)
            if len(fresh) >= (self._config.bulk or BULK_MAX):
                outcomes.update(await self._bulk(fresh))
                # Such a name was there already, made by a call whose outcome nobody heard.
                fresh = [order for order in fresh if _conflicts(outcomes[order.key])]
            async with anyio.create_task_group() as inserting:
                for order in fresh:
                    inserting.start_soon(alone, order)

        async with anyio.create_task_group() as launching:
            if self._config.bulk is None:
                for order in first.values():
                    launching.start_soon(alone, order)
            else:
                for group in _alike(first.values()):
                    for start in range(0, len(group), BULK_MAX):
                        launching.start_soon(together, group[start : start + BULK_MAX])
        return [outcomes[order.key] for order in orders]

    async def _guarded(self, work: Callable[[], Awaitable[Handle]]) -> Outcome:
        try:
            return await work()
        except ProviderError as error:
            return error

    # --- one by one -------------------------------------------------------------------------------

    async def _insert(self, order: Order) -> Handle:
        """Make one machine, or find the one that was made of the order. Raises ProviderError."""
        zone, call = order.offer.zone, "instances.insert"
        over_at = anyio.current_time() + LAUNCH_WITHIN_S
        region = await self._region_of(zone)
        body = wire.instance(self._config, order, region=region, tag=tag_of(order))
        try:
            async with self._posting:
                answer = await self._api.write(
                    call,
                    "POST",
                    f"{self._api.project}/zones/{zone}/instances",
                    query={"requestId": names.request_id(order.key)},
                    json=body,
                    making=True,
                )
        except ProviderError as error:
            if error.fault not in (Fault.CONFLICT, Fault.REJECTED):
                raise
            # The machine may be there all the same: so may the token with another body, of another daemon's
            # epoch, be refused.
            return await self._made_before(order, zone, region, error)
        operation = await self._api.wait(answer.json(), within_s=over_at - anyio.current_time())
        failed = operation_failure(self._name, call, operation)
        if failed is not None and failed.fault is Fault.CONFLICT:
            return await self._made_before(order, zone, region, failed)
        if failed is not None:
            raise failed
        with _looking(f"{call} was accepted"):
            handle = await self._made(order, zone, region)
        if handle is None:
            raise self._missing(order, operation)
        return handle

    async def _made_before(self, order: Order, zone: str, region: str, refused: ProviderError) -> Handle:
        """The machine of an earlier launch. Raises gone when it has ended, `refused` when there was none.

        Raises unknown when that can't be seen: there may be one, whatever hides it.
        """
        name = names.machine_name(order.key)
        with _looking(f"{name} may be there"):
            if (handle := await self._made(order, zone, region)) is not None:
                return handle
            operation = (await self._insertions(zone, [name])).get(name)
        if operation is None or operation_failure(self._name, "instances.insert", operation) is not None:
            raise refused
        raise self._missing(order, operation)

    async def _made(self, order: Order, zone: str, region: str) -> Handle | None:
        """The machine of that name. Raises ProviderError(conflict) when it is not the order's."""
        name = names.machine_name(order.key)
        try:
            answer = await self._api.read(
                "instances.get",
                f"{self._api.project}/zones/{zone}/instances/{name}",
                query={"fields": wire.MACHINE},
            )
        except ProviderError as error:
            if error.fault is Fault.GONE:
                return None
            raise
        seen = wire.sighting(
            self._name,
            found := answer.json(),
            region=region,
            ssh_port=self._config.ssh_port,
            external_ip=self._config.external_ip,
        )
        if seen is None or seen.key != order.key or wire.owner_of(found) != order.owner:
            raise ProviderError(Fault.CONFLICT, f"{name} in {zone} is not the machine of {order.key}")
        self._learn(name, order.key)
        return seen.handle

    def _missing(self, order: Order, operation: Mapping[str, Any]) -> ProviderError:
        """It was accepted and is not there."""
        if operation.get("status") != "DONE":
            return ProviderError(Fault.UNKNOWN, f"{order.key}: not over after {LAUNCH_WITHIN_S:g} s")
        ended = operation.get("endTime")
        if ended and self._now() - wire.seconds(ended) < self._config.visible_within_s:
            return ProviderError(Fault.UNKNOWN, f"{order.key}: made, and not to be seen yet")
        return ProviderError(Fault.GONE, f"the machine of {order.key} was made, and has ended")

    # --- many at once -----------------------------------------------------------------------------

    async def _sorted_out(self, group: list[Order], outcomes: dict[str, Outcome]) -> list[Order]:
        """The orders that surely were never launched; the others get their outcomes.

        A bulk insert has a token of its own, so that its machines' keys say nothing to an insert, and the
        other way round: what was made is seen by the operations that made it.
        """
        zone = group[0].offer.zone
        before: dict[str, Mapping[str, Any]] = {}
        try:
            await self._region_of(zone)
            for start in range(0, len(group), NAMES_A_FILTER):
                part = [names.machine_name(order.key) for order in group[start : start + NAMES_A_FILTER]]
                before |= await self._insertions(zone, part)
        except ProviderError as error:
            if error.fault in (Fault.UNKNOWN, Fault.GONE):  # nothing is launched yet
                error = ProviderError(Fault.NOT_SENT, error.detail)
            outcomes.update({order.key: error for order in group})
            return []
        fresh = list[Order]()
        for order in group:
            operation = before.get(names.machine_name(order.key))
            if operation is None:
                fresh.append(order)
            else:
                outcomes[order.key] = await self._guarded(partial(self._again, order, operation))
        return fresh

    async def _again(self, order: Order, operation: Mapping[str, Any]) -> Handle:
        zone, call = order.offer.zone, "instances.insert"
        over = await self._api.wait(dict(operation), within_s=LAUNCH_WITHIN_S)
        if (failed := operation_failure(self._name, call, over)) is not None:
            raise failed
        with _looking(f"{call} was accepted"):
            handle = await self._made(order, zone, await self._region_of(zone))
        if handle is None:
            raise self._missing(order, over)
        return handle

    async def _insertions(self, zone: str, machines: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The operations that made, or failed to make, these machines; by the machine's name."""
        # By a regular expression, since links begin with a host of the vendor's choice; then no second field
        # may be asked about.
        query = {"filter": f'targetLink eq ".*/instances/({"|".join(machines)})"'}
        found: dict[str, Mapping[str, Any]] = {}
        path = f"{self._api.project}/zones/{zone}/operations"
        for page in await self._api.pages("zoneOperations.list", path, query):
            for operation in page.json.get("items") or ():
                if operation.get("operationType") == "insert":
                    found[last(operation.get("targetLink"))] = operation
        return found

    async def _bulk(self, orders: list[Order]) -> dict[str, Outcome]:
        """Make machines that are alike by one call."""
        zone, call = orders[0].offer.zone, "instances.bulkInsert"
        keys = sorted(order.key for order in orders)
        orders = sorted(orders, key=lambda order: order.key)
        over_at = anyio.current_time() + LAUNCH_WITHIN_S
        try:
            region = await self._region_of(zone)
            body = wire.bulk(self._config, orders, region=region, tag=tag_of(orders[0]))
            answer = await self._api.write(
                call,
                "POST",
                f"{self._api.project}/zones/{zone}/instances/bulkInsert",
                query={"requestId": names.request_id(*keys)},
                json=body,
                making=True,
            )
            operation = await self._api.wait(answer.json(), within_s=over_at - anyio.current_time())
            failed = operation_failure(self._name, call, operation)
            with _looking(f"{call} was accepted"):
                made = await self._batch(zone, region, names.batch_name(keys))
        except ProviderError as error:
            return dict.fromkeys(keys, error)
        outcomes: dict[str, Outcome] = {**made}
        missing = [order for order in orders if order.key not in made]
        if failed is not None and not made:
            return dict.fromkeys(keys, failed)
        return outcomes | (await self._unmade(zone, missing) if missing else {})

    async def _unmade(self, zone: str, orders: list[Order]) -> dict[str, Outcome]:
        """Why these machines of a bulk insert are not there, as the operation of each says."""
        call, found = "instances.insert", dict[str, Mapping[str, Any]]()
        said = "not made with the others, and no word why"
        try:
            for start in range(0, len(orders), NAMES_A_FILTER):
                part = [names.machine_name(order.key) for order in orders[start : start + NAMES_A_FILTER]]
                found |= await self._insertions(zone, part)
        except ProviderError as error:  # of those that are known it may be told
            said = f"not made with the others, then {error.detail}"
        outcomes: dict[str, Outcome] = {}
        for order in orders:
            operation = found.get(names.machine_name(order.key))
            if operation is None:
                outcomes[order.key] = ProviderError(Fault.UNKNOWN, f"{order.key}: {said}")
            else:
                failed = operation_failure(self._name, call, operation)
                outcomes[order.key] = failed or self._missing(order, operation)
        return outcomes

    async def _batch(self, zone: str, region: str, batch: str) -> dict[str, Handle]:
        query = {
            "filter": f'labels.{names.BATCH} = "{batch}"',
            "fields": f"items({wire.MACHINE}),nextPageToken",
        }
        found: dict[str, Handle] = {}
        path = f"{self._api.project}/zones/{zone}/instances"
        for page in await self._api.pages("instances.list", path, query):
            for one in page.json.get("items") or ():
                seen = wire.sighting(
                    self._name,
                    one,
                    region=region,
                    ssh_port=self._config.ssh_port,
                    external_ip=self._config.external_ip,
                )
                if seen is not None:
                    found[seen.key] = seen.handle
                    self._learn(seen.handle.ref, seen.key)
        return found


def tag_of(order: Order) -> str:
    """The network tag of the order's cluster."""
    return order.cluster.specific.get("tag") or names.cluster_name(order.owner, order.cluster.cluster_id)


@contextmanager
def _looking(known: str) -> Iterator[None]:
    """Something was made, or may have been: that it can't be looked at says nothing about that."""
    try:
        yield
    except ProviderError as error:
        if error.fault is Fault.CONFLICT:
            raise
        raise ProviderError(Fault.UNKNOWN, f"{known}, then {error.detail}") from error


def _conflicts(outcome: Outcome) -> bool:
    return isinstance(outcome, ProviderError) and outcome.fault is Fault.CONFLICT


def _alike(orders: Any) -> list[list[Order]]:
    """Orders that differ in their keys, nodes and host keys only: no host key goes into a bulk."""
    groups: dict[Any, list[Order]] = {}
    for order in orders:
        cluster = order.cluster.cluster_id
        what = (
            order.offer.market,
            order.offer.micro_usd_per_hour,
            order.image,
            order.disk_gb,
            order.age_max_s,
        )
        whose = (order.owner, order.epoch, order.pool, cluster, order.public_key)
        groups.setdefault((what, whose), []).append(order)
    return list(groups.values())
