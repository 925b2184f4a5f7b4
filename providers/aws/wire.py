"""aws's values to ours and back: marks, machines, instance types, user data, events. Pure."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from providers.errors import Fault, ProviderError
from providers.host.keys import public_line
from providers.model import (
    Accelerator,
    Address,
    Architecture,
    Handle,
    InstanceType,
    Lifecycle,
    Notice,
    Order,
    Sighting,
    SightingState,
)

OWNER, KEY, CLUSTER = "everpool-owner", "everpool-key", "everpool-cluster"
POOL, EPOCH, TYPE = "everpool-pool", "everpool-epoch", "everpool-type"
PRICE: dict[Lifecycle, str] = {"spot": "everpool-price-spot", "on_demand": "everpool-price-on-demand"}
BATCH = "everpool-batch"  # "run" or "fleet": several machines of one call, whose keys are in the next two
KEYS, MACHINES = "everpool-keys-", "everpool-machines-"
TAG_CHARS_MAX = 256
KEYS_TAGS_MAX, MACHINES_TAGS_MAX = 18, 9
USER_DATA_BYTES_MAX = (
    16 * 1024
)  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-add-user-data.html
NOTICE_LEAD_S = (
    120.0  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
)
FLEET_PREFIX, ANY_ZONE = "fleet:", "any"
TEMPLATE, GROUP, KEY_NAME, SUBNET, GROUPS, VPC = "template", "group", "key", "subnet:", "groups", "vpc"

_STATES: dict[str, SightingState] = {
    "pending": "pending",
    "running": "running",
    "shutting-down": "stopping",
    "stopping": "stopping",
    "stopped": "stopped",
}
_REASON_TIME = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
_NONE_OF_AWS = re.compile(r"[\x00-\x1f]")

Tags = dict[str, str]


def tags_of(thing: Mapping[str, Any]) -> Tags:
    """The tags of anything that has some; those of a network interface have another name."""
    found = thing.get("Tags") or thing.get("TagSet") or ()
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in found}


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags in the vendor's form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def specification(kinds: Iterable[str], tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """TagSpecifications that put the same tags on several kinds of thing."""
    return [{"ResourceType": kind, "Tags": as_tags(tags)} for kind in kinds]


def filters(**wanted: str | Sequence[str]) -> list[dict[str, Any]]:
    """Filters; `tag_X` is the tag X, an underscore in other names a hyphen."""
    found = []
    for name, values in wanted.items():
        text = name.replace("_", "-")
        values = [values] if isinstance(values, str) else list(values)
        found.append({"Name": text, "Values": values})
    return found


def literal(value: str) -> str:
    """A filter's value that matches nothing but itself: `*`, `?` and the backslash have meanings there."""
    return re.sub(r"([*?\\])", r"\\\1", value)


def tag_filter(tag: str, value: str) -> dict[str, Any]:
    """A filter on a tag's exact value."""
    return {"Name": f"tag:{tag}", "Values": [literal(value)]}


def digest(*words: str) -> str:
    """64 characters that stand for these words: for tokens and names."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def name_of(owner: str, cluster_id: str) -> str:
    """The name of a cluster's group, key and template. It proves nothing: only the owner's tag does."""
    return f"everpool-{digest(owner, cluster_id)[:24]}"


def check_key(order: Order) -> None:
    """Raises ProviderError(rejected) for a key that does not fit in a tag."""
    if len(order.key) > TAG_CHARS_MAX or _NONE_OF_AWS.search(order.key) or " " in order.key:
        raise ProviderError(Fault.REJECTED, f"a launch key of {len(order.key)} characters can't be a tag")


def named_profile(profile: str) -> dict[str, str]:
    """An instance profile by its name or its ARN."""
    return {"Arn" if profile.startswith("arn:") else "Name": profile}


# --- marks ------------------------------------------------------------------------------------------------


def cluster_marks(owner: str, cluster_id: str, pool: str, user: Mapping[str, str]) -> Tags:
    """What is on all that belongs to a cluster."""
    return {**user, OWNER: owner, CLUSTER: cluster_id, POOL: pool}


def machine_marks(orders: Sequence[Order], user: Mapping[str, str], batch: Literal["run", "fleet"]) -> Tags:
    """What is on the machines of one call: the key of a single one, or all keys in their order.

    Raises ProviderError(rejected) when they do not fit.
    """
    first = orders[0]
    marks = cluster_marks(first.owner, first.cluster.cluster_id, first.pool, user)
    marks |= {EPOCH: str(first.epoch), TYPE: first.offer.instance_type.name, "Name": f"everpool {first.pool}"}
    for order in orders:  # of several prices the highest: what is shown must not be too little
        mark = PRICE[order.offer.lifecycle]
        marks[mark] = str(max(order.offer.micro_usd_per_hour, int(marks.get(mark, 0))))
    if len(orders) == 1:
        return marks | {KEY: first.key, "Name": f"everpool {first.instance_id}"[:TAG_CHARS_MAX]}
    words = [
        f"{'s' if one.offer.lifecycle == 'spot' else 'o'}:{one.key.removeprefix(first.owner)}"
        for one in orders
    ]
    return marks | {BATCH: batch} | _spread(KEYS, words, KEYS_TAGS_MAX)


def machines_marks(refs: Sequence[str]) -> Tags:
    """Which machine of a fleet has which key: machines in the order of the keys, "" where there is none."""
    return _spread(MACHINES, [ref.removeprefix("i-") or "-" for ref in refs], MACHINES_TAGS_MAX)


def fits(orders: Sequence[Order]) -> bool:
    """Whether the keys of so many orders fit into the tags of one call."""
    try:
        machine_marks(orders, {}, "run")
    except ProviderError:
        return False
    return True


def batch_keys(tags: Mapping[str, str]) -> list[tuple[Lifecycle, str]]:
    """The keys that a call was made for, with their lifecycles."""
    owner = tags.get(OWNER, "")
    found: list[tuple[Lifecycle, str]] = []
    for word in _gathered(KEYS, tags):
        kind, _, rest = word.partition(":")
        found.append(("spot" if kind == "s" else "on_demand", owner + rest))
    return found


def batch_machines(tags: Mapping[str, str]) -> list[str] | None:
    """The machines of a fleet in the order of its keys; None: nobody has written that down yet."""
    words = _gathered(MACHINES, tags)
    return [f"i-{word}" if word != "-" else "" for word in words] if words else None


def assign(keys: Sequence[tuple[Lifecycle, str]], machines: Mapping[Lifecycle, Sequence[str]]) -> list[str]:
    """Which machine is for which key: the same for everybody who knows the same machines."""
    left = {lifecycle: sorted(refs, reverse=True) for lifecycle, refs in machines.items()}
    return [left[lifecycle].pop() if left.get(lifecycle) else "" for lifecycle, _ in keys]


def key_of(instance: Mapping[str, Any], tags: Mapping[str, str]) -> str | None:
    """The launch key of a machine of ours; None when its fleet's machines have not been given theirs yet.

    A machine that no key claims has a key that nobody wants, so that the sweep ends it.
    """
    if KEY in tags:
        return tags[KEY]
    ref = str(instance["InstanceId"])
    nobodys = nobodys_key(ref, tags)
    keys = batch_keys(tags)
    if tags.get(BATCH) == "run":
        index = int(instance.get("AmiLaunchIndex", 0))
        return keys[index][1] if index < len(keys) else nobodys
    if tags.get(BATCH) == "fleet":
        machines = batch_machines(tags)
        if machines is None:
            return None
        return keys[machines.index(ref)][1] if ref in machines[: len(keys)] else nobodys
    return nobodys


def nobodys_key(ref: str, tags: Mapping[str, str]) -> str:
    """The key of a machine of ours that no key claims."""
    return f"{tags.get(OWNER, '')}/{tags.get(POOL, '')}/unclaimed/1/{ref}"


def _spread(prefix: str, words: Sequence[str], tags_max: int) -> Tags:
    values = [""]
    for word in words:
        longer = f"{values[-1]} {word}".strip()
        if len(longer) <= TAG_CHARS_MAX:
            values[-1] = longer
        else:
            values.append(word)
    if len(values) > tags_max or max(map(len, values)) > TAG_CHARS_MAX:
        raise ProviderError(Fault.REJECTED, f"{len(words)} launch keys do not fit in {tags_max} tags")
    return {f"{prefix}{index:02d}": value for index, value in enumerate(values)}


def _gathered(prefix: str, tags: Mapping[str, str]) -> list[str]:
    return [word for tag in sorted(tags) if tag.startswith(prefix) for word in tags[tag].split()]


# --- machines ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """What a listing does not say of a machine: who lists it, where, and how one gets in."""

    provider: str
    region: str
    ssh_port: int
    private: bool


def lifecycle_of(instance: Mapping[str, Any]) -> Lifecycle:
    """How a machine was bought."""
    return "spot" if instance.get("InstanceLifecycle") == "spot" else "on_demand"


def handle_of(instance: Mapping[str, Any], place: Place) -> Handle:
    """How we name a machine."""
    zone = str((instance.get("Placement") or {}).get("AvailabilityZone", ""))
    return Handle(provider=place.provider, ref=str(instance["InstanceId"]), region=place.region, zone=zone)


def state_of(instance: Mapping[str, Any]) -> str:
    """The vendor's word for a machine's state."""
    return str((instance.get("State") or {}).get("Name", "pending"))


def launched_at(instance: Mapping[str, Any]) -> float:
    """When a machine was launched, by the vendor's clock."""
    return _seconds(instance["LaunchTime"])


def sighting(instance: Mapping[str, Any], key: str, place: Place, notice: Notice | None) -> Sighting | None:
    """A machine as a listing shows it; None for one that has ended nobody knows when."""
    tags, word, lifecycle = tags_of(instance), state_of(instance), lifecycle_of(instance)
    began = launched_at(instance)
    ended_at: float | None = None
    if word == "terminated":
        told = _REASON_TIME.search(str(instance.get("StateTransitionReason") or ""))
        if told is None:
            return None
        ended_at = datetime.strptime(told[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
        ended_at = max(ended_at, began)
    address = _address(instance, place) if word == "running" else None
    state = _STATES.get(word, "stopped")
    reason = str((instance.get("StateReason") or {}).get("Code") or "")
    return Sighting(
        key=key,
        handle=handle_of(instance, place),
        state="pending" if word == "running" and address is None else state,
        address=address,
        launched_at=began,
        ended_at=ended_at,
        micro_usd_per_hour=_number(tags.get(PRICE[lifecycle])),
        lifecycle=lifecycle,
        instance_type=tags.get(TYPE) or str(instance.get("InstanceType", "")),
        notice=notice,
        epoch=_number(tags.get(EPOCH)),
        detail=f"{word}: {reason}" if reason else word,
    )


def _address(instance: Mapping[str, Any], place: Place) -> Address | None:
    public, private = instance.get("PublicIpAddress"), instance.get("PrivateIpAddress")
    host = private if place.private else public or private
    return Address(host=host, port=place.ssh_port, private_host=private) if host else None


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _seconds(moment: Any) -> float:
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return datetime.fromisoformat(str(moment).replace("Z", "+00:00")).timestamp()


# --- what machines are given -------------------------------------------------------------------------------


def user_data(host_key: str) -> str:
    """What cloud-init is told: this host key and no other, or to make one when there is none.

    Source: https://cloudinit.readthedocs.io/en/latest/reference/modules.html#ssh
    """
    ssh: dict[str, object] = {"ssh_deletekeys": True, "ssh_genkeytypes": ["ed25519"]}
    if host_key:
        ssh["ssh_keys"] = {"ed25519_private": host_key, "ed25519_public": public_line(host_key)}
    text = f"#cloud-config\n{json.dumps(ssh, indent=1)}\n"  # JSON is YAML
    if len(text.encode()) > USER_DATA_BYTES_MAX:
        raise ProviderError(Fault.REJECTED, f"user data of {len(text)} characters is more than aws takes")
    return text


def shape_of(kind: Mapping[str, Any]) -> InstanceType | None:
    """An instance type's shape; None for what no Linux image of ours runs on."""
    supported = (kind.get("ProcessorInfo") or {}).get("SupportedArchitectures") or ()
    architecture: Architecture
    if "x86_64" in supported:
        architecture = "x86_64"
    elif "arm64" in supported:
        architecture = "arm64"
    else:
        return None
    return InstanceType(
        name=str(kind["InstanceType"]),
        accelerator=_accelerator(kind),
        vcpus=float(kind["VCpuInfo"]["DefaultVCpus"]),
        memory_gb=round(kind["MemoryInfo"]["SizeInMiB"] / 1024, 3),
        architecture=architecture,
    )


def _accelerator(kind: Mapping[str, Any]) -> Accelerator | None:
    found = (kind.get("GpuInfo") or {}).get("Gpus") or (kind.get("NeuronInfo") or {}).get("NeuronDevices")
    if not found:
        return None
    first = found[0]
    mib = (first.get("MemoryInfo") or {}).get("SizeInMiB", 0)
    count = float(first.get("Count", 1)) * float(first.get("GpuPartitionSize") or 1)
    maker = str(first.get("Manufacturer", "AWS"))
    memory = f"{round(mib / 1024)}GB" if mib else ""
    return Accelerator(name=str(first["Name"]), memory=memory, count=count, metadata={"manufacturer": maker})


# --- events ------------------------------------------------------------------------------------------------

WARNING = "EC2 Spot Instance Interruption Warning"
REBALANCE = "EC2 Instance Rebalance Recommendation"
STATE_CHANGE = "EC2 Instance State-change Notification"
_ENDING = ("shutting-down", "terminated", "stopping", "stopped")


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of EventBridge that says that a machine is taken; times by the vendor's clock."""

    id: str
    region: str
    ref: str
    reason: str
    deadline_at: float | None
    rebalance: bool = False
    over: bool = False  # it is being ended already: no warning, but the news of it


def happened(body: str) -> Happened | None:
    """What a message in the queue says; None for one that is none of our business.

    Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    try:
        event = json.loads(body)
        kind, detail = event["detail-type"], event["detail"]
        at, ref = _seconds(event["time"]), str(detail["instance-id"])
        event_id, region = str(event["id"]), str(event.get("region", ""))
    except (ValueError, KeyError, TypeError):
        return None
    if kind == WARNING:
        # Hibernation begins at once, and terminating or stopping after two minutes.
        lead = 0.0 if detail.get("instance-action") == "hibernate" else NOTICE_LEAD_S
        return Happened(event_id, region, ref, "spot interruption", at + lead)
    if kind == REBALANCE:
        return Happened(event_id, region, ref, "rebalance recommendation", None, rebalance=True)
    if kind == STATE_CHANGE and detail.get("state") in _ENDING:
        return Happened(event_id, region, ref, f"instance is {detail['state']}", at, over=True)
    return None
