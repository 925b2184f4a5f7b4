"""The vendor's JSON as our values, and back. Pure.

A machine is a contract. Its label says whose it is, under which launch key, and by which provider of the
config, as two may share an account; so it can be looked up by its label alone. What else we have to know of
it is in one variable of its environment, which listings show.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from providers.errors import Fault, ProviderError
from providers.model import MICRO, Address, Handle, Order, Sighting, SightingState
from providers.vastai.config import ONSTART_CHARS_MAX, VastaiConfig

LABEL_CHARS_MAX = 1024  # [OpenAPI, manageInstance.label]
MARKS = "EVERPOOL_MARKS"
_LABEL = re.compile(r"everpool key=([^\s=]+) provider=[^\s=]*")
_SAFE = "/._-:@+"
_ENDED = ("stopped", "exited", "frozen")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Marks:
    """What we wrote on a machine when it was made."""

    cluster: str = ""
    pool: str = ""
    epoch: int = 0
    micro_usd_per_hour: int | None = None
    instance_type: str = ""
    region: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a contract's four states come to. `offline`: its host can't be reached by the vendor."""

    state: SightingState
    detail: str = ""
    offline: bool = False


# --- creating -------------------------------------------------------------------------------------


def label_of(key: str, provider: str) -> str:
    """The label of the machine that `provider` launched under `key`; the key begins with its owner."""
    return f"everpool key={quote(key, safe=_SAFE)} provider={quote(provider, safe=_SAFE)}"


def key_of(label: object, provider: str) -> str | None:
    """The launch key in a label of this provider's, None when it is not exactly one."""
    found = _LABEL.fullmatch(label) if isinstance(label, str) else None
    if found is None:
        return None
    key = unquote(found[1])
    return key if label_of(key, provider) == label else None


def owner_of(key: str) -> str:
    """Whose key it is."""
    return key.partition("/")[0]


def create_body(
    order: Order,
    config: VastaiConfig,
    *,
    provider: str,
    disk_gb: float,
    micro_usd: int,
    bid: float | None,
    login: str | None,
) -> dict[str, Any]:
    """The request that makes one machine.

    Args:
        provider: which one makes it, by its name in the config.
        micro_usd: what it costs an hour, disk included; written on it.
        bid: dollars an hour without the disk; None: on demand.
        login: of the image's registry, in the form of `docker login`'s arguments; a secret.

    Raises:
        ProviderError: rejected; what we have to say is longer than the vendor takes.
    """
    label, onstart = label_of(order.key, provider), onstart_of(order.public_key, config.onstart)
    for what, text, most in (
        ("label", label, LABEL_CHARS_MAX),
        ("start script", onstart, ONSTART_CHARS_MAX),
    ):
        if len(text) > most:
            raise ProviderError(Fault.REJECTED, f"the {what} is longer than {most} characters")
    marks = Marks(
        cluster=order.cluster.cluster_id,
        pool=order.pool,
        epoch=order.epoch,
        micro_usd_per_hour=micro_usd,
        instance_type=order.offer.instance_type.name,
        region=order.offer.region,
        zone=order.offer.zone,
    )
    body: dict[str, Any] = {
        "client_id": "me",
        "image": order.image or config.image,
        "disk": disk_gb,
        "label": label,
        # As the vendor's SDK sends it for a direct port and the proxy besides; its schema knows other words.
        "runtype": "ssh_direc ssh_proxy" if config.direct_ssh else "ssh_proxy",
        "env": {**config.env, MARKS: written(marks)},
        "onstart": onstart,
        "target_state": "running",
        "cancel_unavail": True,  # refused rather than queued for a GPU for ever
    }
    if bid is not None:
        body["price"] = bid
    if login is not None:
        body["image_login"] = login
    return body


def onstart_of(public_key: str, extra: str) -> str:
    """What a machine runs at each start: lets the cluster's key in, then what the config adds."""
    line = " ".join(public_key.split())
    if "'" in line:
        raise ProviderError(Fault.REJECTED, "the cluster's public key holds a quote")
    script = (
        "mkdir -p /root/.ssh && chmod 700 /root/.ssh\n"
        "touch /root/.ssh/authorized_keys /root/.no_auto_tmux\n"
        f"grep -qxF '{line}' /root/.ssh/authorized_keys || "
        f"printf '\\n%s\\n' '{line}' >> /root/.ssh/authorized_keys\n"
        "chmod 600 /root/.ssh/authorized_keys\n"
    )
    return script + extra


def written(marks: Marks) -> str:
    """Marks as one line."""
    price = "" if marks.micro_usd_per_hour is None else str(marks.micro_usd_per_hour)
    fields = {
        "cluster": marks.cluster,
        "pool": marks.pool,
        "epoch": str(marks.epoch),
        "price": price,
        "type": marks.instance_type,
        "region": marks.region,
        "zone": marks.zone,
    }
    return " ".join(f"{name}={quote(value, safe=_SAFE)}" for name, value in fields.items())


def marks_of(row: Row) -> Marks:
    """What we wrote on a contract; empty where its environment is not shown.

    `extra_env` is a list of pairs in listings [OpenAPI, SDK]; an object is understood too.
    """
    env = row.get("extra_env")
    pairs = env.items() if isinstance(env, Mapping) else env if isinstance(env, list) else ()
    text = next((str(p[1]) for p in pairs if len(p) == 2 and p[0] == MARKS), "")
    found = {
        name: unquote(value) for name, _, value in (part.partition("=") for part in text.split(" ") if part)
    }
    price, epoch = found.get("price", ""), found.get("epoch", "")
    return Marks(
        cluster=found.get("cluster", ""),
        pool=found.get("pool", ""),
        epoch=int(epoch) if epoch.isdecimal() else 0,
        micro_usd_per_hour=int(price) if price.isdecimal() else None,
        instance_type=found.get("type", ""),
        region=found.get("region", ""),
        zone=found.get("zone", ""),
    )


# --- looking --------------------------------------------------------------------------------------


def condition_of(row: Row) -> Condition:
    """What a contract is doing. We never stop one, so that one which is stopped was outbid, or stopped by the
    vendor; it may resume by itself, and bills its disk until it is destroyed.

    Sources: status words from the OpenAPI document; "intended, current and next all stopped" is what dstack
    saw when outbid, "intended running, actually stopped" what another adapter reads [providers.md, 3].
    """
    actual, intended = row.get("actual_status"), row.get("intended_status")
    said = " ".join(str(row.get("status_msg") or "").split())[:200]
    after = f": {said}" if said else ""
    if intended in ("stopped", "frozen") or actual in _ENDED:
        why = "outbid" if row.get("is_bid") and actual != "exited" else f"{actual or intended} unasked"
        return Condition("stopped", f"{why}{after}")
    if actual in ("offline", "unknown"):
        return Condition("running", f"host {actual}{after}", offline=True)
    if actual == "running":
        return Condition("running")
    return Condition("pending", f"{actual or 'scheduling'}{after}")


def address_of(row: Row, *, direct: bool) -> Address | None:
    """Where a contract's ssh server answers: at a port of its host when it has one, else at the proxy."""
    host = str(row.get("public_ipaddr") or "").strip()
    port = _port(row.get("ports")) if direct else None
    if host and port:
        return Address(host=host, port=port)
    proxy, proxy_port = str(row.get("ssh_host") or "").strip(), row.get("ssh_port")
    return Address(host=proxy, port=proxy_port) if proxy and isinstance(proxy_port, int) else None


def _port(ports: object) -> int | None:
    bound = ports.get("22/tcp") if isinstance(ports, Mapping) else None
    try:
        return int(bound[0]["HostPort"]) if bound else None
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def place_of(geolocation: object) -> tuple[str, str]:
    """(region, zone) of what the vendor says, such as "California, US": the country, and where in it."""
    said = geolocation.replace("/", "-") if isinstance(geolocation, str) else ""
    before, _, country = said.rpartition(",")
    region = country.strip() or "unknown"
    return region, before.strip() or region


def handle_of(provider: str, row: Row) -> Handle:
    """How we name a contract."""
    marks, (region, zone) = marks_of(row), place_of(row.get("geolocation"))
    return Handle(
        provider=provider, ref=str(row["id"]), region=marks.region or region, zone=marks.zone or zone
    )


def sighting_of(
    provider: str, row: Row, key: str, condition: Condition, *, direct: bool, launched_at: float
) -> Sighting:
    """A contract of ours as a listing shows it."""
    marks = marks_of(row)
    address = address_of(row, direct=direct) if condition.state == "running" else None
    state, detail = condition.state, condition.detail
    if state == "running" and address is None:
        state, detail = "pending", detail or "no address yet"
    price = marks.micro_usd_per_hour
    if price is None:
        price = round(float(row.get("dph_total") or 0) * MICRO)
    return Sighting(
        key=key,
        handle=handle_of(provider, row),
        state=state,
        address=address,
        launched_at=launched_at,
        micro_usd_per_hour=price,
        stopped_micro_usd_per_hour=round(float(row.get("storage_total_cost") or 0) * MICRO),
        lifecycle="spot" if row.get("is_bid") else "on_demand",
        instance_type=marks.instance_type,
        epoch=marks.epoch,
        detail=detail,
    )
