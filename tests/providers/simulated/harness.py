"""A simulated cloud for tests, on the virtual clock, with a daemon's end that is typed by hand."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from controller.simulation.clock import VirtualClock
from providers.agent.wire import Hello, Start
from providers.contract import AgentChannel, Wire
from providers.errors import HostError, ProviderError
from providers.model import ClusterHandle, ClusterOrder, Handle, Machine, Offer, Order, Sighting
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud
from providers.simulated.cloud import Machine as CloudMachine
from providers.simulated.config import Delay, SimulatedConfig, SimulatedOffer
from tests.contract.harness import OWNER

START = 1_767_225_600.0
AT_ONCE = Delay()
CONFIG = SimulatedConfig(
    offers=(SimulatedOffer(spot=0.003, on_demand=0.01), SimulatedOffer(zone="small", spot=0.001, capacity=2)),
    boot_delay=Delay(least_s=0.5, more_s=0.2, most_s=5),
    end_delay=Delay(least_s=2, more_s=5, most_s=15),
    visible_within_s=0,
)
QUICK = CONFIG.model_copy(update={"call_delay": AT_ONCE, "boot_delay": AT_ONCE, "end_delay": AT_ONCE})


class Witness:
    """A spectator that writes everything down."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.texts: list[str] = []

    def machine_made(self, provider: str, key: str, ref: str, late: bool) -> None:
        self.seen.append(f"made {ref}{' late' if late else ''}")

    def machine_ended(self, provider: str, key: str, ref: str, reason: str) -> None:
        self.seen.append(f"ended {ref} {reason}")

    def machine_resumed(self, provider: str, key: str, ref: str) -> None:
        self.seen.append(f"resumed {ref}")

    def happened(self, text: str) -> None:
        self.texts.append(text)

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        self.seen.append(f"began {task}/{attempt}")

    def process_ended(self, ref: str, task: str, attempt: int) -> None:
        self.seen.append(f"over {task}/{attempt}")


class SimulatedHarness:
    """A cloud in memory."""

    def __init__(
        self, provider: SimulatedProvider, cluster: ClusterHandle, witness: Witness | None = None
    ) -> None:
        self.provider = provider
        self.cluster = cluster
        self.witness = witness or Witness()

    @property
    def cloud(self) -> Cloud:
        """Where it all is."""
        return self.provider.cloud

    def order(self, node: int, offer: Offer, *, owner: str = OWNER, attempt: int = 1) -> Order:
        """An order that nobody has made yet."""
        return Order(
            key=f"{owner}/pool/{node}/1/{attempt}",
            owner=owner,
            epoch=3,
            pool="pool",
            node=node,
            instance_id=f"pool-{node}-{attempt}",
            offer=offer,
            cluster=self.cluster,
            public_key="ssh-ed25519 AAAA",
        )

    def machine(self, order: Order, sighting: Sighting) -> Machine:
        """How to get into the machine that was made of `order`."""
        assert sighting.address is not None
        return Machine(
            instance_id=order.instance_id,
            handle=sighting.handle,
            address=sighting.address,
            ssh_user=self.cluster.ssh_user,
            private_key_path="/keys/id",
            known_hosts_path="/keys/known_hosts",
        )

    def again(self) -> SimulatedProvider:
        """Another adapter for the same account."""
        return self.another_daemon().provider

    async def kill(self, order: Order) -> None:
        """End the order's machine without a word."""
        self.cloud.preempt(self.cloud.of_key(order.key)[0], None)

    async def preempt(self, order: Order, within_s: float | None) -> None:
        """Give the order's machine its notice."""
        machine = self.cloud.of_key(order.key)[0]
        self.cloud.preempt(machine, 3600 if within_s is None else within_s, kill=False)

    # --- for tests of this provider alone ---------------------------------------------------------

    async def spot(self, zone: str = "sim-a") -> Offer:
        """The spot offer of a zone."""
        return next(
            one for one in await self.provider.offers() if (one.zone, one.lifecycle) == (zone, "spot")
        )

    async def launched(self, count: int = 1, *, zone: str = "sim-a") -> list[CloudMachine]:
        """New machines that have been up for a second. Faults must be off."""
        offer, first = await self.spot(zone), len(self.cloud.machines)
        orders = [self.order(first + node, offer) for node in range(count)]
        for outcome in await self.provider.launch(orders):
            assert isinstance(outcome, Handle), outcome
        await anyio.sleep(1)
        return [self.cloud.of_key(order.key)[0] for order in orders]

    def way_into(self, there: CloudMachine, instance_id: str | None = None) -> Machine:
        """How to get into a machine."""
        assert there.address is not None
        return Machine(
            instance_id=instance_id or f"instance-{there.ref}",
            handle=self.cloud.handle(there),
            address=there.address,
            ssh_user=self.cluster.ssh_user,
            private_key_path="/keys/id",
            known_hosts_path="/keys/known_hosts",
        )

    @asynccontextmanager
    async def talk(self, there: CloudMachine, **hello: object) -> AsyncIterator["Talk"]:
        """A conversation with a machine's agent, greeted already."""
        async with self.provider.attach(self.way_into(there)) as channel:
            talk = Talk(channel)
            await talk.greet(**hello)
            yield talk

    async def listed(self, owner: str = OWNER) -> dict[str, Sighting]:
        """What a listing shows, by ref."""
        return {one.handle.ref: one for one in (await self.provider.observe(owner)).sightings}

    def another_daemon(self, *, agent_version: str = "1", clock_wrong_s: float = 0.0) -> "SimulatedHarness":
        """The same cloud, seen by another daemon."""
        now = self.cloud.timeline.now
        provider = SimulatedProvider(
            self.provider.name,
            self.cloud.config,
            clock=lambda: now() + clock_wrong_s,
            cloud=self.cloud,
            agent_version=agent_version,
        )
        return SimulatedHarness(provider, self.cluster, self.witness)


class Talk:
    """The daemon's side of one conversation."""

    def __init__(self, channel: AgentChannel) -> None:
        self.channel = channel
        self.heard: list[Wire] = []
        self.hello: Wire = {}

    async def greet(self, **hello: object) -> None:
        """Say hello and hear it."""
        fields: dict[str, object] = {
            "owner": OWNER, "instance": "i", "epoch": 3, "lease_s": 3600, "slots": 4, "metrics_every_s": 0,
        }  # fmt: skip
        await self.say(Hello.model_validate(fields | hello).model_dump())
        self.hello = await self.until("hello")

    async def say(self, *messages: Wire) -> None:
        """Send messages."""
        await self.channel.send(messages)

    async def start(self, task: str, *argv: str, **more: object) -> None:
        """Let a task begin."""
        fields = {"epoch": 3, "task": task, "attempt": 1, "argv": argv, "log_bytes_max": 10_000}
        await self.say(Start.model_validate(fields | more).model_dump(mode="json"))

    async def until(self, kind: str, **fields: object) -> Wire:
        """Wait for a message of a kind, with such fields; those heard before count."""
        while True:
            for message in self.heard:
                if message["t"] == kind and all(message.get(name) == fields[name] for name in fields):
                    return message
            self.heard += await self.channel.receive()

    async def until_over(self) -> HostError:
        """Hear everything that comes until the stream ends."""
        while True:
            try:
                self.heard += await self.channel.receive()
            except HostError as error:
                return error


@asynccontextmanager
async def cloud_of(config: SimulatedConfig = QUICK) -> AsyncIterator[SimulatedHarness]:
    """A cloud that runs, with a cluster in it."""
    clock, witness = VirtualClock(START), Witness()
    cloud = Cloud("sim", config, clock.now, witness)
    provider = SimulatedProvider("sim", config, clock=clock.now, cloud=cloud)
    order = ClusterOrder(
        cluster_id="c1", owner=OWNER, pool="pool", region="sim", public_key="ssh-ed25519 AAAA"
    )
    cluster = cloud.open_cluster(order)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cloud.run)
        yield SimulatedHarness(provider, cluster, witness)
        tasks.cancel_scope.cancel()


def faults_of(outcomes: Sequence[Handle | ProviderError | None]) -> list[str]:
    """The fault of each outcome, "" where there is none."""
    return [str(one.fault) if isinstance(one, ProviderError) else "" for one in outcomes]
