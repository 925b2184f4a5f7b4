"""Keys in the state directory, as effects and links ask for them."""

from actors.effects import Connect
from actors.events import InstanceId
from actors.instance.state import InstanceState
from providers.host.keys import KeyStore
from providers.model import Address, ClusterHandle, Handle, Machine


class Keys:
    """Implements `actors.acting.Keys` and `actors.links.Paths`."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._public: dict[str, str] = {}  # read once: every launch of a cluster asks

    def cluster_public_key(self, cluster_id: str) -> str:
        """The public key of a cluster's pair, made when there is none. Raises OSError."""
        if cluster_id not in self._public:
            self._public[cluster_id] = self._store.cluster_key(cluster_id)[1]
        return self._public[cluster_id]

    def host_private_key(self, cluster_id: str, instance_id: InstanceId) -> str:
        """The host key for a machine, made once per instance and pinned. Raises OSError."""
        return self._store.host_key(cluster_id, instance_id)

    def machine(self, connect: Connect) -> Machine:
        """Everything needed to get into the machine of a link."""
        return self._machine(connect.instance_id, connect.handle, connect.address, connect.cluster)

    def machine_of(self, state: InstanceState) -> Machine | None:
        """Everything needed to get into an instance; None while it has no address."""
        handle: Handle | None = getattr(state, "handle", None)
        address: Address | None = getattr(state, "address", None)
        if handle is None or address is None:
            return None
        return self._machine(state.id, handle, address, state.cluster)

    def _machine(
        self, instance: InstanceId, handle: Handle, address: Address, cluster: ClusterHandle
    ) -> Machine:
        return Machine(
            instance_id=instance,
            handle=handle,
            address=address,
            ssh_user=cluster.ssh_user,
            private_key_path=str(self._store.private_key_path(cluster.cluster_id)),
            known_hosts_path=str(self._store.known_hosts_path(cluster.cluster_id)),
        )

    def forget(self, cluster_id: str, instance_id: InstanceId | None = None) -> None:
        """Remove the key of a machine that is gone, or all keys of a cluster that is."""
        self._store.forget(cluster_id, instance_id)
        if instance_id is None:
            self._public.pop(cluster_id, None)
