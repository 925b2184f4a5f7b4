"""What each method of the fake Compute Engine does. All are called with the world's lock held."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from tests.fakes.gcp.filters import Predicate
from tests.fakes.gcp.world import (
    IMAGES,
    KINDS,
    NETWORKS,
    REGIONS,
    Kind,
    Machine,
    Operation,
    Refused,
    World,
    not_found,
    stamp,
)

Parameters = Mapping[str, str]
NOTHING_HERE = {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "There are no results on this page."}}
SOME_S = 0.02  # what an operation takes at least


class Routes:
    """The methods, by name."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kinds = {kind.name: kind for kind in KINDS}
        self._zones = {zone: region for region, zones in REGIONS.items() for zone in zones}
        self._reads: dict[str, Callable[[Parameters], Any]] = {
            "projects.get": lambda _: {
                "kind": "compute#project",
                "name": world.project,
                "id": "123456789012",
            },
            "regions.get": self._region,
            "networks.get": lambda p: self._plain("network", p["network"], p["network"] in NETWORKS),
            "images.getFromFamily": lambda p: self._image(p["project"], p["family"]),
            "images.get": lambda p: self._image(p["project"], p["image"]),
            "instances.get": lambda p: self._machine(p).body,
            "disks.get": self._disk,
            "firewalls.get": self._firewall,
            "zoneOperations.get": self._operation,
            "zoneOperations.wait": self._operation,
            "globalOperations.get": self._operation,
            "globalOperations.wait": self._operation,
        }
        self._lists: dict[str, Callable[[Parameters], Iterable[Mapping[str, Any]]]] = {
            "regions.list": lambda _: [self._region({"region": region}) for region in REGIONS],
            "machineTypes.list": self._machine_types,
            "instances.list": lambda p: self._machines(self._zone(p)),
            "zoneOperations.list": lambda p: self._operations(self._zone(p)),
            "firewalls.list": lambda _: world.firewalls.values(),
        }
        self._aggregated: dict[str, tuple[str, Callable[[str], Iterable[Mapping[str, Any]]]]] = {
            "instances.aggregatedList": ("instances", self._machines),
            "disks.aggregatedList": ("disks", self._disks),
            "globalOperations.aggregatedList": ("operations", self._operations),
        }
        self._changes: dict[str, Callable[[Parameters, Any], Operation]] = {
            "instances.insert": self._insert,
            "instances.bulkInsert": self._bulk_insert,
            "instances.delete": self._delete,
            "disks.delete": self._delete_disk,
            "firewalls.insert": self._insert_firewall,
            "firewalls.delete": self._delete_firewall,
        }

    def answer(
        self,
        method: str,
        parameters: Parameters,
        query: Mapping[str, str],
        body: Any,
        selects: Predicate,
        size: int,
    ) -> Any:
        """The answer to one request."""
        if method in self._changes:
            return self.change(method, parameters, body).body
        if method in self._reads:
            return self._reads[method](parameters)
        start = int(query.get("pageToken") or 0)
        if method in self._lists:
            items = [one for one in self._lists[method](parameters) if selects(one)]
            page: dict[str, Any] = {"items": items[start : start + size], "id": method}
            return page | _next(start, size, len(items))
        if method in self._aggregated:
            newest_first = query.get("orderBy") == "creationTimestamp desc"
            return self._aggregate(method, selects, start, size, newest_first=newest_first)
        raise Refused(501, "notImplemented", f"this fake has no {method}")

    def change(self, method: str, parameters: Parameters, body: Any) -> Operation:
        """Do what a request asks. Raises Refused."""
        if method not in self._changes:
            raise Refused(501, "notImplemented", f"this fake has no {method}")
        return self._changes[method](parameters, body)

    # --- reading ----------------------------------------------------------------------------------

    def _aggregate(
        self, method: str, selects: Predicate, start: int, size: int, *, newest_first: bool
    ) -> Any:
        name, list_of = self._aggregated[method]
        hidden = self._world.controls.unreachable
        everything = [
            (zone, one)
            for zone, region in self._zones.items()
            if not hidden & {zone, region}
            for one in list_of(zone)
            if selects(one)
        ]
        if newest_first:
            everything.sort(key=lambda found: _made_at(found[1]), reverse=True)
        unnamed = self._world.unnamed
        items: dict[str, Any] = {
            f"zones/{zone}": dict(NOTHING_HERE) for zone in self._zones if zone not in unnamed
        }
        for zone, one in everything[start : start + size]:
            scope = items.setdefault(f"zones/{zone}", {})
            scope.pop("warning", None)
            scope.setdefault(name, []).append(one)
        page: dict[str, Any] = {"items": items, "id": method}
        if hidden:
            page["unreachables"] = [
                f"zones/{zone}" for zone, region in self._zones.items() if hidden & {zone, region}
            ]
        return page | _next(start, size, len(everything))

    def _machines(self, zone: str) -> list[Mapping[str, Any]]:
        """As a listing shows them, which may lag behind."""
        world = self._world
        shown_at = world.now() - world.controls.listing_lag_s
        living = [one for one in world.machines.values() if one.created_at <= shown_at]
        gone = [one for one in world.graves if one.created_at <= shown_at < (one.gone_at or 0.0)]
        return [one.body for one in (*living, *gone) if one.zone == zone]

    def _disks(self, zone: str) -> list[Mapping[str, Any]]:
        return [disk for (place, _), disk in self._world.disks.items() if place == zone]

    def _operations(self, zone: str) -> list[Mapping[str, Any]]:
        return [one.body for one in self._world.operations.values() if one.scope == f"zones/{zone}"]

    def _machine_types(self, parameters: Parameters) -> list[Mapping[str, Any]]:
        zone = self._zone(parameters)
        return [self._machine_type(kind, zone) for kind in KINDS]

    def _machine_type(self, kind: Kind, zone: str) -> dict[str, Any]:
        made: dict[str, Any] = {
            "kind": "compute#machineType",
            "id": "801",
            "name": kind.name,
            "guestCpus": kind.cpus,
            "memoryMb": kind.memory_mb,
            "architecture": kind.architecture,
            "isSharedCpu": False,
            "zone": zone,
            "selfLink": self._world.link(f"zones/{zone}/machineTypes/{kind.name}"),
        }
        if kind.accelerators:
            made["accelerators"] = [
                {"guestAcceleratorType": name, "guestAcceleratorCount": count}
                for name, count in kind.accelerators
            ]
        return made

    def _region(self, parameters: Parameters) -> Any:
        region, world = parameters["region"], self._world
        if region not in REGIONS:
            raise not_found(f"regions/{region}")
        there = [one for one in world.machines.values() if self._zones.get(one.zone) == region]
        usage = {"CPUS": self._cpus(there), "INSTANCES": float(len(there))}
        return {
            "kind": "compute#region",
            "id": "1000",
            "name": region,
            "status": "UP",
            "zones": [world.link(f"zones/{zone}") for zone in REGIONS[region]],
            "quotas": [
                {"metric": metric, "limit": limit, "usage": usage.get(metric, 0.0)}
                for metric, limit in world.quotas[region].items()
            ],
        }

    def _cpus(self, machines: Iterable[Machine]) -> float:
        kinds = [one.body["machineType"].rpartition("/")[2] for one in machines]
        return float(sum(self._kinds[kind].cpus for kind in kinds if kind in self._kinds))

    def _image(self, project: str, name: str) -> Any:
        if f"{project}/{name}" not in IMAGES:
            raise not_found(f"projects/{project}/global/images/family/{name}")
        return {"kind": "compute#image", "name": f"{name}-v20261101", "family": name, "status": "READY"}

    def _plain(self, what: str, name: str, there: bool) -> Any:
        if not there:
            raise not_found(f"global/{what}s/{name}")
        return {"kind": f"compute#{what}", "name": name, "id": "7"}

    def _zone(self, parameters: Parameters) -> str:
        zone = parameters["zone"]
        if zone not in self._zones:
            raise not_found(f"zones/{zone}")
        if self._world.controls.unreachable & {zone, self._zones[zone]}:
            raise Refused(503, "backendError", f"{zone} is not reachable")
        return zone

    def _machine(self, parameters: Parameters) -> Machine:
        zone, name = self._zone(parameters), parameters["instance"]
        found = self._world.machines.get((zone, name))
        if found is None:
            raise not_found(f"zones/{zone}/instances/{name}")
        return found

    def _disk(self, parameters: Parameters) -> Any:
        zone, name = self._zone(parameters), parameters["disk"]
        if (zone, name) not in self._world.disks:
            raise not_found(f"zones/{zone}/disks/{name}")
        return self._world.disks[zone, name]

    def _firewall(self, parameters: Parameters) -> Any:
        if parameters["firewall"] not in self._world.firewalls:
            raise not_found(f"global/firewalls/{parameters['firewall']}")
        return self._world.firewalls[parameters["firewall"]]

    def _operation(self, parameters: Parameters) -> Any:
        if parameters["operation"] not in self._world.operations:
            raise not_found(f"operations/{parameters['operation']}")
        return self._world.operations[parameters["operation"]].body

    # --- changing ---------------------------------------------------------------------------------

    def _insert(self, parameters: Parameters, body: Any) -> Operation:
        world, zone = self._world, self._zone(parameters)
        name = body["name"]
        kind = self._checked(zone, body)
        if (zone, name) in world.machines:
            path = world.link(f"zones/{zone}/instances/{name}")
            raise Refused(409, "alreadyExists", f"The resource '{path}' already exists")
        self._quota(zone, kind, 1)
        done_at = world.now() + SOME_S + world.controls.starts_after_s
        target = f"zones/{zone}/instances/{name}"
        if world.room(zone, kind.name, _model(body)) < 1:
            return world.operation(
                "insert", target, scope=f"zones/{zone}", done_at=done_at, error=_stockout(zone, kind.name)
            )
        machine = world.make(zone, body, runs_at=done_at)
        operation = world.operation("insert", target, scope=f"zones/{zone}", done_at=done_at)
        operation.body["targetId"] = machine.body["id"]
        return operation

    def _bulk_insert(self, parameters: Parameters, body: Any) -> Operation:
        world, zone = self._world, self._zone(parameters)
        common, machines = body["instanceProperties"], list(body["perInstanceProperties"])
        kind = self._checked(zone, common)
        if int(body["count"]) != len(machines):
            raise Refused(400, "invalid", "count is not the number of perInstanceProperties")
        for name in machines:
            if (zone, name) in world.machines:
                raise Refused(409, "alreadyExists", f"The resource '{name}' already exists")
        self._quota(zone, kind, len(machines))
        done_at = world.now() + SOME_S + world.controls.starts_after_s
        room = world.room(zone, kind.name, _model(common))
        made = machines[: int(min(room, len(machines)))]
        if len(made) < int(body.get("minCount", body["count"])):
            made = []
        error = _stockout(zone, kind.name)
        scope = f"zones/{zone}"
        # Some are enough, then it is no failure of the whole: what failed, failed on its own.
        failed = None if made or not machines else error
        operation = world.operation("bulkInsert", scope, scope=scope, done_at=done_at, error=failed)
        operation.body["operationGroupId"] = operation.body["id"]
        for name in machines if made else ():
            if name in made:
                world.make(zone, {"name": name, **common}, runs_at=done_at)
            child = world.operation(
                "insert",
                f"{scope}/instances/{name}",
                scope=scope,
                done_at=done_at,
                error=None if name in made else error,
            )
            child.body["operationGroupId"] = operation.body["id"]
        operation.body["instancesBulkInsertOperationMetadata"] = {
            "perLocationStatus": {
                scope: {
                    "targetVmCount": len(machines),
                    "createdVmCount": len(made),
                    "failedToCreateVmCount": len(machines) - len(made),
                    "status": "DONE",
                }
            }
        }
        return operation

    def _checked(self, zone: str, body: Mapping[str, Any]) -> Kind:
        """The machine type. Refuses what does not go together, and names of nothing."""
        kind = self._kinds.get(body["machineType"].rpartition("/")[2])
        if kind is None:
            raise not_found(body["machineType"])
        for disk in body["disks"]:
            image = disk["initializeParams"]["sourceImage"].split("/")
            if image[0] == "projects" and f"{image[1]}/{image[-1]}" not in IMAGES:
                raise not_found(disk["initializeParams"]["sourceImage"])
        for interface in body["networkInterfaces"]:
            if interface["network"].rpartition("/")[2] not in NETWORKS:
                raise not_found(interface["network"])
        scheduling = body.get("scheduling", {})
        spot, moved = _model(body) == "SPOT", scheduling.get("onHostMaintenance") == "MIGRATE"
        if spot and (scheduling.get("automaticRestart") or moved):
            raise Refused(400, "invalid", "Spot VMs are neither restarted nor migrated")
        if "instanceTerminationAction" in scheduling and not spot and "maxRunDuration" not in scheduling:
            raise Refused(400, "invalid", "instanceTerminationAction goes with Spot or maxRunDuration")
        if "preemptionNoticeDuration" in scheduling and not spot:
            raise Refused(400, "invalid", "preemptionNoticeDuration goes with Spot")
        if kind.accelerators and scheduling.get("onHostMaintenance", "MIGRATE") == "MIGRATE":
            raise Refused(400, "invalid", "Instances with guest accelerators do not support live migration")
        return kind

    def _quota(self, zone: str, kind: Kind, count: int) -> None:
        region = self._zones[zone]
        used = {quota["metric"]: quota["usage"] for quota in self._region({"region": region})["quotas"]}
        for metric, more in (("CPUS", kind.cpus * count), ("INSTANCES", count)):
            if used[metric] + more > self._world.quotas[region][metric]:
                limit = self._world.quotas[region][metric]
                message = f"Quota '{metric}' exceeded. Limit: {limit} in region {region}."
                raise Refused(403, "quotaExceeded", message)

    def _delete(self, parameters: Parameters, body: Any) -> Operation:
        machine, world = self._machine(parameters), self._world
        ends_at = world.now() + world.controls.ends_after_s
        target, scope = f"zones/{machine.zone}/instances/{machine.name}", f"zones/{machine.zone}"
        operation = world.operation("delete", target, scope=scope, done_at=ends_at)
        world.end(machine, ends_at)
        return operation

    def _delete_disk(self, parameters: Parameters, body: Any) -> Operation:
        disk, world = self._disk(parameters), self._world
        if disk["users"]:
            message = f"The disk resource is already being used by '{disk['users'][0]}'"
            raise Refused(400, "resourceInUseByAnotherResource", message)
        zone, name = parameters["zone"], parameters["disk"]
        del world.disks[zone, name]
        return world.operation(
            "delete", f"zones/{zone}/disks/{name}", scope=f"zones/{zone}", done_at=world.now() + SOME_S
        )

    def _insert_firewall(self, parameters: Parameters, body: Any) -> Operation:
        world, name = self._world, body["name"]
        if name in world.firewalls:
            raise Refused(409, "alreadyExists", f"The resource 'global/firewalls/{name}' already exists")
        if body["network"].rpartition("/")[2] not in NETWORKS:
            raise not_found(body["network"])
        world.firewalls[name] = {
            **body,
            "kind": "compute#firewall",
            "id": "77",
            "creationTimestamp": stamp(world.now()),
            "selfLink": world.link(f"global/firewalls/{name}"),
        }
        return world.operation(
            "insert", f"global/firewalls/{name}", scope="global", done_at=world.now() + SOME_S
        )

    def _delete_firewall(self, parameters: Parameters, body: Any) -> Operation:
        world, name = self._world, self._firewall(parameters)["name"]
        del world.firewalls[name]
        return world.operation(
            "delete", f"global/firewalls/{name}", scope="global", done_at=world.now() + SOME_S
        )


def _made_at(found: Mapping[str, Any]) -> tuple[datetime, int]:
    at = datetime.fromisoformat(found.get("insertTime") or found["creationTimestamp"])
    return at, int(found["id"])


def _model(body: Mapping[str, Any]) -> str:
    return str(body.get("scheduling", {}).get("provisioningModel", "STANDARD"))


def _next(start: int, size: int, count: int) -> dict[str, str]:
    return {"nextPageToken": str(start + size)} if start + size < count else {}


def _stockout(zone: str, kind: str) -> dict[str, Any]:
    message = f"The zone '{zone}' does not have enough resources available to fulfill the request ({kind})."
    return {
        "error": {"code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "message": message},
        "status": 503,
        "said": "SERVICE UNAVAILABLE",
    }
