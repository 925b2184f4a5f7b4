"""The public contract: every Request that may be sent and every Fact that tells what happened.

Event = Request | Fact. Names, fields and defaults of the main seed are exact; what is ours is added
with defaults, or marked "(ours)". On a wire each event is JSON with `kind` as discriminator, inside
an `Envelope`. `Metric`, `Log` and `ConsoleOutput` are many: they travel through telemetry and have
cursors of their own instead of a seq.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter

from actors.spec import PoolName, PoolSpec, Seconds, TaskSpec
from providers.model import LeftoverKind, Offer, Value

RequestId = str
ClusterId = str
InstanceId = str
NodeId = int
ProviderName = str  # a name from the config: two accounts of one vendor are two names
Stream = Literal["stdout", "stderr"]
Result = Literal[
    "success", "failure", "startup_failure", "resource_failure", "killed", "terminated", "unknown"
]

# --- values inside events ---------------------------------------------------------------------


class Instance(Value):
    """A machine as events show it."""

    id: InstanceId
    status: Literal["provisioning", "provisioned", "bootstrapping", "bootstrapped", "ready", "exited"]
    offer: Offer
    ip: str | None = None
    private_ip: str | None = None
    ssh_port: int = 22
    ssh_password: None = None  # the seed has it; here it is never set
    spot: bool = False
    region: str = ""


class NodeInstance(Value):
    """A machine bound to a node. Carries no secret: `ssh_key_path` is relative to the state directory."""

    instance: Instance
    node: NodeId
    provider: ProviderName
    ssh_user: str
    ssh_key_path: str
    ssh_password: None = None
    network_interface: str = ""


class MountPlan(Value):
    """How volumes are mounted (the seed's value; no volume is mounted by this version)."""

    deploy_hints: dict[str, Any] = {}
    bootstrap: str | None = None


class Cluster(Value):
    """What a provider holds around the instances of (pool, account, region)."""

    id: ClusterId
    status: Literal["setting_up", "provisioning", "bootstrapping", "ready", "shutting_down", "destroyed"]
    spec: PoolSpec
    offer: Offer | None
    ssh_key_path: str
    ssh_user: str
    use_sudo: bool = False
    shutdown_command: str = ""
    specific: dict[str, str] = {}
    instances: tuple[NodeInstance, ...] = ()  # stays empty above 100
    prebaked: bool = False
    mount_plan: MountPlan | None = None
    ssh_pty: bool = False


# --- requests ---------------------------------------------------------------------------------


class _Request(Value):
    """A Request asks. `request_id` is its idempotency key; an empty one is filled at the border."""

    request_id: RequestId = ""


class PoolRequested(_Request):
    """(ours) A user wants a pool kept whole. Ends in PoolReady or Error."""

    kind: Literal["pool_requested"] = "pool_requested"
    pool: PoolName
    spec: PoolSpec
    ready_within_s: Seconds = 3600
    reply_to: str | None = None


class ClusterRequested(_Request):
    """A pool opens its surroundings at a provider; ends in ClusterProvisioned or Error.

    Sent by a user it is a PoolRequested on that one provider and ends in ClusterReady or Error.
    """

    kind: Literal["cluster_requested"] = "cluster_requested"
    provider: ProviderName
    spec: PoolSpec
    reply_to: str | None = None
    pool: str = ""


class InstanceRequested(_Request):
    """A node wants a machine. Ends in InstanceBootstrapped, or InstanceReplaced when `replacing`,
    or BootstrapFailed or Error."""

    kind: Literal["instance_requested"] = "instance_requested"
    provider: ProviderName
    cluster_id: ClusterId
    node_id: NodeId
    reply_to: str | None = None
    replacing: InstanceId | None = None


class BootstrapRequested(_Request):
    """Set a connected machine up (again). Ends in InstanceBootstrapped, BootstrapFailed or Error.

    From a user only `instance.instance.id` is looked at.
    """

    kind: Literal["bootstrap_requested"] = "bootstrap_requested"
    instance: NodeInstance
    cluster_id: ClusterId
    reply_to: str | None = None


class ShutdownRequested(_Request):
    """End a cluster and all that is in it: its pool, for a user. Ends in ClusterDestroyed or Error."""

    kind: Literal["shutdown_requested"] = "shutdown_requested"
    cluster_id: ClusterId
    reply_to: str | None = None


class PoolResizeRequested(_Request):
    """(ours) Keep another number of nodes. Ends in PoolResized or Error."""

    kind: Literal["pool_resize_requested"] = "pool_resize_requested"
    pool: PoolName
    nodes: Annotated[int, Field(ge=0, le=20_000)]
    ready_within_s: Seconds = 3600
    reply_to: str | None = None


class PoolUpdateRequested(_Request):
    """(ours) Change a pool's spec. Ends in PoolUpdated, or in Error when it can't be done in place."""

    kind: Literal["pool_update_requested"] = "pool_update_requested"
    pool: PoolName
    spec: PoolSpec
    reply_to: str | None = None


class DrainRequested(_Request):
    """(ours) Empty a node. Ends in InstanceReplaced (then=replace), InstanceDestroyed or Error."""

    kind: Literal["drain_requested"] = "drain_requested"
    pool: PoolName
    node: NodeId
    then: Literal["replace", "remove"] = "replace"
    within_s: Seconds | None = None  # None: the pool's drain_timeout
    reply_to: str | None = None


class TaskRequested(_Request):
    """(ours) Run something. Ends in TaskCompleted or Error. The task's id is the request's."""

    kind: Literal["task_requested"] = "task_requested"
    pool: PoolName
    task: TaskSpec
    reply_to: str | None = None


class TaskStopRequested(_Request):
    """(ours) Stop a task, pending or running. Ends in the task's TaskCompleted or Error."""

    kind: Literal["task_stop_requested"] = "task_stop_requested"
    pool: PoolName
    task_id: str
    grace_s: Annotated[float, Field(ge=0, le=86_400)] | None = None  # None: the task's own
    reply_to: str | None = None


class PoolPauseRequested(_Request):
    """(ours) Launch nothing and start no task until resumed; what runs goes on. With `paused` false: resume.

    Ends in PoolPaused or PoolResumed, or in Error.
    """

    kind: Literal["pool_pause_requested"] = "pool_pause_requested"
    pool: PoolName
    paused: bool = True
    reply_to: str | None = None


Request = (
    PoolRequested
    | ClusterRequested
    | InstanceRequested
    | BootstrapRequested
    | ShutdownRequested
    | PoolResizeRequested
    | PoolUpdateRequested
    | PoolPauseRequested
    | DrainRequested
    | TaskRequested
    | TaskStopRequested
)

# --- facts: pools and clusters ------------------------------------------------------------------


class ClusterProvisioned(Value):
    """The cluster's surroundings are there."""

    kind: Literal["cluster_provisioned"] = "cluster_provisioned"
    request_id: RequestId
    cluster_id: ClusterId
    provider: ProviderName


class ClusterReady(Value):
    """All desired nodes of the cluster's pool are ready."""

    kind: Literal["cluster_ready"] = "cluster_ready"
    cluster: Cluster


class ClusterDestroyed(Value):
    """Nothing of the cluster is left."""

    kind: Literal["cluster_destroyed"] = "cluster_destroyed"
    cluster_id: ClusterId


class PoolReady(Value):
    """(ours) All desired nodes are ready, for the first time or again."""

    kind: Literal["pool_ready"] = "pool_ready"
    pool: str
    nodes: int


class PoolResized(Value):
    """(ours) The pool has reached a size that was asked for, or the size was overtaken."""

    kind: Literal["pool_resized"] = "pool_resized"
    pool: str
    nodes: int
    superseded: bool = False


class PoolUpdated(Value):
    """(ours) The new spec holds. `changed` names what differs from the one before.

    `outdated`: machines that are not what it asks for; they are replaced, a few at a time, until PoolRolled
    or the end of the pool.
    """

    kind: Literal["pool_updated"] = "pool_updated"
    pool: str
    changed: tuple[str, ...] = ()
    outdated: int = 0


class PoolRolled(Value):
    """(ours) Every machine of the pool is what its spec asks for again.

    `renewed`: how many were replaced; 0 when the spec was changed back before any was.
    """

    kind: Literal["pool_rolled"] = "pool_rolled"
    pool: str
    renewed: int


class PoolParked(Value):
    """(ours) The pool launches nothing until it is updated or resized. Its machines that work live on."""

    kind: Literal["pool_parked"] = "pool_parked"
    pool: str
    reason: str
    wasted_micro_usd: int = 0  # what machines that never worked have cost within the last hour


class PoolPaused(Value):
    """(ours) The pool launches nothing and starts no task, because a user said so.

    `by`: who did; `already`: before this was asked.
    """

    kind: Literal["pool_paused"] = "pool_paused"
    pool: str
    by: str = ""
    already: bool = False


class PoolResumed(Value):
    """(ours) The pool works again after a pause. `already`: it did before this was asked."""

    kind: Literal["pool_resumed"] = "pool_resumed"
    pool: str
    already: bool = False


class PoolScaled(Value):
    """(ours) The pool wants another number of nodes, by the tasks there are."""

    kind: Literal["pool_scaled"] = "pool_scaled"
    pool: str
    before: int
    nodes: int
    why: str


class BudgetWarned(Value):
    """(ours) The pool has spent a good part of what it may. `period` is `day` or `total`."""

    kind: Literal["budget_warned"] = "budget_warned"
    pool: str
    period: Literal["day", "total"]
    spent_micro_usd: int
    limit_micro_usd: int


class BudgetReached(Value):
    """(ours) The pool may not spend more, and what is done about it.

    Attributes:
        until: when it may again; None: not by itself.
        needed_micro_usd: what is left of the limit at the most but can't be used: it is set aside to end the
            machines there are, or would not pay for one more.
    """

    kind: Literal["budget_reached"] = "budget_reached"
    pool: str
    period: Literal["day", "total"]
    spent_micro_usd: int
    limit_micro_usd: int
    then: Literal["warn", "stop-launching", "drain"]
    until: float | None = None
    needed_micro_usd: int = 0


class BudgetFreed(Value):
    """(ours) The pool may spend again: a new day, or another budget."""

    kind: Literal["budget_freed"] = "budget_freed"
    pool: str


# --- facts: instances ---------------------------------------------------------------------------


class InstanceLaunched(Value):
    """The provider accepted the order."""

    kind: Literal["instance_launched"] = "instance_launched"
    request_id: RequestId
    cluster_id: ClusterId
    node_id: NodeId
    provider: ProviderName
    instance_id: InstanceId
    why: str = ""  # why here, and not elsewhere


class InstanceRunning(Value):
    """The machine has an address."""

    kind: Literal["instance_running"] = "instance_running"
    request_id: RequestId
    cluster_id: ClusterId
    node_id: NodeId
    provider: ProviderName
    instance: Instance
    ssh_user: str = ""
    ssh_key_path: str = ""
    ssh_password: None = None
    network_interface: str = ""


class InstanceProvisioned(Value):
    """We are connected to the machine; it is not set up yet."""

    kind: Literal["instance_provisioned"] = "instance_provisioned"
    request_id: RequestId
    instance: NodeInstance


class InstanceBootstrapped(Value):
    """The machine is set up and ready for work."""

    kind: Literal["instance_bootstrapped"] = "instance_bootstrapped"
    instance: NodeInstance


class InstancePreempted(Value):
    """The machine is being taken, or was taken without a word."""

    kind: Literal["instance_preempted"] = "instance_preempted"
    instance: NodeInstance
    reason: str


class NoticeWithdrawn(Value):
    """(ours) The provider took its preemption notice back."""

    kind: Literal["notice_withdrawn"] = "notice_withdrawn"
    instance_id: InstanceId


class InstanceReplaced(Value):
    """Another machine fills the node; `old_id` is the last that did."""

    kind: Literal["instance_replaced"] = "instance_replaced"
    request_id: RequestId
    old_id: InstanceId
    new: NodeInstance


class InstanceDestroyed(Value):
    """The machine is observed absent."""

    kind: Literal["instance_destroyed"] = "instance_destroyed"
    instance_id: InstanceId
    reason: str = ""
    cost_micro_usd: int = 0  # from its launch to its end, by the vendor's times where it tells them


class LaunchRefused(Value):
    """(ours) A launch ended without a machine. `fault` is what it means, in our words."""

    kind: Literal["launch_refused"] = "launch_refused"
    instance_id: InstanceId
    market: str
    fault: str
    detail: str = ""  # the provider's words


class InstanceAdopted(Value):
    """(ours) A machine found in a listing is ours and wanted, and was taken in (again)."""

    kind: Literal["instance_adopted"] = "instance_adopted"
    instance_id: InstanceId
    ref: str


class InstanceQuarantined(Value):
    """(ours) A machine with our mark that nobody knows. It is reaped after the age guard."""

    kind: Literal["instance_quarantined"] = "instance_quarantined"
    key: str
    ref: str
    provider: ProviderName
    micro_usd_per_hour: int
    reap_at: float


class InstanceReaped(Value):
    """(ours) A quarantined machine is observed absent."""

    kind: Literal["instance_reaped"] = "instance_reaped"
    key: str
    ref: str
    provider: ProviderName
    cost_micro_usd: int = 0  # what no other fact has counted of it


class LeftoverFound(Value):
    """(ours) A disk, network, key or the like with our mark that nothing living claims, shown twice.

    It is removed once nobody has claimed it for the age guard.
    """

    kind: Literal["leftover_found"] = "leftover_found"
    leftover: LeftoverKind
    provider: ProviderName
    ref: str  # the vendor's name for it
    region: str = ""
    key: str = ""  # launch key of the machine it belonged to; "": its marks do not say
    cluster_id: ClusterId = ""
    micro_usd_per_hour: int = 0


class LeftoverRemoved(Value):
    """(ours) A leftover is observed absent, whether we removed it or it went by itself.

    Guards are kept in memory: one that goes while no daemon runs has no such fact.
    """

    kind: Literal["leftover_removed"] = "leftover_removed"
    leftover: LeftoverKind
    provider: ProviderName
    ref: str
    region: str = ""
    key: str = ""
    cluster_id: ClusterId = ""


class BootstrapPhase(Value):
    """A step of setting a machine up began, ended well or failed."""

    kind: Literal["bootstrap_phase"] = "bootstrap_phase"
    instance: NodeInstance
    event: Literal["started", "completed", "failed"]
    phase: str
    elapsed: float | None = None
    error: str | None = None


class BootstrapCommand(Value):
    """The command of a step, as it is run."""

    kind: Literal["bootstrap_command"] = "bootstrap_command"
    instance: NodeInstance
    command: str


class BootstrapFailed(Value):
    """Setting the machine up failed in `phase`."""

    kind: Literal["bootstrap_failed"] = "bootstrap_failed"
    instance: NodeInstance
    phase: str
    error: str


# --- facts: tasks -------------------------------------------------------------------------------


class TaskQueued(Value):
    """(ours) The task waits for a slot, for the first time or again."""

    kind: Literal["task_queued"] = "task_queued"
    task_id: str
    attempt: int


class TaskStarted(Value):
    """An attempt runs. function_name is the task's name, else the program.

    `env_groups`: which revision of each group of secrets it was started with.
    """

    kind: Literal["task_started"] = "task_started"
    task_id: str
    instance: NodeInstance
    function_name: str
    attempt: int = 1
    env_groups: dict[str, int] = {}


class TaskAttemptEnded(Value):
    """(ours) One run of the task is over, and surely so."""

    kind: Literal["task_attempt_ended"] = "task_attempt_ended"
    task_id: str
    attempt: int
    instance_id: InstanceId | None
    result: Result
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    cost_micro_usd: int = 0  # its share of what its machine cost while it ran


class TaskCompleted(Value):
    """The task is over: once per task. `duration` is seconds of its last attempt."""

    kind: Literal["task_completed"] = "task_completed"
    task_id: str
    instance: NodeInstance | None
    duration: float
    success: bool
    error: str | None = None
    result: Result = "unknown"
    reason: str = ""
    exit_code: int | None = None
    attempts: int = 0
    function_name: str = ""
    cost_micro_usd: int = 0  # of all its attempts


# --- facts: telemetry and errors ----------------------------------------------------------------


class Metric(Value):
    """One measured value; `timestamp` is the machine's clock."""

    kind: Literal["metric"] = "metric"
    instance: NodeInstance
    name: str
    value: float
    timestamp: float
    task_id: str = ""


class Log(Value):
    """One line of a task's output. `overwrite`: it replaces the line before (a progress bar)."""

    kind: Literal["log"] = "log"
    instance: NodeInstance
    line: str
    stream: Stream = "stdout"
    overwrite: bool = False
    task_id: str = ""
    attempt: int = 0
    number: int = 0  # line number in (task, attempt, stream), from 1


class ConsoleOutput(Value):
    """Output of a set-up step."""

    kind: Literal["console_output"] = "console_output"
    instance: NodeInstance
    content: str
    stream: Stream = "stdout"
    overwrite: bool = False


# --- facts: the daemon itself -----------------------------------------------------------------------


class Administered(Value):
    """(ours) Somebody with scope admin did something that is no Request; the envelope says who."""

    kind: Literal["administered"] = "administered"
    action: Literal["adopt", "hold", "backup", "reload", "rotate", "retry"]
    detail: str = ""


class ConfigReloaded(Value):
    """(ours) The config was read again. `plan`: a line for each thing that changes, or why it does not."""

    kind: Literal["config_reloaded"] = "config_reloaded"
    plan: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class TokenCreated(Value):
    """(ours) A token lets somebody in; the token itself is nowhere."""

    kind: Literal["token_created"] = "token_created"
    name: str
    scope: Literal["read", "submit", "admin"]
    pools: tuple[str, ...] = ()  # patterns; empty: all
    expires_at: float | None = None


class TokenRevoked(Value):
    """(ours) A token lets nobody in any more."""

    kind: Literal["token_revoked"] = "token_revoked"
    name: str


class SecretsStored(Value):
    """(ours) A group of environment variables has a new revision. Their values are nowhere in events."""

    kind: Literal["secrets_stored"] = "secrets_stored"
    group: str
    revision: int
    keys: tuple[str, ...]


class SecretsRemoved(Value):
    """(ours) A group of environment variables is gone, with all its revisions."""

    kind: Literal["secrets_removed"] = "secrets_removed"
    group: str


class CredentialStored(Value):
    """(ours) What a registry wants to see is kept, or was changed."""

    kind: Literal["credential_stored"] = "credential_stored"
    name: str
    hostname: str


class CredentialRemoved(Value):
    """(ours) What a registry wants to see is not kept any more."""

    kind: Literal["credential_removed"] = "credential_removed"
    name: str


class WebhookFailing(Value):
    """(ours) A webhook does not take what is sent to it; it is tried again until it does, or gives up."""

    kind: Literal["webhook_failing"] = "webhook_failing"
    webhook: str
    error: str


class WebhookTested(Value):
    """(ours) Somebody had a test sent to a webhook; sent itself, with seq 0, it is that test.

    `status`: of HTTP; `error`: why it was not taken.
    """

    kind: Literal["webhook_tested"] = "webhook_tested"
    webhook: str
    status: int | None = None
    error: str = ""


class WebhookRecovered(Value):
    """(ours) A webhook takes events again. `dropped`: those that were given up meanwhile."""

    kind: Literal["webhook_recovered"] = "webhook_recovered"
    webhook: str
    dropped: int = 0


class WebhookRemoved(Value):
    """(ours) The config names a webhook no more. What waited for it is not sent.

    `dropped`: events that it chose; null when the daemon was not running as it was taken out, so that what it
    chose is not known. `replies`: requests whose end it was to be sent.
    """

    kind: Literal["webhook_removed"] = "webhook_removed"
    webhook: str
    dropped: int | None = None
    replies: int = 0


class Error(Value):
    """Something went wrong. `fatal`: the request is over; the pool lives on unless it is parked."""

    kind: Literal["error"] = "error"
    request_id: RequestId
    message: str
    fatal: bool = False


class BugCaught(Value):
    """(ours) A rule raised. The message that caused it was removed; nothing else of the turn was lost."""

    kind: Literal["bug_caught"] = "bug_caught"
    address: str
    message: str
    error: str  # the exception's type: its text may hold secrets and differs between versions


Fact = (
    ClusterProvisioned
    | ClusterReady
    | ClusterDestroyed
    | PoolReady
    | PoolResized
    | PoolUpdated
    | PoolParked
    | PoolRolled
    | PoolPaused
    | PoolResumed
    | PoolScaled
    | BudgetWarned
    | BudgetReached
    | BudgetFreed
    | InstanceLaunched
    | InstanceRunning
    | InstanceProvisioned
    | InstanceBootstrapped
    | InstancePreempted
    | NoticeWithdrawn
    | InstanceReplaced
    | InstanceDestroyed
    | LaunchRefused
    | InstanceAdopted
    | InstanceQuarantined
    | InstanceReaped
    | LeftoverFound
    | LeftoverRemoved
    | BootstrapPhase
    | BootstrapCommand
    | BootstrapFailed
    | TaskQueued
    | TaskStarted
    | TaskAttemptEnded
    | TaskCompleted
    | Metric
    | Log
    | ConsoleOutput
    | Administered
    | ConfigReloaded
    | TokenCreated
    | TokenRevoked
    | SecretsStored
    | SecretsRemoved
    | CredentialStored
    | CredentialRemoved
    | WebhookFailing
    | WebhookRecovered
    | WebhookRemoved
    | WebhookTested
    | Error
    | BugCaught
)

Event = Request | Fact

RequestJson: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
EventJson: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])

KINDS: tuple[str, ...] = tuple(one.model_fields["kind"].default for one in get_args(Event))

# What only the daemon itself sends; from a user it is refused.
INTERNAL_REQUESTS = (InstanceRequested,)


class Envelope(Value):
    """One event as it was journaled.

    Attributes:
        seq: the journal's order and the followers' cursor; grows, may have gaps.
        at: UTC seconds since the epoch.
        pool: the pool it belongs to; empty for what belongs to the daemon.
        caused_by: seq of the event that led to this one.
        request_id: the Request it serves.
        ends: the request ids it is the terminal Fact of.
        principal: who asked, for Requests.
    """

    seq: int
    at: float
    pool: str
    caused_by: int | None = None
    request_id: str | None = None
    ends: tuple[str, ...] = ()
    principal: str = ""
    event: Annotated[Event, Field(discriminator="kind")]
