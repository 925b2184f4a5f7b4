"""All that can be done outside, as orders. `acting.py` carries them out after the commit.

A call (launch, find, terminate, open, close) always answers with one message to the actor that
wanted it: done, failed or timed out. A word (say, acknowledge, watch, connect …) has no answer: what it
is for shows in later messages, and the state that waits for those has a deadline.
"""

from dataclasses import dataclass

from actors.events import InstanceId
from actors.messages import HoldingTold, LaunchTold, LossTold, LossWithdrawn, RefusalTold
from actors.spec import Env, FilePut, PoolSpec
from providers.agent.wire import Bootstrap, Drain, Start, Stop
from providers.model import Address, ClusterHandle, Handle, Offer


@dataclass(frozen=True, slots=True)
class Launch:
    """Order one machine. Answers LaunchSucceeded or LaunchFailed."""

    key: str
    node: int
    instance_id: InstanceId
    offer: Offer
    cluster: ClusterHandle
    image: str = ""
    disk_gb: float | None = None
    age_max_s: float | None = None
    micro_usd_per_hour_max: int | None = None


@dataclass(frozen=True, slots=True)
class Find:
    """Look a machine up by its launch key. Answers Found, NothingFound or FindFailed."""

    provider: str
    key: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """End a machine. Answers TerminateSucceeded or TerminateFailed."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class OpenCluster:
    """Answers ClusterOpened or ClusterOpenFailed."""

    cluster_id: str
    provider: str
    region: str


@dataclass(frozen=True, slots=True)
class CloseCluster:
    """Answers ClusterClosed or ClusterCloseFailed."""

    cluster: ClusterHandle


Call = Launch | Find | Terminate | OpenCluster | CloseCluster


@dataclass(frozen=True, slots=True)
class Watch:
    """Pass on what listings say of this machine from now on, its absence too."""

    provider: str
    key: str
    ref: str
    instance_id: InstanceId
    launched_at: float
    region: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Unwatch:
    """The key is of no interest any more."""

    provider: str
    key: str


@dataclass(frozen=True, slots=True)
class Look:
    """List the provider's machines soon: something there seems to have changed."""

    provider: str


@dataclass(frozen=True, slots=True)
class Connect:
    """Keep a stream to the machine's agent open until Disconnect, resuming after (boot, acked)."""

    instance_id: InstanceId
    handle: Handle
    address: Address
    cluster: ClusterHandle
    spec: PoolSpec
    boot: str | None
    acked: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the stream and forget it."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the agent something. Lost when the stream is down: said again when it is up."""

    instance_id: InstanceId
    command: Bootstrap | Stop | Drain


@dataclass(frozen=True, slots=True)
class StartSetUp:
    """Tell the agent to set the machine up. `env_groups` join the steps' environment when it is told.

    `boot`: of the agent as its instance knows it, for the answer when a group can't be had.
    """

    instance_id: InstanceId
    boot: str
    command: Bootstrap
    env_groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartTask:
    """Tell the agent to run an attempt, its files first.

    `env_groups` join its environment when it is told, but for the keys in `over`.
    """

    instance_id: InstanceId
    files: tuple[FilePut, ...]
    command: Start
    env_groups: tuple[str, ...] = ()
    over: Env | None = None


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """What the agent told up to this id is durable."""

    instance_id: InstanceId
    boot: str
    last_id: int


News = LaunchTold | RefusalTold | LossTold | LossWithdrawn | HoldingTold


@dataclass(frozen=True, slots=True)
class TellMarket:
    """News for the memory that all pools share."""

    news: News


@dataclass(frozen=True, slots=True)
class RefreshOffers:
    """A decision that depends on this provider's offers is near, and they are old: ask for them now."""

    provider: str


@dataclass(frozen=True, slots=True)
class TaskFilesDone:
    """The task is over: its followers may end, its input files may go."""

    task_id: str


Word = (
    Watch
    | Unwatch
    | Look
    | Connect
    | Disconnect
    | Say
    | StartSetUp
    | StartTask
    | Acknowledge
    | TellMarket
    | RefreshOffers
    | TaskFilesDone
)
Effect = Call | Word
