"""The engine's JSON to our values, and back. Pure.

A container is ours by its labels and by nothing else; its name only keeps a second one of the same key from
being made.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from providers.container.config import ContainerConfig, ContainerOffer, Volume
from providers.container.ledger import name_of
from providers.model import (
    Address,
    ClusterHandle,
    ClusterOrder,
    Handle,
    Lifecycle,
    Order,
    Sighting,
    SightingState,
)

PREFIX = "everpool"
OWNER, PROVIDER = f"{PREFIX}.owner", f"{PREFIX}.provider"
KEY, CLUSTER, POOL = f"{PREFIX}.key", f"{PREFIX}.cluster", f"{PREFIX}.pool"
NODE, INSTANCE, EPOCH = f"{PREFIX}.node", f"{PREFIX}.instance", f"{PREFIX}.epoch"
REGION, ZONE, TYPE = f"{PREFIX}.region", f"{PREFIX}.zone", f"{PREFIX}.instance-type"
LIFECYCLE, PRICE, LAUNCHED = f"{PREFIX}.lifecycle", f"{PREFIX}.micro-usd-per-hour", f"{PREFIX}.launched-at"
GIB = 2**30
KILLED = 128 + 9
OOM_BEFORE_S, OOM_AFTER_S = 1.0, 0.2  # the kernel's kill for memory, and the end that comes of it
ID = re.compile(r"[0-9a-f]{64}")

# The container's first process: reaps what is orphaned (the kernel does it for whoever ignores SIGCHLD) and
# ends at once on TERM, and all else with it. An init of ours rather than the engine's, whose program
# (docker-init, catatonit) is often not installed; Python has to be in the image anyway.
INIT = (
    "import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    "ends = {signal.SIGTERM, signal.SIGINT}; signal.pthread_sigmask(signal.SIG_BLOCK, ends); "
    "os._exit(128 + signal.sigwait(ends))"
)
END_COMMAND = "kill -TERM 1"

# How an engine calls a container's state.
_STATES: dict[str, SightingState] = {
    "created": "pending",
    "configured": "pending",
    "initialized": "pending",
    "running": "running",
    "paused": "running",
    "restarting": "running",
    "stopping": "stopping",
    "removing": "stopping",
}


def container_name(key: str) -> str:
    """The name of the container of a launch key."""
    return f"{PREFIX}-{name_of(key)}"


def cluster_name(owner: str, provider: str, cluster_id: str) -> str:
    """The name of a cluster's network, and the start of its volumes' names."""
    return f"{PREFIX}-{name_of(json.dumps([owner, provider, cluster_id]))[:16]}"


def volume_name(cluster: str, source: str) -> str:
    """The name of a volume of scope "cluster"; `cluster` as `cluster_name` gives it."""
    return f"{cluster}-{source}"


def labels_of(order: Order, provider: str, launched_at: float) -> dict[str, str]:
    """The marks of a container."""
    offer = order.offer
    return {
        OWNER: order.owner,
        PROVIDER: provider,
        KEY: order.key,
        CLUSTER: order.cluster.cluster_id,
        POOL: order.pool,
        NODE: str(order.node),
        INSTANCE: order.instance_id,
        EPOCH: str(order.epoch),
        REGION: offer.region,
        ZONE: offer.zone,
        TYPE: offer.instance_type.name,
        LIFECYCLE: offer.lifecycle,
        PRICE: str(offer.micro_usd_per_hour),
        LAUNCHED: f"{launched_at:.6f}",
    }


def cluster_labels(order: ClusterOrder, provider: str) -> dict[str, str]:
    """The marks of a cluster's network and volumes."""
    return {
        OWNER: order.owner,
        PROVIDER: provider,
        CLUSTER: order.cluster_id,
        POOL: order.pool,
        REGION: order.region,
    }


def create_body(
    order: Order, config: ContainerConfig, offer: ContainerOffer, provider: str, launched_at: float
) -> dict[str, Any]:
    """The body of POST /containers/create for an order."""
    labels = labels_of(order, provider, launched_at)
    body: dict[str, Any] = {
        "Image": order.image or config.image,
        "Entrypoint": [config.python],
        "Cmd": ["-I", "-S", "-c", INIT],
        "Env": [f"{name}={value}" for name, value in config.env.items()],
        "Labels": labels,
        "Healthcheck": {"Test": ["NONE"]},  # the image's own says nothing of ours
        "StopSignal": "SIGTERM",
        "HostConfig": _host_config(order, config, offer, labels),
    }
    if config.user:
        body["User"] = config.user
    return body


def _host_config(
    order: Order, config: ContainerConfig, offer: ContainerOffer, labels: Mapping[str, str]
) -> dict[str, Any]:
    memory = round(offer.memory_gb * GIB)
    host: dict[str, Any] = {
        "NanoCpus": round(offer.vcpus * 1e9),
        "Memory": memory,
        "MemorySwap": memory,  # memory and swap together, so no swap
        "Init": False,
        "RestartPolicy": {"Name": "no"},
        "Ulimits": [
            {"Name": name, "Soft": limit.soft, "Hard": limit.hard} for name, limit in config.ulimits.items()
        ],
        "Mounts": [_mount(volume, order, labels) for volume in config.volumes],
    }
    if offer.shm_gb is not None:
        host["ShmSize"] = round(offer.shm_gb * GIB)
    if config.runtime:
        host["Runtime"] = config.runtime
    if config.network != "default":
        own = order.cluster.specific.get("network", "")
        host["NetworkMode"] = own if config.network == "cluster" else config.network
    return host


def _mount(volume: Volume, order: Order, labels: Mapping[str, str]) -> dict[str, Any]:
    mount: dict[str, Any] = {"Target": volume.target, "ReadOnly": volume.read_only, "Type": "volume"}
    if volume.source.startswith("/"):
        return mount | {"Type": "bind", "Source": volume.source}
    if not volume.source:  # removed with its container; marked for the case that somebody removes that alone
        marks = {name: labels[name] for name in (OWNER, PROVIDER, KEY, CLUSTER, POOL)}
        return mount | {"VolumeOptions": {"Labels": marks}}
    name = volume.source
    if volume.scope == "cluster":
        name = volume_name(order.cluster.specific.get("name", ""), volume.source)
    return mount | {"Source": name}


@dataclass(frozen=True, slots=True)
class Seen:
    """A container of ours as the engine's listing shows it."""

    id: str
    labels: Mapping[str, str]
    state: str  # in the engine's words
    image: str = ""  # its id
    ip: str = ""
    networks: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its launch key; "" when it has none."""
        return self.labels.get(KEY, "")

    @property
    def is_dead(self) -> bool:
        """Whether it ran, and does no more."""
        return self.state not in _STATES

    @property
    def never_ran(self) -> bool:
        """Whether it was made and not started yet."""
        return self.state in ("created", "configured", "initialized")

    @property
    def market(self) -> tuple[str, str, str]:
        """Where it counts: zone, instance type, lifecycle."""
        return (self.labels.get(ZONE, ""), self.labels.get(TYPE, ""), self.labels.get(LIFECYCLE, ""))


def seen(entry: Mapping[str, Any]) -> Seen:
    """One entry of GET /containers/json."""
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    mounts = entry.get("Mounts") or []
    return Seen(
        id=str(entry["Id"]),
        labels=entry.get("Labels") or {},
        state=str(entry.get("State", "")).lower(),
        image=str(entry.get("ImageID", "")),
        ip=next((one["IPAddress"] for one in networks.values() if one and one.get("IPAddress")), ""),
        networks=tuple(networks),
        volumes=tuple(one["Name"] for one in mounts if one.get("Type") == "volume" and one.get("Name")),
    )


def sighting(provider: str, one: Seen) -> Sighting:
    """A container as everpool's listings show it, without its end."""
    state = _STATES.get(one.state, "stopped")
    address = None
    if state == "running":
        address = Address(host=container_name(one.key), port=0, private_host=one.ip or None)
    lifecycle: Lifecycle = "spot" if one.labels.get(LIFECYCLE) == "spot" else "on_demand"
    return Sighting(
        key=one.key,
        handle=handle(provider, one.id, one.labels),
        state=state,
        address=address,
        launched_at=_number(one.labels.get(LAUNCHED)),
        micro_usd_per_hour=int(_number(one.labels.get(PRICE))),
        lifecycle=lifecycle,
        instance_type=one.labels.get(TYPE, ""),
        epoch=int(_number(one.labels.get(EPOCH))),
        detail=one.state,
    )


def tombstone(
    provider: str, one: Seen, inspected: Mapping[str, Any], now: float, *, is_oom: bool = False
) -> Sighting:
    """A container that ended.

    Args:
        provider: what the config calls the provider.
        one: the container.
        inspected: what GET /containers/{id}/json says of it; empty when that could not be had.
        now: taken for its end when that is not told.
        is_oom: whether the kernel killed something in it for memory just when it ended.
    """
    state = inspected.get("State") or {}
    ended_at = timestamp(state.get("FinishedAt")) or now
    shown = sighting(provider, one)
    detail = ending(state, is_oom=is_oom) if state else one.state
    update = {"ended_at": max(ended_at, shown.launched_at), "detail": detail, "address": None}
    return shown.model_copy(update=update | {"state": "stopped"})


def may_be_oom(state: Mapping[str, Any]) -> bool:
    """Whether a container may have ended for want of memory, by its State.

    OOMKilled alone does not say so: it stays set once anything in the container was killed for memory.
    """
    return bool(state.get("OOMKilled")) and state.get("ExitCode") == KILLED


def oom_query(ref: str, state: Mapping[str, Any]) -> dict[str, str] | None:
    """The query of GET /events for whether anything in a container was killed for memory as it ended.

    Those events are in the past, so the engine answers at once; docker keeps the last 256.
    """
    ended_at = timestamp(state.get("FinishedAt"))
    if ended_at is None:
        return None
    wanted = json.dumps({"container": [ref], "event": ["oom"]})
    since, until = ended_at - OOM_BEFORE_S, ended_at + OOM_AFTER_S
    return {"since": f"{since:.6f}", "until": f"{until:.6f}", "filters": wanted}


def ending(state: Mapping[str, Any], *, is_oom: bool = False) -> str:
    """How a container ended, by its State; `is_oom`: see `tombstone`."""
    if is_oom and may_be_oom(state):
        return f"out of memory, exited {KILLED}"
    error = " ".join(str(state.get("Error") or "").split())
    return f"exited {state.get('ExitCode')}" + (f": {error[:200]}" if error else "")


def handle(provider: str, ref: str, labels: Mapping[str, str]) -> Handle:
    """How a container is named."""
    return Handle(provider=provider, ref=ref, region=labels.get(REGION, ""), zone=labels.get(ZONE, ""))


def cluster_handle(order: ClusterOrder, config: ContainerConfig, provider: str) -> ClusterHandle:
    """An opened cluster."""
    name = cluster_name(order.owner, provider, order.cluster_id)
    specific = {"name": name, "owner": order.owner}
    if config.network == "cluster":
        specific["network"] = name
    return ClusterHandle(
        cluster_id=order.cluster_id,
        provider=provider,
        region=order.region,
        ssh_user=config.user.partition(":")[0] or "root",
        specific=specific,
    )


def agent_directory(user: str) -> str:
    """Where the agent lives in a container whose processes run as `user` (as its Config.User says)."""
    is_root = user.partition(":")[0] in ("", "0", "root")
    return "/var/lib/everpool/agent" if is_root else "/tmp/.everpool/agent"


def filters(labels: Mapping[str, str] | Iterable[str], **more: list[str]) -> str:
    """The `filters` of a listing: all of these labels, with their values when a mapping is given."""
    wanted = (
        [f"{name}={value}" for name, value in labels.items()] if isinstance(labels, Mapping) else [*labels]
    )
    return json.dumps({"label": wanted, **more})


def timestamp(text: object) -> float | None:
    """Seconds since the epoch of what the engine writes, such as 2026-11-22T14:05:01.710834913Z."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?\d*(Z|[+-]\d\d:\d\d)", str(text))
    if found is None or found[1].startswith("0001-"):  # the engine's "never"
        return None
    moment = datetime.fromisoformat(found[1] + ("+00:00" if found[3] == "Z" else found[3]))
    return moment.timestamp() + float(found[2] or 0)


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
