"""What an adapter promises. Read this before writing one; `tests/contract` checks it.

Every method is async, cancellable, bounded in time by the caller's timeout, and raises nothing but
`ProviderError` for what can be expected. Retries are the caller's: an adapter never repeats a
call that creates something.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from providers.errors import ProviderError
from providers.model import (
    Capabilities,
    Check,
    ClusterHandle,
    ClusterOrder,
    Handle,
    Leftover,
    Leftovers,
    Listing,
    Machine,
    Notice,
    Offer,
    Order,
    Sighting,
)

Wire = dict[str, object]  # one message of the agent protocol, see providers/agent/agent.py


class AgentChannel(Protocol):
    """An open conversation with the agent of one machine: whole messages, both ways, in order.

    Ends by raising `HostError` from either method; a channel that ended is not used again.
    """

    async def send(self, messages: Sequence[Wire]) -> None:
        """Hand over messages; returns when they are on their way, not when they are heard."""
        ...

    async def receive(self) -> Sequence[Wire]:
        """Wait for at least one message and return all that are there."""
        ...


class Provider(Protocol):
    """One account of one vendor."""

    name: str
    capabilities: Capabilities

    async def offers(self) -> Sequence[Offer]:
        """Everything this account could rent now, with prices, one offer per market."""
        ...

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Make (or find, by cluster id) what the machines of a cluster need around them."""
        ...

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """Remove the cluster's surroundings. One that is gone already is a success."""
        ...

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Launch one machine per order, in the order given; an outcome per order.

        The order's key is the idempotency token: launching a key again returns the handle of the
        machine that has it, and never makes a second one, not even after the first has ended
        (then: Fault.GONE).
        """
        ...

    async def find(self, key: str) -> Sighting | None:
        """The machine launched under `key`, or None when there is none to be seen."""
        ...

    async def observe(self, owner: str) -> Listing:
        """Every machine marked with `owner`, also those that we do not know of."""
        ...

    def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """(launch key, notice) as the vendor pushes them; None withdraws. May never yield."""
        ...

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """End machines for good; an outcome per handle. One that is gone is a success.

        Success means accepted. Only an observation proves the absence.
        """
        ...

    async def leftovers(self, owner: str) -> Leftovers:
        """Everything marked with `owner` that is no machine: disks, volumes, networks, groups, keys, …

        Also what belongs to living machines and clusters: the caller knows which those are.
        """
        ...

    async def remove(self, leftover: Leftover) -> None:
        """Remove one of them. One that is gone is a success; one still in use is Fault.CONFLICT.

        Looks at its mark again first: what is not marked with its owner is never touched.
        """
        ...

    async def check(self, owner: str) -> Sequence[Check]:
        """What `everpool doctor` says: credentials, each permission that is needed, quota, clock.

        Changes nothing and costs nothing. Never raises for what it finds: that is a line of its own.
        """
        ...

    def attach(self, machine: Machine) -> AbstractAsyncContextManager[AgentChannel]:
        """Talk to the machine's agent, which is put there and started when it is not there yet."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and tasks of our own. Machines live on."""
        ...
