"""What a pool has at providers around its machines: networks, keys, groups. Opened, kept, closed. Pure."""

from dataclasses import dataclass, field

from actors.decision import Decision, Published, View
from actors.effects import CloseCluster, Effect, OpenCluster
from actors.events import ClusterDestroyed, ClusterProvisioned, ClusterRequested, Error
from actors.messages import ClusterClosed, ClusterCloseFailed, ClusterOpened, ClusterOpenFailed
from actors.policy.backoff import retry_delay_s
from actors.pool.state import Active, ClosingCluster, ClusterState, OpeningCluster, PoolState
from actors.pool.state import OpenCluster as OpenClusterState
from providers.errors import Fault

SURELY_NOTHING = (Fault.NOT_SENT, Fault.REJECTED, Fault.CREDENTIALS, Fault.QUOTA, Fault.FUNDS)
CLUSTER_FIRST_S, CLUSTER_MOST_S = 2.0, 120.0
DETAIL_MAX = 500  # characters of an error that are kept


def cluster_name(state: PoolState, provider: str, region: str) -> str:
    """The id of the cluster that machines of this region belong to."""
    return f"{state.name}-{state.generation}-{provider}-{region}"


@dataclass(slots=True)
class Clusters:
    """A pool's clusters in the course of one decision; those that are needed and not there are opened."""

    state: Active
    found: dict[str, ClusterState]
    needed: dict[tuple[str, str], None] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    facts: list[Published] = field(default_factory=list)

    @classmethod
    def of(cls, state: Active) -> "Clusters":
        """Those that the pool has."""
        return cls(state, dict(state.clusters))

    def at(self, provider: str, region: str) -> ClusterState:
        """The cluster of a region, as it is now."""
        self.needed[provider, region] = None
        name = cluster_name(self.state, provider, region)
        if (known := self.found.get(name)) is not None:
            return known
        request = f"cluster:{name}"
        opening = OpeningCluster(cluster_id=name, provider=provider, region=region, request_id=request)
        self.found[name] = opening
        self.effects.append(OpenCluster(name, provider, region))
        asked = ClusterRequested(
            request_id=request, provider=provider, spec=self.state.spec, pool=self.state.name
        )
        self.facts.append(Published(asked, request_id=request))
        return opening


def heard(
    state: PoolState,
    message: ClusterOpened | ClusterOpenFailed | ClusterClosed | ClusterCloseFailed,
    view: View,
) -> Decision:
    """Next step when a call about a cluster was answered."""
    cluster_id = message.cluster.cluster_id if isinstance(message, ClusterOpened) else message.cluster_id
    known = state.clusters.get(cluster_id)
    match message, known:
        case ClusterOpened(cluster=handle), OpeningCluster():
            opened = OpenClusterState(
                cluster_id=cluster_id, provider=known.provider, region=known.region, handle=handle
            )
            fact = ClusterProvisioned(
                request_id=known.request_id, cluster_id=cluster_id, provider=known.provider
            )
            ends = (known.request_id,)
            return Decision(_with(state, opened), facts=(Published(fact, known.request_id, ends),))
        case ClusterOpenFailed(retry_after_s=after), OpeningCluster():
            tries = known.tries + 1
            wait = retry_delay_s(tries, view.draw, first_s=CLUSTER_FIRST_S, most_s=CLUSTER_MOST_S)
            text = f"{message.fault}: {message.detail}"
            nothing_made = message.fault in SURELY_NOTHING and (known.tries == 0 or known.surely_not_there)
            update = {
                "tries": tries,
                "next_at": view.now + max(wait, after or 0.0),
                "surely_not_there": nothing_made,
                "detail": text[:DETAIL_MAX],
            }
            failed = Error(request_id=known.request_id, message=text, fatal=False)
            return Decision(
                _with(state, known.model_copy(update=update)), facts=(Published(failed, known.request_id),)
            )
        case ClusterCloseFailed(), ClosingCluster():
            tries = known.tries + 1
            wait = retry_delay_s(tries, view.draw, first_s=CLUSTER_FIRST_S, most_s=CLUSTER_MOST_S)
            update = {"tries": tries, "next_at": view.now + wait}
            return Decision(_with(state, known.model_copy(update=update)))
        case ClusterClosed(), ClosingCluster():
            left = {name: one for name, one in state.clusters.items() if name != cluster_id}
            closed = ClusterDestroyed(cluster_id=cluster_id)
            return Decision(state.model_copy(update={"clusters": left}), facts=(Published(closed),))
        case _:
            return Decision(state)


def _with(state: PoolState, cluster: ClusterState) -> PoolState:
    return state.model_copy(update={"clusters": state.clusters | {cluster.cluster_id: cluster}})


def call_for(cluster: OpeningCluster | ClosingCluster) -> Effect:
    """The call that a cluster in this state is about."""
    if isinstance(cluster, OpeningCluster):
        return OpenCluster(cluster.cluster_id, cluster.provider, cluster.region)
    return CloseCluster(cluster.handle)
