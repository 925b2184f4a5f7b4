"""What the fake rents: hosts with asks, and contracts with a life of their own. Times are the vendor's."""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fakes.guests import Boot, Guests

HOST, PROXY = "127.0.0.1", "localhost"
IMAGE_PORT = "22/tcp"
_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]+")
Turn = Literal["outbid", "outbid_quietly", "resumed", "offline", "online", "exited", "ending"]


@dataclass(frozen=True, slots=True)
class Host:
    """A host with so many free places of one shape. Prices are dollars an hour."""

    geolocation: str = "Oregon, US"
    gpu_name: str = "RTX 4090"
    num_gpus: int = 1
    gpu_ram: int = 24564
    cpu_cores: int = 64
    cpu_cores_effective: float = 8.0
    cpu_ram: int = 257_000
    price: float = 0.4
    min_bid: float = 0.15
    storage_cost: float = 0.2  # dollars per GB and month
    disk_space: float = 500.0
    direct_ports: int = 100
    places: int = 20
    reliability: float = 0.99
    verified: bool = True
    inet: float = 800.0
    cuda: float = 12.8

    @property
    def zone(self) -> str:
        """Where in its country it is."""
        return self.geolocation.rpartition(",")[0].strip()

    @property
    def country(self) -> str:
        """Two letters."""
        return self.geolocation.rpartition(",")[2].strip()

    @property
    def kind(self) -> str:
        """What `Controls.capacity` calls it."""
        return f"{self.num_gpus}x_{self.gpu_name.replace(' ', '_')}"

    def storage(self, disk_gb: float) -> float:
        """Dollars an hour for so much disk."""
        return self.storage_cost * disk_gb / 720


@dataclass(slots=True)
class Place:
    """Room for one machine. Its ask has a new id each time it is free again."""

    host: Host
    machine_id: int
    ask: int
    rented: bool = False


@dataclass(slots=True)
class Contract:
    """A machine."""

    id: int
    place: Place
    label: str | None
    body: dict[str, Any]
    key: str  # its own, for itself only
    made_at: float
    bid: float | None
    starts_after_s: float
    direct: bool
    port: int
    turns: list[tuple[float, Turn]] = field(default_factory=list)
    gone_at: float | None = None

    @property
    def disk(self) -> float:
        """GB."""
        return float(self.body.get("disk") or 10.0)

    def turn(self, at: float) -> Turn | None:
        """What happened to it last."""
        return next((turn for when, turn in reversed(self.turns) if when <= at), None)

    def runs(self, at: float) -> bool:
        """Whether it runs, and so bills its GPU."""
        return self.turn(at) in (None, "resumed", "online", "offline") and at >= self.made_at

    def status(self, at: float) -> dict[str, Any]:
        """The states that it shows."""
        states: dict[str, Any] = {
            "actual_status": "running",
            "cur_state": "running",
            "next_state": "running",
            "intended_status": "running",
            "status_msg": "success, running",
        }
        match self.turn(at):
            case "outbid":
                states |= dict.fromkeys(("cur_state", "next_state", "intended_status"), "stopped")
                states |= {
                    "actual_status": "stopped",
                    "status_msg": "outbid",
                }
            case "outbid_quietly":
                states |= {"actual_status": "stopped", "cur_state": "stopped", "status_msg": None}
            case "exited":
                states |= {"actual_status": "exited", "status_msg": "error"}
            case "ending":
                states |= {"actual_status": "exited", "intended_status": "stopped", "cur_state": "unloaded"}
            case "offline":
                states |= {"actual_status": "offline", "status_msg": None}
            case _:
                if at < self.made_at + self.starts_after_s:
                    half = at < self.made_at + self.starts_after_s / 2
                    states |= {"actual_status": None if half else "loading", "cur_state": "stopped"}
                    states["status_msg"] = None
        return states

    def dollars(self, until: float) -> float:
        """What it has cost: its GPU while it ran, its disk always."""
        end = until if self.gone_at is None else min(until, self.gone_at)
        host = self.place.host
        per_hour = host.price if self.bid is None else self.bid
        edges = sorted({self.made_at, end, *(at for at, _ in self.turns if self.made_at < at < end)})
        ran = sum(b - a for a, b in zip(edges, edges[1:], strict=False) if self.runs(a))
        return (per_hour * ran + host.storage(self.disk) * max(0.0, end - self.made_at)) / 3600

    def row(self, at: float) -> dict[str, Any]:
        """What a listing shows, by the fields of the vendor's document."""
        host, states = self.place.host, self.status(at)
        up = states["actual_status"] == "running"
        storage = host.storage(self.disk)
        base = host.price if self.bid is None else self.bid
        env = self.body.get("env")
        ports = {IMAGE_PORT: [{"HostIp": "0.0.0.0", "HostPort": str(self.port)}]}
        return states | {
            "id": self.id,
            "label": self.label,
            "machine_id": self.place.machine_id,
            "host_id": self.place.machine_id + 7,
            "image_uuid": str(self.body.get("image")),
            "image_runtype": str(self.body.get("runtype") or "ssh"),
            "image_args": [],
            "extra_env": [[str(k), str(v)] for k, v in env.items()] if isinstance(env, dict) else [],
            "onstart": str(self.body.get("onstart") or ""),
            "jupyter_token": "",
            "public_ipaddr": f"{HOST} ",  # the vendor's have white space too
            "local_ipaddrs": "10.0.0.5 172.17.0.2 \n",
            "ssh_host": PROXY,
            "ssh_idx": "1",
            "ssh_port": self.port,
            "ports": ports if up and self.direct else None,
            "direct_port_count": host.direct_ports,
            "direct_port_start": -1,
            "direct_port_end": -1,
            "start_date": self.made_at,
            "end_date": self.made_at + 30 * 86_400,
            "duration": 30 * 86_400.0,
            "uptime_mins": None,
            "geolocation": host.geolocation,
            "country_code": host.country,
            "gpu_name": host.gpu_name,
            "gpu_ram": host.gpu_ram,
            "num_gpus": host.num_gpus,
            "cpu_cores": host.cpu_cores,
            "cpu_cores_effective": host.cpu_cores_effective,
            "cpu_ram": host.cpu_ram,
            "disk_space": self.disk,
            "is_bid": self.bid is not None,
            "min_bid": host.min_bid,
            "dph_base": base,
            "dph_total": base + storage,
            "storage_cost": host.storage_cost,
            "storage_total_cost": storage,
            "verification": "verified" if host.verified else "unverified",
            "reliability2": host.reliability,
        }


class Estate:
    """All places and contracts of the fake. Its methods may be called from any thread."""

    def __init__(self, hosts: Sequence[Host], guests: Guests | None) -> None:
        self.lock = threading.RLock()
        self.contracts: dict[int, Contract] = {}
        self._guests = guests
        self._asks, self._ids = 9_000_000, 41_000_100
        self.places = [
            Place(host, 1000 + number, self._next_ask())
            for number, host in enumerate(hosts)
            for _ in range(host.places)
        ]

    def free(self, ask: int) -> Place | None:
        """The place that an ask is for, None when it is rented or was never there."""
        return next((place for place in self.places if place.ask == ask and not place.rented), None)

    def make(
        self, place: Place, body: dict[str, Any], *, bid: float | None, starts_after_s: float, runs: bool
    ) -> Contract:
        """Rent a place. One that does not run is left stopped, as after a bid that was too low."""
        self._ids += 1
        ref, direct = self._ids, "direc" in str(body.get("runtype")) and place.host.direct_ports > 0
        contract = Contract(
            id=ref,
            place=place,
            label=body.get("label"),
            body=body,
            key=f"instance-key-{ref}-secret",
            made_at=time.time(),
            bid=bid,
            starts_after_s=starts_after_s,
            direct=direct,
            port=20_000 + ref % 10_000,
        )
        place.rented = True
        if runs:
            self._boot(contract)
        else:
            contract.turns.append((contract.made_at, "outbid"))
        self.contracts[ref] = contract
        return contract

    def end(self, ref: int, ends_after_s: float = 0.0) -> None:
        """Remove a contract; its place is free again under another ask."""
        contract = self.contracts[ref]
        if contract.gone_at is not None:
            return
        now = time.time()
        contract.turns.append((now, "ending"))
        contract.gone_at = now + ends_after_s
        self._kill(contract)
        contract.place.rented = False
        contract.place.ask = self._next_ask()

    def happen(self, ref: int, turn: Turn, at: float) -> None:
        """Let something happen to a contract."""
        contract = self.contracts[ref]
        contract.turns.append((at, turn))
        contract.turns.sort(key=lambda one: one[0])
        if turn == "resumed":
            self._boot(contract)
        elif turn != "online" and at <= time.time():
            self._kill(contract)

    def living(self, at: float) -> list[Contract]:
        """Contracts that there are, by id."""
        there = [one for one in self.contracts.values() if one.made_at <= at]
        return [one for one in there if one.gone_at is None or one.gone_at > at]

    def _next_ask(self) -> int:
        self._asks += 1
        return self._asks

    def _boot(self, contract: Contract) -> None:
        if self._guests is None:
            return
        env = contract.body.get("env")
        given = {str(k): str(v) for k, v in env.items()} if isinstance(env, dict) else {}
        own = {"CONTAINER_ID": str(contract.id), "CONTAINER_API_KEY": contract.key}
        keys = tuple(dict.fromkeys(_KEY.findall(str(contract.body.get("onstart")))))
        contract.port = self._guests.boot(
            Boot(ref=str(contract.id), host=HOST, user="root", authorized_keys=keys, env=given | own)
        )

    def _kill(self, contract: Contract) -> None:
        if self._guests is not None:
            self._guests.kill(str(contract.id))
