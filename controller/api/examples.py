"""One example of every Request and Fact: what /openapi.json shows."""

from typing import Any, get_args

from actors import events as e
from actors.spec import Nodes, PoolSpec, TaskSpec
from providers.model import InstanceType, Offer, Value

ASKED, AT = "r-5f2c8a1e9b7d4c30", 1_790_000_000.0
CLUSTER, OLD, NEW = "c-main-local", "i-0a1b2c", "i-3d4e5f"
SPEC = PoolSpec(provider=("aws",), nodes=Nodes(desired=3))
OFFER = Offer(
    id="m7i.large/us-east-1a/spot",
    instance_type=InstanceType(name="m7i.large", vcpus=2, memory_gb=8),
    provider="aws",
    region="us-east-1",
    zone="us-east-1a",
    micro_usd_per_hour=38_500,
)
INSTANCE = e.Instance(id=NEW, status="ready", offer=OFFER, ip="203.0.113.7", spot=True, region="us-east-1")
MACHINE = e.NodeInstance(
    instance=INSTANCE, node=0, provider="aws", ssh_user="admin", ssh_key_path=f"keys/{CLUSTER}"
)
GROUND = e.Cluster(
    id=CLUSTER, status="ready", spec=SPEC, offer=OFFER, ssh_key_path=f"keys/{CLUSTER}", ssh_user="admin"
)

REQUESTS: tuple[e.Request, ...] = (
    e.PoolRequested(request_id=ASKED, pool="main", spec=SPEC),
    e.ClusterRequested(request_id=ASKED, provider="aws", spec=SPEC, pool="main"),
    e.InstanceRequested(request_id=ASKED, provider="aws", cluster_id=CLUSTER, node_id=0, replacing=OLD),
    e.BootstrapRequested(request_id=ASKED, instance=MACHINE, cluster_id=CLUSTER),
    e.ShutdownRequested(request_id=ASKED, cluster_id="main"),
    e.PoolResizeRequested(request_id=ASKED, pool="main", nodes=5),
    e.PoolUpdateRequested(request_id=ASKED, pool="main", spec=SPEC),
    e.PoolPauseRequested(request_id=ASKED, pool="main", paused=True),
    e.DrainRequested(request_id=ASKED, pool="main", node=2, then="replace"),
    e.TaskRequested(
        request_id=ASKED, pool="main", task=TaskSpec(name="train", argv=("python3", "train.py"), retries=2)
    ),
    e.TaskStopRequested(request_id=ASKED, pool="main", task_id="r-train"),
)

_ASKED_FOR = {"request_id": ASKED, "cluster_id": CLUSTER, "node_id": 0, "provider": "aws"}
_BUDGET = {"pool": "main", "period": "day", "spent_micro_usd": 9_000_000, "limit_micro_usd": 10_000_000}
_LEFT = {"leftover": "disk", "provider": "aws", "ref": "vol-0123456789", "region": "us-east-1"}

_FACTS: tuple[tuple[type[Value], dict[str, Any]], ...] = (
    (e.ClusterProvisioned, {"request_id": ASKED, "cluster_id": CLUSTER, "provider": "aws"}),
    (e.ClusterReady, {"cluster": GROUND}),
    (e.ClusterDestroyed, {"cluster_id": CLUSTER}),
    (e.PoolReady, {"pool": "main", "nodes": 3}),
    (e.PoolResized, {"pool": "main", "nodes": 5}),
    (e.PoolUpdated, {"pool": "main", "changed": ("nodes.min",)}),
    (e.PoolRolled, {"pool": "main", "renewed": 3}),
    (e.PoolParked, {"pool": "main", "reason": "3 bootstraps failed in a row", "wasted_micro_usd": 12_000}),
    (e.PoolPaused, {"pool": "main"}),
    (e.PoolResumed, {"pool": "main"}),
    (e.PoolScaled, {"pool": "main", "before": 3, "nodes": 5, "why": "12 tasks wait"}),
    (e.BudgetWarned, _BUDGET),
    (e.BudgetReached, _BUDGET | {"then": "stop-launching"}),
    (e.BudgetFreed, {"pool": "main"}),
    (e.InstanceLaunched, _ASKED_FOR | {"instance_id": NEW, "why": "the cheapest that fits"}),
    (e.InstanceRunning, _ASKED_FOR | {"instance": INSTANCE, "ssh_user": "admin"}),
    (e.InstanceProvisioned, {"request_id": ASKED, "instance": MACHINE}),
    (e.InstanceBootstrapped, {"instance": MACHINE}),
    (e.InstancePreempted, {"instance": MACHINE, "reason": "spot interruption notice"}),
    (e.NoticeWithdrawn, {"instance_id": NEW}),
    (e.InstanceReplaced, {"request_id": ASKED, "old_id": OLD, "new": MACHINE}),
    (e.InstanceDestroyed, {"instance_id": OLD, "reason": "preempted", "cost_micro_usd": 77_000}),
    (e.LaunchRefused, {"instance_id": NEW, "market": str(OFFER.market), "fault": "capacity"}),
    (e.InstanceAdopted, {"instance_id": NEW, "ref": "i-0123456789abcdef0"}),
    (
        e.InstanceQuarantined,
        {
            "key": "owner/main/0/4/1",
            "ref": "i-0123456789abcdef0",
            "provider": "aws",
            "micro_usd_per_hour": 38_500,
            "reap_at": AT + 600,
        },
    ),
    (e.InstanceReaped, {"key": "owner/main/0/4/1", "ref": "i-0123456789abcdef0", "provider": "aws"}),
    (e.LeftoverFound, _LEFT),
    (e.LeftoverRemoved, _LEFT),
    (e.BootstrapPhase, {"instance": MACHINE, "event": "completed", "phase": "packages", "elapsed": 8.2}),
    (e.BootstrapCommand, {"instance": MACHINE, "command": "apt-get install -y git"}),
    (e.BootstrapFailed, {"instance": MACHINE, "phase": "packages", "error": "exit code 100"}),
    (e.TaskQueued, {"task_id": ASKED, "attempt": 1}),
    (e.TaskStarted, {"task_id": ASKED, "instance": MACHINE, "function_name": "train"}),
    (
        e.TaskAttemptEnded,
        {"task_id": ASKED, "attempt": 1, "instance_id": NEW, "result": "success", "exit_code": 0},
    ),
    (
        e.TaskCompleted,
        {
            "task_id": ASKED,
            "instance": MACHINE,
            "duration": 42.5,
            "success": True,
            "result": "success",
            "exit_code": 0,
            "attempts": 1,
            "function_name": "train",
        },
    ),
    (e.Metric, {"instance": MACHINE, "name": "cpu_percent", "value": 87.5, "timestamp": AT}),
    (
        e.Log,
        {"instance": MACHINE, "line": "loss 0.12", "task_id": ASKED, "attempt": 1, "number": 17},
    ),
    (e.ConsoleOutput, {"instance": MACHINE, "content": "Setting up git ..."}),
    (e.Administered, {"action": "backup", "detail": "/var/backups/everpool.sqlite3"}),
    (e.ConfigReloaded, {"plan": ("pool main: nodes 3 -> 5",)}),
    (e.TokenCreated, {"name": "ci", "scope": "submit", "pools": ("ci-*",), "expires_at": AT}),
    (e.TokenRevoked, {"name": "ci"}),
    (e.SecretsStored, {"group": "train", "revision": 2, "keys": ("API_KEY",)}),
    (e.SecretsRemoved, {"group": "train"}),
    (e.CredentialStored, {"name": "hub", "hostname": "registry.example.org"}),
    (e.CredentialRemoved, {"name": "hub"}),
    (e.WebhookFailing, {"webhook": "chat", "error": "HTTP 503"}),
    (e.WebhookTested, {"webhook": "chat", "status": 204}),
    (e.WebhookRecovered, {"webhook": "chat", "dropped": 0}),
    (e.WebhookRemoved, {"webhook": "chat", "dropped": 2, "replies": 1}),
    (e.Error, {"request_id": ASKED, "message": "no offer fits the pool", "fatal": True}),
    (e.BugCaught, {"address": "task/r-train", "message": "Due", "error": "KeyError"}),
)


def examples() -> dict[str, e.Event]:
    """An example by the name of each Request's and Fact's class."""
    made: list[Any] = [kind.model_validate(fields) for kind, fields in _FACTS]
    return {type(one).__name__: one for one in (*REQUESTS, *made)}


def envelope(event: e.Event) -> e.Envelope:
    """An event as it is journaled."""
    asked = isinstance(event, get_args(e.Request))
    return e.Envelope(
        seq=4711,
        at=AT,
        pool="main",
        caused_by=None if asked else 4710,
        request_id=ASKED,
        principal="token:ci" if asked else "",
        event=event,
    )
