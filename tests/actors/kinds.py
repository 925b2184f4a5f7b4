"""Every state and every message there is, with ids that fit together: for tests that try all of them."""

from collections.abc import Iterable
from itertools import product
from typing import Any

from actors.address import Address
from actors.events import (
    BootstrapRequested,
    ClusterRequested,
    DrainRequested,
    Envelope,
    InstanceRequested,
    PoolPauseRequested,
    PoolReady,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    Request,
    ShutdownRequested,
    TaskRequested,
    TaskStopRequested,
)
from actors.instance import state as instances
from actors.instance.facts import node_instance
from actors.messages import (
    AbsenceObserved,
    AgentHolds,
    AgentReported,
    AgentSaid,
    Assigned,
    BootstrapWanted,
    ClusterClosed,
    ClusterCloseFailed,
    ClusterOpened,
    ClusterOpenFailed,
    DrainAsked,
    DrainGivenUp,
    Due,
    Fill,
    FindFailed,
    Found,
    InstanceEnded,
    InstanceFailed,
    InstanceLeaving,
    InstanceMessage,
    InstanceNotLaunched,
    InstanceReady,
    InstanceStays,
    LaunchEnded,
    LaunchFailed,
    LaunchSucceeded,
    LaunchWanted,
    LeaveWanted,
    LinkDown,
    LinkUp,
    MachineBilled,
    MachineGone,
    MachineLeaving,
    MachineUnreachable,
    MarketsChanged,
    Move,
    MoveFailed,
    MoveGivenUp,
    NodeMessage,
    NodeReady,
    NodeRetired,
    NothingFound,
    NotPlaced,
    Placed,
    PoolMessage,
    Renumbered,
    RequestHeard,
    Retire,
    SetUpEnded,
    StopWanted,
    Submitted,
    TakeOver,
    TaskLeft,
    TaskMessage,
    TaskOver,
    TerminateFailed,
    TerminateSucceeded,
    VendorNotice,
)
from actors.node import state as nodes
from actors.pool import state as pools
from actors.spec import Image, Nodes, PoolSpec, Step, TaskSpec
from actors.task import state as tasks
from providers.agent import wire
from providers.errors import Fault
from providers.model import Address as HostAddress
from providers.model import Handle, Notice, Sighting
from tests.actors.model import cluster_handle, offer
from tests.actors.turns import OWNER, POOL

NOW = 1000.0
KEY, NAME, ORDER = f"{OWNER}/{POOL}/0/1.1/1", f"{POOL}-0-1.1.1", f"instance:{POOL}-0-1.1"
OLD = f"{POOL}-0-1.0.1"
BOOT, RUN, TASK = "boot", f"bootstrap:{NAME}", "t-0"
HANDLE, ADDRESS = Handle(provider="sim", ref="m"), HostAddress(host="h")
SPEC = PoolSpec(provider=("sim",), nodes=Nodes(desired=1), image=Image(steps=(Step(phase="p", run="true"),)))
CLUSTER = f"{POOL}-1-sim-r"
TIMES = (NOW - 1, NOW + 1)  # of deadlines: just over, and still to come

# --- states ---------------------------------------------------------------------------------------

_INSTANCE: dict[str, Any] = {
    "id": NAME,
    "key": KEY,
    "pool": POOL,
    "node": 0,
    "request_id": ORDER,
    "offer": offer(),
    "cluster": cluster_handle(CLUSTER),
    "created_at": 0,
    "since": 0,
}
_ALIVE = _INSTANCE | {"handle": HANDLE, "launched_at": 0}
_LINKED = _ALIVE | {"address": ADDRESS, "boot": BOOT, "acked": 3}


def _all(model: type[Any], base: dict[str, Any], **choices: Iterable[Any]) -> list[Any]:
    """The state with every combination of these values."""
    return [model(**base, **dict(zip(choices, some, strict=True))) for some in product(*choices.values())]


INSTANCES: list[instances.InstanceState] = [
    *_all(
        instances.Requested,
        _INSTANCE | {"asked_at": 0},
        tries=(1, 5),
        paced=(False, True),
        looking=(False, True),
        empty_looks=(0, 1),
        next_at=(None, *TIMES),
        leave=(None, "user"),
        replacing=(None, OLD),
    ),
    *_all(instances.Provisioning, _ALIVE, address=(None, ADDRESS), deadline=TIMES),
    *_all(
        instances.Bootstrapping,
        _LINKED | {"run_id": RUN, "bootstrap_request": RUN},
        deadline=TIMES,
        again=(False, True),
        link_up=(False, True),
        replacing=(None, OLD),
        bootstrap_requests=((), ("user-1",)),
    ),
    *_all(instances.Ready, _LINKED | {"link_up": False}, gone_at=TIMES),
    instances.Ready(**_LINKED),
    *_all(
        instances.Draining,
        _LINKED | {"reason": "preempted"},
        deadline=TIMES,
        noticed=(False, True),
        final=(False, True),
        lost=(False, True),
        link_up=(False, True),
    ),
    *_all(
        instances.Destroying,
        _INSTANCE | {"launched_at": 0, "reason": "user"},
        handle=(None, HANDLE),
        next_at=(None, *TIMES),
        empty_looks=(0, 1),
        accepted=(False, True),
    ),
    *_all(instances.Destroyed, _INSTANCE | {"reason": "user"}, launched=(False, True)),
]

_NODE: dict[str, Any] = {"pool": POOL, "generation": 1, "node": 0}
_DRAINS: tuple[dict[str, Any], ...] = ({}, {"drain_request": "drain-1", "draining_id": OLD, "last_id": OLD})
_ASKS: tuple[dict[str, Any], ...] = (
    {},
    {"next_at": TIMES[0]},
    {"next_at": TIMES[1], "backing_off": True},
    {"tries": 1},
    {"tries": 1, "instance_id": NAME},
)
NODES: list[nodes.NodeState] = [
    *(nodes.Vacant(**_NODE, **drain, next_at=at) for drain in _DRAINS for at in (None, *TIMES)),
    *(
        nodes.Filling(**_NODE, **drain, **ask, incarnation=1, request_id=ORDER, replacing=old)
        for drain in _DRAINS
        for ask in _ASKS
        for old in (None, OLD)
    ),
    *(
        nodes.Replacing(**_NODE, **drain, **ask, incarnation=1, request_id=ORDER, replacing=OLD, old_id=OLD)
        for drain in _DRAINS
        for ask in _ASKS
    ),
    nodes.Filling(**_NODE, incarnation=1, request_id=ORDER, missing_since=TIMES[0]),
    *(
        nodes.Replacing(
            **_NODE,
            **_ASKS[-1],
            incarnation=1,
            request_id=ORDER,
            replacing=OLD,
            old_id=OLD,
            moving=True,
            filled_at=filled_at,
        )
        for filled_at in (0, TIMES[0])
    ),
    nodes.Filled(**_NODE, incarnation=1, last_id=NAME, instance_id=NAME),
    *(
        nodes.Retired(**_NODE, **drain, reason="user", leaving=leaving)
        for drain in _DRAINS
        for leaving in ((), (NAME,), (OLD, NAME))
    ),
]

_TASK: dict[str, Any] = {"id": TASK, "pool": POOL, "seq": 1}
_PLACED = _TASK | {"instance_id": NAME, "node": 0}
_SPECS = (
    TaskSpec(argv=("x",)),
    TaskSpec(argv=("x",), retries=1, at_least_once=True),
    TaskSpec(shell="x y", retries_infrastructure=0, node=0),
)
TASKS: list[tasks.TaskState] = [
    *_all(tasks.Pending, _TASK, spec=_SPECS, not_before=(None, *TIMES)),
    *_all(tasks.Assigned, _PLACED, spec=_SPECS, stop_requests=((), ("stop-1",))),
    *_all(tasks.Created, _PLACED, spec=_SPECS),
    *_all(tasks.Running, _PLACED | {"pid": 1, "started_at": 0}, spec=_SPECS, failures=(0, 1)),
    *_all(
        tasks.Stopping,
        _PLACED | {"grace_s": 1},
        spec=_SPECS,
        reason=("moved", "user"),
        started_at=(None, 5),
        next_at=TIMES,
    ),
    *_all(tasks.Invalid, _PLACED | {"reason": "odd"}, spec=_SPECS, next_at=TIMES),
    *_all(tasks.Stopped, _TASK | {"reason": ""}, spec=_SPECS, result=("success", "killed")),
]

_CLUSTER = {"cluster_id": CLUSTER, "provider": "sim", "region": "r"}
_CLUSTERS: tuple[dict[str, Any], ...] = (
    {},
    {CLUSTER: pools.OpeningCluster(**_CLUSTER, request_id=f"cluster:{CLUSTER}")},
    {CLUSTER: pools.OpeningCluster(**_CLUSTER, request_id=f"cluster:{CLUSTER}", next_at=TIMES[0])},
    {CLUSTER: pools.OpenCluster(**_CLUSTER, handle=cluster_handle(CLUSTER))},
    {CLUSTER: pools.ClosingCluster(**_CLUSTER, handle=cluster_handle(CLUSTER))},
    {CLUSTER: pools.ClosingCluster(**_CLUSTER, handle=cluster_handle(CLUSTER), next_at=TIMES[0])},
)
_WAITING = tuple(
    pools.Waiting(request_id=f"wait-{ends_in}", ends_in=ends_in, nodes=1, deadline=deadline)
    for ends_in, deadline in (
        ("pool_ready", TIMES[0]),
        ("cluster_ready", TIMES[1]),
        ("pool_resized", TIMES[1]),
    )
)
_POOL: dict[str, Any] = {"name": POOL, "generation": 1, "spec": SPEC, "desired": 1}
POOLS: list[pools.PoolState] = [
    *_all(
        pools.Active,
        _POOL,
        clusters=_CLUSTERS,
        waiting=((), _WAITING),
        failures=({}, {str(offer().market): 3}),
        steered=((0, ()), (1, ())),
        removed=((), (1,)),
    ),
    *_all(
        pools.Active,
        _POOL,
        clusters=_CLUSTERS,
        waiting=((), _WAITING),
        paused=(pools.Paused(by="unix", since=NOW - 5),),
        look_at=TIMES,
        spares=(0, 2),
    ),
    *_all(pools.Active, _POOL, spares=(0, 2), look_at=TIMES, spares_at=(None, *TIMES), proven=(False, True)),
    *_all(
        pools.Parked, _POOL | {"reason": "broken"}, clusters=_CLUSTERS, waiting=((), _WAITING), spares=(0, 2)
    ),
    *_all(
        pools.Draining,
        _POOL | {"reason": "user"},
        clusters=_CLUSTERS,
        shutdowns=((), ("end-1",)),
        next_at=(None, TIMES[0]),
    ),
    pools.Destroyed(**_POOL),
]

# --- messages -------------------------------------------------------------------------------------


def _sighting(state: Any, **more: Any) -> Sighting:
    return Sighting(key=KEY, handle=HANDLE, state=state, launched_at=0, **more)


REPORTS: list[wire.Report] = [
    wire.Phase(id=4, run_id=RUN, event="started", phase="p"),
    wire.PhaseCommand(id=4, run_id=RUN, command="true"),
    wire.Console(id=4, run_id=RUN, stream="stdout", content="x"),
    wire.BootstrapEnded(id=4, run_id=RUN),
    wire.BootstrapEnded(id=4, run_id=RUN, phase="p", error="exit 1"),
    wire.BootstrapEnded(id=4, run_id="another"),
    wire.Started(id=4, task=TASK, attempt=1, pid=1),
    wire.Ended(id=4, task=TASK, attempt=1, code=0),
    wire.Ended(id=4, task=TASK, attempt=1, code=3),
    wire.Ended(id=4, task=TASK, attempt=1, started=False, why="stop"),
    wire.Ended(id=4, task=TASK, attempt=2, why="notice"),
    wire.LogLines(id=4, task=TASK, attempt=1, stream="stdout", offset=0, next_offset=2, lines=(("x", 0),)),
    wire.FetchedFile(id=4, task=TASK, attempt=1, path="x", offset=0, last=True),
    wire.Metrics(id=4, values={"cpu": 1.0}),
    wire.NoticeSeen(id=4, reason="spot"),
    wire.NoticeSeen(id=4, reason="spot", within_s=30),
    wire.NoticeGone(id=4),
    wire.Unhealthy(id=4, reason="disk"),
    wire.Refused(id=4, command="start", reason="old", task=TASK, attempt=1),
    wire.Refused(id=4, command="bootstrap", reason="old"),
]
NOTICES = (
    None,
    Notice(reason="spot"),
    Notice(reason="spot", deadline_at=NOW + 30),
    Notice(reason="rebalance recommendation", early=True),
)

INSTANCE_MESSAGES: list[InstanceMessage] = [
    Due(),
    LaunchWanted(KEY, 0, ORDER, None, offer(), cluster_handle(CLUSTER), "cheapest"),
    *(Renumbered(node) for node in (0, 7)),
    LaunchSucceeded(HANDLE),
    *(LaunchFailed(fault, "", after) for fault in Fault for after in (None, 5.0)),
    *(LaunchFailed(Fault.THROTTLED, "", after, paced=True) for after in (None, 5.0)),
    *(Found(_sighting(state)) for state in ("pending", "running", "stopping", "stopped")),
    Found(_sighting("running", address=ADDRESS)),
    Found(_sighting("running", address=HostAddress(host="moved"))),
    *(Found(_sighting("running", address=ADDRESS, notice=notice)) for notice in NOTICES),
    NothingFound(),
    *(FindFailed(fault) for fault in Fault),
    AbsenceObserved(),
    *(VendorNotice(notice) for notice in NOTICES),
    *(LinkUp(boot, accepted, ()) for boot in (BOOT, "other") for accepted in (False, True)),
    LinkUp(BOOT, True, ((TASK, 1, "running"), ("stray-0", 1, "waiting"), ("stray-1", 1, "ended"))),
    LinkDown("cut"),
    AgentSaid("other", 9, tuple(REPORTS[:1])),
    AgentSaid(BOOT, 2, (wire.NoticeGone(id=2),)),
    AgentSaid(BOOT, 4, tuple(REPORTS)),
    *(AgentSaid(BOOT, 4, (report,)) for report in REPORTS),
    LeaveWanted("user", 0),
    LeaveWanted("scale_in", 60),
    TaskLeft(),
    BootstrapWanted("user-2"),
    TerminateSucceeded(),
    *(TerminateFailed(fault, "", after) for fault in Fault for after in (None, 5.0)),
]
NODE_MESSAGES: list[NodeMessage] = [
    Due(),
    Fill(),
    Retire("scale_in", 60),
    DrainAsked("drain-2", False, 60),
    DrainAsked("drain-2", True, 60),
    DrainGivenUp("parked"),
    Placed(offer(), cluster_handle(CLUSTER), "cheapest"),
    Move(offer("b"), cluster_handle(CLUSTER), "better"),
    MoveGivenUp(),
    TakeOver(NAME),
    TakeOver(None),
    NotPlaced("none", NOW + 5),
    *(InstanceReady(name) for name in (NAME, OLD, f"{POOL}-9-1.1.1")),
    *(InstanceLeaving(name, "x", works) for name in (NAME, OLD) for works in (False, True)),
    *(InstanceStays(name) for name in (NAME, OLD)),
    *(InstanceNotLaunched(name, "m", fault, "") for name in (NAME, OLD) for fault in Fault),
    *(InstanceFailed(name, reason) for name in (NAME, OLD) for reason in ("preempted", "timeout")),
    *(InstanceEnded(name, reason) for name in (NAME, OLD) for reason in ("gone", "user")),
]
TASK_MESSAGES: list[TaskMessage] = [
    Due(),
    Submitted(
        Envelope(
            seq=2,
            at=0,
            pool=POOL,
            request_id=TASK,
            event=TaskRequested(request_id=TASK, pool=POOL, task=_SPECS[0]),
        )
    ),
    Assigned(NAME, 0),
    *(AgentReported(name, report) for name in (NAME, OLD) for report in REPORTS),
    *(
        AgentHolds(name, attempt, word, same)
        for name in (NAME, OLD)
        for attempt, word in ((None, None), (1, "waiting"), (1, "running"), (1, "ended"), (2, "waiting"))
        for same in (False, True)
    ),
    *(MachineGone(name, "preempted") for name in (NAME, OLD)),
    *(MachineLeaving(name, "preempted") for name in (NAME, OLD)),
    *(MachineUnreachable(name) for name in (NAME, OLD)),
    StopWanted(None, "shutdown", None),
    StopWanted("stop-2", "user", 0),
]
_VALUE = node_instance(instances.Ready(**_LINKED))
REQUESTS: list[Request] = [
    PoolRequested(request_id="r", pool=POOL, spec=SPEC),
    ClusterRequested(request_id="r", provider="sim", spec=SPEC, pool=POOL),
    InstanceRequested(request_id="r", provider="sim", cluster_id="c", node_id=0),
    BootstrapRequested(request_id="r", instance=_VALUE, cluster_id="c"),
    ShutdownRequested(request_id="r", cluster_id=POOL),
    *(PoolResizeRequested(request_id="r", pool=POOL, nodes=nodes) for nodes in (0, 1, 5)),
    PoolUpdateRequested(request_id="r", pool=POOL, spec=SPEC),
    PoolUpdateRequested(request_id="r", pool=POOL, spec=SPEC.model_copy(update={"vcpus": 2.0})),
    PoolUpdateRequested(request_id="r", pool=POOL, spec=SPEC.model_copy(update={"lease_s": 60.0})),
    *(PoolPauseRequested(request_id="r", pool=POOL, paused=paused) for paused in (True, False)),
    *(DrainRequested(request_id="r", pool=POOL, node=node) for node in (0, 7)),
    DrainRequested(request_id="r", pool=POOL, node=0, then="remove"),
    *(TaskRequested(request_id="r", pool=POOL, task=spec) for spec in _SPECS),
    *(TaskStopRequested(request_id="r", pool=POOL, task_id=task) for task in (TASK, "none")),
]
POOL_MESSAGES: list[PoolMessage] = [
    Due(),
    *(
        RequestHeard(Envelope(seq=9, at=0, pool=POOL, request_id="r", principal="user", event=request))
        for request in REQUESTS
    ),
    RequestHeard(Envelope(seq=9, at=0, pool=POOL, request_id="r", event=PoolReady(pool=POOL, nodes=1))),
    *(ClusterOpened(cluster_handle(name)) for name in (CLUSTER, "other")),
    *(ClusterOpenFailed(CLUSTER, fault, "", after) for fault in Fault for after in (None, 5.0)),
    *(ClusterClosed(name) for name in (CLUSTER, "other")),
    *(ClusterCloseFailed(CLUSTER, fault, "") for fault in Fault),
    MarketsChanged(),
    *(LaunchEnded(offer(), fault, "") for fault in Fault),
    SetUpEnded(offer(), None, 90.0, 2_000),
    SetUpEnded(offer(), "p: exit 1", 90.0, 2_000),
    *(MachineBilled(2_000, worked, "user") for worked in (False, True)),
    NodeReady(0),
    *(MoveFailed(name, "preempted") for name in (NAME, "other")),
    NodeRetired(0),
    *(TaskOver(TASK, ran_s) for ran_s in (0.0, 60.0)),
]
ADDRESSES: dict[str, Address] = {
    "pool": ("pool", POOL),
    "node": ("node", "0"),
    "instance": ("instance", NAME),
    "task": ("task", TASK),
}
