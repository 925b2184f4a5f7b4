"""Vendors for a real daemon: a table for its config, and the fake, or the engine, that stands behind it."""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from providers.container.wire import KEY, OWNER, PROVIDER
from providers.vastai.wire import label_of
from tests.fakes.aws.fake import ACCESS_KEY, SECRET_KEY, AwsFake, reset
from tests.fakes.controls import Controls, Environ, StartResponse, WSGIApp
from tests.fakes.gcp.fake import PROJECT, FakeGcp
from tests.fakes.metadata import MetadataServers
from tests.fakes.serving import served
from tests.fakes.sshd import ProcessGuests, need_guests
from tests.fakes.vastai.fake import API_KEY, HOSTS, FakeVastai
from tests.providers.container.proxy import proxied
from tests.real.engines import IMAGE, RealEngine, engine
from tests.real.rig import Rig


class Vendor(Protocol):
    """One vendor, and what a test can do behind the daemon's back.

    Attributes:
        name: of the provider in the config.
    """

    name: str

    @property
    def toml(self) -> str:
        """Its table in the config."""
        ...

    def alive(self) -> list[str]:
        """Machines that are there, anybody's."""
        ...

    def resources(self) -> Sequence[object]:
        """Everything that is there, and bills or piles up."""
        ...

    def kill(self, ref: str) -> None:
        """End a machine without a word."""
        ...

    def orphan(self, owner: str) -> str:
        """Make a machine with the owner's marks; returns its ref."""
        ...

    def foreign(self, owner: str) -> str:
        """Make one that looks like it, of somebody else; returns its ref."""
        ...

    def creates(self) -> int:
        """How often a machine was asked for."""
        ...

    def fail_after_create(self) -> None:
        """Do what the next create asks, and answer with a server error."""
        ...

    def hold_creates(self, seconds: float) -> None:
        """Take so long for each create."""
        ...

    def limit(self, machines: int) -> None:
        """Have room for so many machines."""
        ...

    def shut(self) -> None:
        """Be out of reach."""
        ...

    def open(self) -> None:
        """Be there again."""
        ...

    def violations(self) -> list[str]:
        """What was said to it, or by it, against its schema."""
        ...


class Door:
    """WSGI middleware: while it is shut, connections are cut before anything is heard."""

    def __init__(self, app: WSGIApp) -> None:
        self._app = app
        self.shut = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if self.shut:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("shut on purpose")
        return self._app(environ, start_response)


def free_port() -> int:
    """A port that nobody has at any address of loopback, at the moment."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Faked:
    """What the fakes of vendors have in common here: their controls, and a door in front."""

    create: str  # what `Controls` calls the call that makes a machine

    def __init__(self, app: WSGIApp, controls: Controls, stack: ExitStack) -> None:
        self._controls, self._door = controls, Door(app)
        self.url = stack.enter_context(served(self._door))

    def creates(self) -> int:
        return self._controls.calls[self.create]

    def fail_after_create(self) -> None:
        self._controls.fail_after(self.create)

    def hold_creates(self, seconds: float) -> None:
        self._controls.hold(self.create, seconds)

    def shut(self) -> None:
        self._door.shut = True

    def open(self) -> None:
        self._door.shut = False

    def violations(self) -> list[str]:
        return self._controls.violations


class GcpVendor(Faked):
    """Compute Engine, of which one machine type in one zone is looked at."""

    name, create = "gcp", "instances.insert"
    zone, kind = "us-central1-a", "e2-standard-2"

    def __init__(self, stack: ExitStack, root: Path) -> None:
        guests, metadata = behind(stack)
        port = free_port()
        self.fake = FakeGcp(guests=guests, metadata=metadata, ssh_port=port)
        super().__init__(self.fake, self.fake.controls, stack)
        self.toml = f"""
[providers.gcp]
type = "gcp"
project = "{PROJECT}"
zones = ["{self.zone}"]
machine_types = ["{self.kind}"]
price_list = false
prices."{self.kind}" = {{ spot = 0.02 }}
key = {{ file = "{secret(root / "gcp-key.json", self.fake.key_file())}" }}
ssh_port = {port}
visible_within_s = 1
base_url = "{self.url}/compute/v1"
resource_manager_url = "{self.url}/v1"
billing_url = "{self.url}/v1"
token_url = "{self.url}/token"
"""

    def alive(self) -> list[str]:
        return self.fake.alive()

    def resources(self) -> Sequence[object]:
        return self.fake.resources()

    def kill(self, ref: str) -> None:
        self.fake.kill(ref)

    def orphan(self, owner: str) -> str:
        return self.fake.orphan(owner, zone=self.zone)

    def foreign(self, owner: str) -> str:
        return self.fake.foreign(owner, zone=self.zone)

    def limit(self, machines: int) -> None:
        self.fake.controls.capacity[f"{self.zone}/{self.kind}/spot"] = machines


class AwsVendor(Faked):
    """EC2 on moto, of which one type in one zone is looked at."""

    name, create = "aws", "RunInstances"
    zone, kind = "us-east-1a", "t3.small"

    def __init__(self, stack: ExitStack, root: Path, *, queue: bool = True, imds: bool = True) -> None:
        guests, metadata = behind(stack)
        port = free_port()
        self.fake = AwsFake(guests=guests, ssh_port=port, imds=metadata if imds else None)
        stack.callback(reset)
        stack.callback(self.fake.close)
        super().__init__(self.fake.app, self.fake.controls, stack)
        queues = f'queues = {{ "us-east-1" = "{self.fake.make_queue()}" }}' if queue else ""
        self.toml = f"""
[providers.aws]
type = "aws"
regions = ["us-east-1"]
zones = ["{self.zone}"]
instance_types = ["{self.kind}"]
endpoint_url = "{self.url}"
access_key_id = {{ file = "{secret(root / "aws-id", ACCESS_KEY)}" }}
secret_access_key = {{ file = "{secret(root / "aws-key", SECRET_KEY)}" }}
ssh_port = {port}
visible_within_s = 1
look_again_s = 0.2
read_attempts = 1
reads_per_s = 1000
writes_per_s = 1000
launches_per_s = 1000
launches_burst = 1000
{queues}
"""

    def alive(self) -> list[str]:
        return self.fake.alive()

    def resources(self) -> Sequence[object]:
        return self.fake.resources()

    def kill(self, ref: str) -> None:
        self.fake.kill(ref)

    def orphan(self, owner: str) -> str:
        return self.fake.orphan(f"{owner}/pool/0/1/1")

    def foreign(self, owner: str) -> str:
        return self.fake.foreign(name="everpool", owner=f"{owner}x")

    def limit(self, machines: int) -> None:
        market = f"{self.zone}/{self.kind}"
        self.fake.controls.capacity |= {f"{market}/spot": machines, f"{market}/on_demand": 0}


class VastaiVendor(Faked):
    """vast.ai, asked as often as we like."""

    name, create = "vastai", "create"

    def __init__(self, stack: ExitStack, root: Path) -> None:
        guests, _ = behind(stack)
        self.fake = FakeVastai(guests=guests)
        stack.callback(self.fake.close)
        super().__init__(self.fake, self.fake.controls, stack)
        paces = ("search_every", "search_again", "create_every", "list_every", "destroy_every", "other_every")
        self.toml = f"""
[providers.vastai]
type = "vastai"
api_key = {{ file = "{secret(root / "vast-key", API_KEY)}" }}
base_url = "{self.url}"
visible_within_s = 1
""" + "".join(f"{pace}_s = 0\n" for pace in paces)

    def alive(self) -> list[str]:
        return self.fake.alive()

    def resources(self) -> Sequence[object]:
        return self.fake.resources()

    def kill(self, ref: str) -> None:
        self.fake.kill(ref)

    def orphan(self, owner: str) -> str:
        return self.fake.orphan(f"{owner}/pool/0/1/1")

    def foreign(self, owner: str) -> str:
        return self.fake.foreign(label_of(f"{owner}x/pool/0/1/1", self.name))

    def limit(self, machines: int) -> None:
        for host in HOSTS:
            self.fake.controls.capacity |= {
                f"{host.zone}/{host.kind}/spot": machines,
                f"{host.zone}/{host.kind}/on_demand": 0,
            }


class ContainerVendor:
    """A real docker engine, reached by a socket in front of its own."""

    name = "container"

    def __init__(self, stack: ExitStack, root: Path) -> None:
        self._engine: RealEngine = engine("docker")
        self._engine.clear()
        stack.callback(self._engine.clear)
        self._proxy = stack.enter_context(proxied(self._engine.socket, root))
        self._capacity = 100
        self._made = 0

    @property
    def toml(self) -> str:
        """Its table in the config."""
        offers = [{"spot": 0.001, "vcpus": 0.5, "memory_gb": 0.25, "capacity": self._capacity}]
        return self._engine.toml(self.name, socket=str(self._proxy.socket), offers=offers)

    def alive(self) -> list[str]:
        return [one["Id"] for one in self._engine.containers()]

    def resources(self) -> Sequence[object]:
        return [*self.alive(), *self._engine.networks(), *self._engine.volumes()]

    def kill(self, ref: str) -> None:
        self._engine.kill(ref)

    def orphan(self, owner: str) -> str:
        return self._planted(owner)

    def foreign(self, owner: str) -> str:
        return self._planted(f"{owner}x")

    def _planted(self, owner: str) -> str:
        self._made += 1
        labels = {OWNER: owner, PROVIDER: self.name, KEY: f"{owner}/pool/0/1/1"}
        body = {"Image": IMAGE, "Cmd": ["sleep", "1000"], "Labels": labels} | {
            "HostConfig": {"NetworkMode": "none"}
        }
        made = self._engine.ask(
            "POST", "/containers/create", query={"name": f"everpool-planted-{self._made}"}, body=body
        )
        self._engine.ask("POST", f"/containers/{made['Id']}/start")
        return str(made["Id"])

    def creates(self) -> int:
        return self._proxy.controls.calls["create"]

    def fail_after_create(self) -> None:
        self._proxy.controls.fail_after("create")

    def hold_creates(self, seconds: float) -> None:
        self._proxy.controls.hold("create", seconds)

    def limit(self, machines: int) -> None:
        self._capacity = machines

    def shut(self) -> None:
        self._proxy.upstream = self._engine.root / "nobody"

    def open(self) -> None:
        self._proxy.upstream = self._engine.socket

    def violations(self) -> list[str]:
        return self._proxy.controls.violations


def behind(stack: ExitStack) -> tuple[ProcessGuests, MetadataServers]:
    """What runs behind a fake's machines: processes with ssh servers, and their metadata."""
    need_guests()
    guests, metadata = ProcessGuests(), MetadataServers()
    stack.callback(guests.close)
    stack.callback(metadata.close)
    return guests, metadata


def secret(path: Path, text: str) -> Path:
    """A file that only its user may read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


MADE: dict[str, Callable[[ExitStack, Path], Vendor]] = {
    "container": ContainerVendor,
    "aws": AwsVendor,
    "gcp": GcpVendor,
    "vastai": VastaiVendor,
}


@contextmanager
def opened(kind: str, rig: Rig) -> Iterator[Vendor]:
    """A vendor of this kind, with nothing there; leaving ends all that is."""
    with ExitStack() as stack:
        yield MADE[kind](stack, rig.root)
