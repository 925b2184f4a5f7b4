"""Compute Engine's JSON: what we send for a machine, and what its listing shows. Pure."""

import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from providers.gcp import names
from providers.gcp.api import last
from providers.gcp.config import GcpConfig
from providers.model import Address, Handle, Lifecycle, Notice, Order, Sighting, SightingState

STATES: Mapping[str, SightingState] = {
    "PENDING": "pending",
    "PROVISIONING": "pending",
    "STAGING": "pending",
    "REPAIRING": "pending",
    "RUNNING": "running",
    "PENDING_STOP": "stopping",
    "STOPPING": "stopping",
    "SUSPENDING": "stopping",
    "DEPROVISIONING": "stopping",
    "STOPPED": "stopped",
    "SUSPENDED": "stopped",
    "TERMINATED": "stopped",
}
# Families that take no persistent disks, only hyperdisks.
_HYPERDISK = re.compile(r"^(c4|c4a|c4d|n4|n4a|n4d|h4d|x4|m4|a4|a4x|g4)-")
# What is read of an instance: not its metadata, where the host key and the start-up script are.
MACHINE = (
    "name,description,status,statusMessage,creationTimestamp,zone,machineType,labels,"
    "scheduling/provisioningModel,networkInterfaces(networkIP,accessConfigs/natIP)"
)
_KEY_FILE = "/etc/ssh/ssh_host_ed25519_key"

# sshd may have made keys of its own by then, and answers with those until this has run. Run at every start.
_INSTALL = f"""\
umask 077
printf '%s\\n' "$host_key" > {_KEY_FILE}.everpool
if cmp -s {_KEY_FILE}.everpool {_KEY_FILE} && [ "$(ls /etc/ssh/ssh_host_*_key)" = {_KEY_FILE} ]; then
  rm -f {_KEY_FILE}.everpool
  exit 0
fi
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
mv -f {_KEY_FILE}.everpool {_KEY_FILE}
ssh-keygen -y -f {_KEY_FILE} > {_KEY_FILE}.pub
chmod 644 {_KEY_FILE}.pub
systemctl restart ssh || systemctl restart sshd || service ssh restart
"""


def startup_script(host_key: str) -> str:
    """What gives a machine its host key: `host_key` is the private key (OpenSSH PEM)."""
    given = f"host_key={shlex.quote(host_key.strip())}\n"
    return f"#!/bin/sh\n# everpool: our host key, before anybody trusts this machine.\n{given}{_INSTALL}"


def aggregated(what: str, fields: str) -> str:
    """The `fields` of an aggregated list of `what`: those of each, and which scopes were read.

    Source: "Partial responses" in Google's API guides.
    """
    return f"items/*/{what}({fields}),items/*/warning/code,warning/code,unreachables,nextPageToken"


def properties(config: GcpConfig, order: Order, *, region: str, tag: str) -> dict[str, Any]:
    """What all machines ordered like `order` have in common: InstanceProperties, without the machine type.

    Args:
        order: its key and host key are not looked at.
        region: that the order's zone is in.
        tag: network tag of its cluster.
    """
    offer = order.offer
    labels = {
        **config.labels,
        names.OWNER: names.label(order.owner),
        names.CLUSTER: names.label(order.cluster.cluster_id),
        names.POOL: names.label(order.pool),
        names.EPOCH: str(order.epoch),
        names.PRICE: str(offer.micro_usd_per_hour),
    }
    made: dict[str, Any] = {
        "labels": labels,
        "disks": [_disk(config, order)],
        "networkInterfaces": [_interface(config, region)],
        "scheduling": scheduling(config, order),
        "tags": {"items": [tag, *config.network_tags]},
        "metadata": {"items": _items(config, order)},
    }
    if config.service_account is not None:
        made["serviceAccounts"] = [{"email": config.service_account, "scopes": list(config.scopes)}]
    return made


def instance(config: GcpConfig, order: Order, *, region: str, tag: str) -> dict[str, Any]:
    """The body of instances.insert. The same order gives the same body."""
    name, offer = names.machine_name(order.key), order.offer
    made = properties(config, order, region=region, tag=tag)
    made["labels"][names.KEY] = names.digest(order.key)
    made["description"] = names.Marks(
        owner=order.owner, cluster=order.cluster.cluster_id, key=order.key
    ).text()
    disk = made["disks"][0]["initializeParams"]
    disk["labels"], disk["description"] = made["labels"], made["description"]
    if order.host_key:
        made["metadata"]["items"] += _entries({"startup-script": startup_script(order.host_key)})
    return {
        "name": name,
        "machineType": f"zones/{offer.zone}/machineTypes/{offer.instance_type.name}",
        **made,
    }


def bulk(config: GcpConfig, orders: Sequence[Order], *, region: str, tag: str) -> dict[str, Any]:
    """The body of instances.bulkInsert for orders that are alike but for their keys.

    The vendor knows nothing per machine but its name, so that labels, metadata and description are those of
    all. A host key has no place there: every task on each of these machines could read those of all.
    """
    first = orders[0]
    owner, cluster = first.owner, first.cluster.cluster_id
    keys = [order.key for order in orders]
    made = properties(config, first, region=region, tag=tag)
    made["labels"][names.BATCH] = names.batch_name(keys)
    made["description"] = names.marks_of_all(owner, cluster, keys).text()
    disk = made["disks"][0]["initializeParams"]
    disk["labels"] = made["labels"]
    disk["description"] = names.Marks(owner=owner, cluster=cluster).text()
    return {
        "count": str(len(orders)),
        "minCount": "1",
        "instanceProperties": {"machineType": first.offer.instance_type.name, **made},
        "perInstanceProperties": {names.machine_name(key): {} for key in keys},
    }


def scheduling(config: GcpConfig, order: Order) -> dict[str, Any]:
    """How long a machine is to live, and what becomes of it then: it is deleted, never stopped.

    Neither kind is started again by the vendor: what failed is replaced.
    """
    offer = order.offer
    made: dict[str, Any] = {"automaticRestart": False}
    if offer.lifecycle == "spot":
        made |= {"provisioningModel": "SPOT", "onHostMaintenance": "TERMINATE"}
        if config.preemption_notice_s is not None:
            made["preemptionNoticeDuration"] = {"seconds": str(config.preemption_notice_s)}
    else:
        movable = offer.instance_type.accelerator is None
        made |= {
            "provisioningModel": "STANDARD",
            "onHostMaintenance": "MIGRATE" if movable else "TERMINATE",
        }
    if order.age_max_s is not None:
        made["maxRunDuration"] = {"seconds": str(max(30, round(order.age_max_s)))}
    if offer.lifecycle == "spot" or order.age_max_s is not None:
        made["instanceTerminationAction"] = "DELETE"
    return made


def sighting(
    provider: str,
    found: Mapping[str, Any],
    *,
    region: str,
    ssh_port: int,
    external_ip: bool,
    notice: Notice | None = None,
) -> Sighting | None:
    """What an instance's JSON shows; None when its marks are not ours."""
    marks, name = names.marks_of(found.get("description")), str(found.get("name"))
    if marks is None or not (key := marks.key_of(name)):
        return None
    status = str(found.get("status", ""))
    scheduled = found.get("scheduling") or {}
    lifecycle: Lifecycle = "spot" if scheduled.get("provisioningModel") == "SPOT" else "on_demand"
    labels = found.get("labels") or {}
    zone = last(found.get("zone"))
    detail = status if notice is None else f"{status}, {notice.reason}"
    if said := found.get("statusMessage"):
        detail = f"{detail}: {said}"
    state = STATES.get(status, "pending")
    address = _address(found, ssh_port, external_ip)
    return Sighting(
        key=key,
        handle=Handle(provider=provider, ref=name, region=region, zone=zone),
        state="pending" if state == "running" and address is None else state,
        address=address if state in ("running", "stopping") else None,
        launched_at=seconds(found["creationTimestamp"]),
        micro_usd_per_hour=_number(labels.get(names.PRICE)),
        lifecycle=lifecycle,
        instance_type=last(found.get("machineType")),
        notice=notice,
        epoch=_number(labels.get(names.EPOCH)),
        detail=detail,
    )


def owner_of(found: Mapping[str, Any]) -> str | None:
    """Whose instance it is, exactly; None: not one of everpool's."""
    marks = names.marks_of(found.get("description"))
    return None if marks is None else marks.owner


def seconds(timestamp: object) -> float:
    """A time of the vendor (RFC 3339) in seconds since the epoch."""
    return datetime.fromisoformat(str(timestamp).replace("Z", "+00:00")).timestamp()


def _disk(config: GcpConfig, order: Order) -> dict[str, Any]:
    offer = order.offer
    image = order.image or config.source_image.of(offer.instance_type.architecture)
    if "/" not in image:
        image = f"projects/{config.project}/global/images/{image}"
    kind = config.disk_type
    if kind is None:
        hyper = _HYPERDISK.match(offer.instance_type.name) is not None
        kind = "hyperdisk-balanced" if hyper else "pd-balanced"
    size_gb = max(config.disk_gb, order.disk_gb or 0)
    return {
        "boot": True,
        "autoDelete": True,
        "type": "PERSISTENT",
        "initializeParams": {
            "sourceImage": image,
            "diskSizeGb": str(-int(-size_gb // 1)),
            "diskType": f"zones/{offer.zone}/diskTypes/{kind}",
        },
    }


def _interface(config: GcpConfig, region: str) -> dict[str, Any]:
    made: dict[str, Any] = {"network": network(config)}
    if config.subnetwork is not None:
        made["subnetwork"] = subnetwork(config, region)
    if config.external_ip:
        made["accessConfigs"] = [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
    return made


def network(config: GcpConfig) -> str:
    """The partial URL of the machines' network."""
    named = config.network
    return named if "/" in named else f"global/networks/{named}"


def subnetwork(config: GcpConfig, region: str) -> str:
    """The partial URL of the machines' subnetwork in a region."""
    named = config.subnetwork or ""
    return named if "/" in named else f"regions/{region}/subnetworks/{named}"


def _items(config: GcpConfig, order: Order) -> list[dict[str, str]]:
    return _entries(
        {
            "ssh-keys": f"{config.ssh_user}:{order.public_key.strip()}",
            "block-project-ssh-keys": "TRUE",
            "enable-oslogin": "FALSE",  # it would take the place of ssh-keys
        }
    )


def _entries(items: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in items.items()]


def _address(found: Mapping[str, Any], port: int, external: bool) -> Address | None:
    for interface in (found.get("networkInterfaces") or [])[:1]:
        private = interface.get("networkIP")
        for access in interface.get("accessConfigs") or []:
            if external and access.get("natIP"):
                return Address(host=access["natIP"], port=port, private_host=private)
        if private and not external:
            return Address(host=private, port=port, private_host=private)
    return None


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isdecimal() else 0
