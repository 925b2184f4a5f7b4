"""How an instance shows itself in events."""

from typing import Literal, assert_never

from actors.events import Instance, InstanceRunning, NodeInstance
from actors.instance.state import (
    Bootstrapping,
    Destroyed,
    Destroying,
    Draining,
    InstanceState,
    Provisioning,
    Ready,
    Requested,
)
from providers.model import Address

SeedStatus = Literal["provisioning", "provisioned", "bootstrapping", "bootstrapped", "ready", "exited"]


def key_path(cluster_id: str) -> str:
    """Path of a cluster's private key, relative to the state directory."""
    return f"keys/{cluster_id}/id_ed25519"


def seed_status(state: InstanceState) -> SeedStatus:
    """The main seed's word for a state."""
    match state:
        case Requested():
            return "provisioning"
        case Provisioning():
            return "provisioning" if state.address is None else "provisioned"
        case Bootstrapping():
            return "bootstrapping"
        case Ready() | Draining():
            return "ready"
        case Destroying() | Destroyed():
            return "exited"
        case _:
            assert_never(state)


def instance_value(state: InstanceState) -> Instance:
    """The machine as events show it."""
    address: Address | None = getattr(state, "address", None)
    return Instance(
        id=state.id,
        status=seed_status(state),
        offer=state.offer,
        ip=address.host if address else None,
        private_ip=address.private_host if address else None,
        ssh_port=address.port if address else 22,
        spot=state.offer.lifecycle == "spot",
        region=state.offer.region,
    )


def node_instance(state: InstanceState) -> NodeInstance:
    """The machine bound to its node, as events show it."""
    return NodeInstance(
        instance=instance_value(state),
        node=state.node,
        provider=state.offer.provider,
        ssh_user=state.cluster.ssh_user,
        ssh_key_path=key_path(state.cluster.cluster_id),
    )


def running(state: Provisioning) -> InstanceRunning:
    """The fact that a machine has an address."""
    return InstanceRunning(
        request_id=state.request_id,
        cluster_id=state.cluster.cluster_id,
        node_id=state.node,
        provider=state.offer.provider,
        instance=instance_value(state),
        ssh_user=state.cluster.ssh_user,
        ssh_key_path=key_path(state.cluster.cluster_id),
    )
