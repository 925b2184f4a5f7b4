"""What a project at the fake Compute Engine consists of, and how it changes as time goes by."""

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from providers.gcp import names
from tests.fakes.controls import Controls, market
from tests.fakes.guests import Boot, Guests
from tests.fakes.metadata import GceMetadata, MetadataServers

ROOT = "https://www.googleapis.com/compute/v1"
REGIONS = {
    "us-central1": ("us-central1-a", "us-central1-b", "small"),
    "europe-west4": ("europe-west4-a",),
}
IMAGES = ("debian-cloud/debian-12", "debian-cloud/debian-12-arm64", "ml-images/cuda")
NETWORKS = ("default",)
PACIFIC = timezone(timedelta(hours=-8))  # the vendor tells its times so
_PRIVATE_KEY = re.compile(r"-----BEGIN OPENSSH PRIVATE KEY-----.*?-----END OPENSSH PRIVATE KEY-----", re.S)


@dataclass(frozen=True)
class Kind:
    """A machine type."""

    name: str
    cpus: int
    memory_mb: int
    architecture: str = "X86_64"
    accelerators: tuple[tuple[str, int], ...] = ()


KINDS = (
    Kind("e2-medium", 2, 4096),
    Kind("e2-standard-2", 2, 8192),
    Kind("e2-standard-4", 4, 16_384),
    Kind("n2-standard-8", 8, 32_768),
    Kind("t2a-standard-1", 1, 4096, "ARM64"),
    Kind("g2-standard-4", 4, 16_384, "X86_64", (("nvidia-l4", 1),)),
    Kind("c9-standard-4", 4, 16_384),  # of a family that the price list does not have
)


class Refused(Exception):
    """The vendor says no, at once."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


def not_found(path: str) -> Refused:
    """What is said of things that are not there."""
    return Refused(404, "notFound", f"The resource '{path}' was not found")


@dataclass
class Machine:
    """One instance.

    Attributes:
        body: as `instances.get` shows it.
        ends_at: it is being ended, and is gone then.
        gone_at: since when it is.
    """

    body: dict[str, Any]
    zone: str
    created_at: float
    runs_at: float
    ends_at: float | None = None
    gone_at: float | None = None
    booted: bool = False
    metadata: GceMetadata | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["name"])


@dataclass
class Operation:
    """One operation; it is over at `done_at`."""

    body: dict[str, Any]
    done_at: float
    error: dict[str, Any] | None = None
    scope: str = "global"


class World:
    """One project. Every method is called with `lock` held.

    Args:
        project: its id.
        controls: what goes wrong.
        guests: what runs behind machines; None: nothing does.
        metadata: the machines' metadata servers; None: there are none.
        ssh_port: where guests answer, each at an address of its own.
        now: the vendor's clock.
    """

    def __init__(
        self,
        project: str,
        controls: Controls,
        *,
        guests: Guests | None,
        metadata: MetadataServers | None,
        ssh_port: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.project, self.controls, self.now = project, controls, now
        self.lock = threading.RLock()
        self.machines: dict[tuple[str, str], Machine] = {}
        self.graves: list[Machine] = []
        self.disks: dict[tuple[str, str], dict[str, Any]] = {}
        self.firewalls: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, Operation] = {}
        self.requests: dict[str, tuple[str, Operation]] = {}
        self.unnamed: set[str] = set()  # zones that aggregated lists do not name when nothing is there
        self.quotas: dict[str, dict[str, float]] = {
            region: {"CPUS": 1000.0, "INSTANCES": 1000.0, "PREEMPTIBLE_CPUS": 0.0, "SSD_TOTAL_GB": 10_000.0}
            for region in REGIONS
        }
        self._guests, self._metadata, self._ssh_port = guests, metadata, ssh_port
        self._numbers = itertools.count(1)

    # --- time -------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything happen that was to happen until now."""
        now = self.now()
        for machine in list(self.machines.values()):
            if machine.ends_at is not None and machine.ends_at <= now:
                self.remove(machine)
            elif machine.body["status"] in ("PROVISIONING", "STAGING") and machine.runs_at <= now:
                self._start(machine)
            elif machine.booted and not self._runs(machine) and machine.body["status"] == "RUNNING":
                self.stop(machine, "")  # it has shut itself down
        for operation in self.operations.values():
            if operation.body["status"] != "DONE" and operation.done_at <= now:
                self._finish(operation)

    def _finish(self, operation: Operation) -> None:
        operation.body |= {"status": "DONE", "progress": 100, "endTime": stamp(operation.done_at)}
        if operation.error is not None:
            operation.body |= {
                "error": {"errors": [operation.error["error"]]},
                "httpErrorStatusCode": operation.error["status"],
                "httpErrorMessage": operation.error["said"],
            }

    def _start(self, machine: Machine) -> None:
        machine.body["status"] = "RUNNING"
        held = {item["key"]: item["value"] for item in machine.body["metadata"].get("items", [])}
        env = {}
        if self._metadata is not None:
            machine.metadata = GceMetadata(
                machine.name,
                instance_id=int(machine.body["id"]),
                zone=machine.zone,
                project=self.project,
                attributes=held,
            )
            url = self._metadata.start(machine.name, machine.metadata)
            env["GCE_METADATA_HOST"] = url.removeprefix("http://")
        if self._guests is None or "ssh-keys" not in held:
            return
        user, _, key = held["ssh-keys"].partition(":")
        self._guests.boot(
            Boot(
                ref=machine.name,
                host=machine.body["networkInterfaces"][0]["accessConfigs"][0]["natIP"],
                port=self._ssh_port,
                user=user,
                authorized_keys=(key,),
                host_key=host_key_in(held.get("startup-script", "")),
                env=env,
            )
        )
        machine.booted = True

    def _runs(self, machine: Machine) -> bool:
        runs = getattr(self._guests, "runs", None)
        return runs is None or bool(runs(machine.name))

    # --- machines ---------------------------------------------------------------------------------

    def make(self, zone: str, body: Mapping[str, Any], *, runs_at: float | None = None) -> Machine:
        """A machine of a request's body, and its disks."""
        now, number = self.now(), next(self._numbers)
        made: dict[str, Any] = json.loads(json.dumps(body))
        name = made["name"]
        made |= {
            "kind": "compute#instance",
            "id": str(4_000_000_000_000_000_000 + number),
            "creationTimestamp": stamp(now),
            "status": "PROVISIONING",
            "zone": self.link(f"zones/{zone}"),
            "selfLink": self.link(f"zones/{zone}/instances/{name}"),
            "machineType": self.link(f"zones/{zone}/machineTypes/{made['machineType'].rpartition('/')[2]}"),
            "labelFingerprint": "42WmSpB8rSM=",
        }
        made["scheduling"] = {"provisioningModel": "STANDARD", **made.get("scheduling", {})}
        made["metadata"] = {"kind": "compute#metadata", "fingerprint": "abc=", **made.get("metadata", {})}
        for index, interface in enumerate(made.get("networkInterfaces", [])):
            interface |= {"name": f"nic{index}", "networkIP": f"10.128.{number // 250}.{number % 250 + 2}"}
            for access in interface.get("accessConfigs", []):
                access["natIP"] = f"127.{100 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
        for index, disk in enumerate(made.get("disks", [])):
            given = disk.pop("initializeParams", {})
            disk_name = given.get("diskName") or (name if index == 0 else f"{name}-{index}")
            disk |= {
                "kind": "compute#attachedDisk",
                "index": index,
                "source": self.link(f"zones/{zone}/disks/{disk_name}"),
            }
            self.disks[zone, disk_name] = {
                "kind": "compute#disk",
                "id": str(5_000_000_000_000_000_000 + number),
                "name": disk_name,
                "creationTimestamp": stamp(now),
                "sizeGb": given.get("diskSizeGb", "10"),
                "zone": self.link(f"zones/{zone}"),
                "selfLink": self.link(f"zones/{zone}/disks/{disk_name}"),
                "status": "READY",
                "users": [made["selfLink"]],
                "labels": given.get("labels", {}),
                **({"description": given["description"]} if "description" in given else {}),
            }
        started = now + self.controls.starts_after_s if runs_at is None else runs_at
        machine = Machine(made, zone, now, started)
        self.machines[zone, name] = machine
        return machine

    def room(self, zone: str, kind: str, model: str) -> float:
        """How many more there are of a market."""
        lifecycle = "spot" if model == "SPOT" else "on_demand"
        most = self.controls.capacity.get(market(zone, kind, lifecycle))
        if most is None:
            return float("inf")
        there = sum(
            (
                one.zone,
                one.body["machineType"].rpartition("/")[2],
                one.body["scheduling"]["provisioningModel"],
            )
            == (zone, kind, model)
            for one in self.machines.values()
        )
        return most - there

    def end(self, machine: Machine, ends_at: float) -> None:
        """Begin to end a machine."""
        machine.body["status"] = "STOPPING"
        machine.ends_at = ends_at if machine.ends_at is None else min(machine.ends_at, ends_at)
        if machine.ends_at <= self.now():
            self.remove(machine)

    def remove(self, machine: Machine) -> None:
        """It is gone, with the disks that are to go with it."""
        if self.machines.pop((machine.zone, machine.name), None) is None:
            return
        machine.gone_at = self.now()
        self.graves.append(machine)
        for disk in machine.body.get("disks", []):
            key = (machine.zone, disk["source"].rpartition("/")[2])
            if disk.get("autoDelete"):
                self.disks.pop(key, None)
            elif key in self.disks:
                self.disks[key]["users"] = []
        self._dark(machine)

    def stop(self, machine: Machine, why: str) -> None:
        """It does not run any more, and stays."""
        machine.body["status"] = "TERMINATED"
        if why:
            machine.body["statusMessage"] = why
        self._dark(machine)

    def _dark(self, machine: Machine) -> None:
        if self._guests is not None:
            self._guests.kill(machine.name)
        machine.booted = False
        if self._metadata is not None:
            self._metadata.stop(machine.name)

    # --- operations -------------------------------------------------------------------------------

    def operation(
        self, kind: str, target: str, *, scope: str, done_at: float, error: dict[str, Any] | None = None
    ) -> Operation:
        """A new operation on a target (a path below the project)."""
        number, now = next(self._numbers), self.now()
        name = f"operation-{number}-{names.digest(target)[:8]}"
        body: dict[str, Any] = {
            "kind": "compute#operation",
            "id": str(6_000_000_000_000_000_000 + number),
            "name": name,
            "operationType": kind,
            "targetLink": self.link(target),
            "status": "RUNNING",
            "progress": 0,
            "insertTime": stamp(now),
            "startTime": stamp(now),
            "selfLink": self.link(f"{scope}/operations/{name}"),
            "user": "fake@fake-project.iam.gserviceaccount.com",
        }
        if scope.startswith("zones/"):
            body["zone"] = self.link(scope)
        made = Operation(body, done_at, error, scope)
        self.operations[name] = made
        if done_at <= now:
            self._finish(made)
        return made

    def link(self, path: str) -> str:
        """The URL of something in this project."""
        return f"{ROOT}/projects/{self.project}/{path}"


def stamp(at: float) -> str:
    """A time as the vendor tells it."""
    return datetime.fromtimestamp(at, PACIFIC).isoformat(timespec="milliseconds")


def host_key_in(script: str) -> str:
    """The host key that a start-up script gives."""
    found = _PRIVATE_KEY.search(script)
    return found[0] + "\n" if found else ""
