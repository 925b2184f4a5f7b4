"""Prometheus series: names, counts by facts and states, timestamps, promtool."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from actors import events
from actors.buying import Budget
from actors.events import Envelope, Event, Instance, NodeInstance
from actors.instance import state as instances
from actors.node import state as nodes
from actors.policy.adoption import Quarantined
from actors.pool import state as pools
from actors.ports import Commit, StateRow
from actors.spec import Nodes, PoolSpec, TaskSpec
from actors.task import state as tasks
from controller.telemetry.borders import Borders
from controller.telemetry.console import ConsoleStore
from controller.telemetry.counting import AGES_MAX, StateCounts
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.machines import Whose, machine_registry, series_name
from controller.telemetry.metrics_store import MetricsStore
from controller.telemetry.series import Series, new_registry, preemption_kind
from controller.telemetry.sources import Sources
from providers.agent.wire import Metrics
from providers.model import MICRO, ClusterHandle, Handle, InstanceType, Offer, Value
from tests.controller.telemetry.naming import LISTED, PROCESS, listed

OFFER = Offer(
    id="o",
    instance_type=InstanceType(name="small", vcpus=1, memory_gb=1),
    provider="local",
    micro_usd_per_hour=MICRO // 2,
)
CLUSTER = ClusterHandle(cluster_id="c", provider="local", region="", ssh_user="u")


class Link:
    def __init__(self, up: bool, lease_until: float | None) -> None:
        self.up = up
        self.lease_until = lease_until


class Links:
    links = {"i-1": Link(True, 1100.0), "i-2": Link(False, 1050.0), "i-3": Link(False, None)}
    reconnects = 3


class Account:
    observed_at, offers_at, trouble = 990.0, None, "no money"
    offers: tuple[object, ...] | None = (1, 2)


class Hooks:
    def names(self) -> list[str]:
        return ["chat", "new"]

    def failing(self, name: str) -> bool:
        return name == "chat"

    def behind(self, name: str) -> int:
        return 40 if name == "chat" else 0

    def delivered(self, name: str) -> int:
        return 7

    def dropped(self, name: str) -> int:
        return 3


class Keys:
    def expiries(self) -> dict[str, float]:
        return {"short": 2000.0}


class Doorkeeper:
    tokens = Keys()
    connections, connections_refused, connections_cut, requests_limited, tokens_refused = 9, 1, 2, 3, 4
    certificate_expires_at: float | None = 5000.0


class Followed:
    count, lagged = 4, 1


class Stats:
    waiting, oldest_waiting_s, last_commit_s, commits, rows, retries = 2, 0.25, 0.002, 10, 50, 1
    failing_since: float | None = None


@pytest.fixture
def series(tmp_path: Path) -> Series:
    sources = Sources(
        now=lambda: 1000.0,
        logs=LogStore(tmp_path / "logs"),
        files=FileStore(tmp_path / "files"),
        console=ConsoleStore(tmp_path / "logs"),
        metrics=MetricsStore(),
        journal=Stats,
        epoch=lambda: 7,
        links=Links(),
        leftovers=lambda: [("local", "disk", 3, MICRO // 4), ("local", "key", 0, 0)],
    )
    borders = Borders(
        now=lambda: 1000.0,
        gateways=lambda: {"local": Account()},
        webhooks=Hooks(),
        followers=Followed(),
        guard=Doorkeeper,
        loop_lag=lambda: 0.125,
        health=lambda: {"ready": True, "observing_only": False},
        state_dir=tmp_path,
    )
    return Series(
        new_registry(),
        providers=["local"],
        now=lambda: 1000.0,
        version="0.1.0",
        sources=sources,
        borders=borders,
        pool_outdated={"a": 3}.__getitem__,
    )


def machine(name: str, node: int = 0) -> NodeInstance:
    return NodeInstance(
        instance=Instance(id=name, status="ready", offer=OFFER),
        node=node,
        provider="local",
        ssh_user="u",
        ssh_key_path="k",
    )


def commit(
    series: Series, *found: tuple[float, Event], rows: list[StateRow] | None = None, pool: str = "a"
) -> None:
    envelopes = [Envelope(seq=i, at=at, pool=pool, event=event) for i, (at, event) in enumerate(found, 1)]
    series.committed(Commit(pool, states=rows or [], envelopes=envelopes))


def row(kind: str, name: str, state: Value | None, *, terminal: bool = False) -> StateRow:
    return StateRow(kind, name, 1, state, terminal)


def ready(name: str, since: float) -> instances.Ready:
    return instances.Ready(
        id=name,
        key="k",
        pool="a",
        node=0,
        request_id="r",
        offer=OFFER,
        cluster=CLUSTER,
        created_at=since,
        since=since,
        handle=Handle(provider="local", ref="1"),
        launched_at=since,
    )


def active(desired: int = 2) -> pools.Active:
    spec = PoolSpec(
        provider=("local",), nodes=Nodes(desired=desired, min=1), budget=Budget(per_day=5.0, total=50.0)
    )
    return pools.Active(name="a", generation=1, spec=spec, desired=desired)


def value(series: Series, name: str, **labels: str) -> float | None:
    return series.registry.get_sample_value(name, labels)


def busy(series: Series) -> None:
    """A pool's day: a machine asked for, set up, taken, replaced, tasks run."""
    r1 = events.InstanceRequested(request_id="r1", provider="local", cluster_id="c", node_id=0)
    r2 = r1.model_copy(update={"request_id": "r2", "replacing": "i-1"})

    def launched(request: str, name: str) -> events.InstanceLaunched:
        return events.InstanceLaunched(
            request_id=request, cluster_id="c", node_id=0, provider="local", instance_id=name
        )

    commit(
        series,
        (10.0, r1),
        (11.0, events.LaunchRefused(instance_id="i-0", market="local/l/z/small/spot", fault="capacity")),
        (12.0, launched("r1", "i-1")),
        (40.0, events.InstanceBootstrapped(instance=machine("i-1"))),
        (100.0, events.InstancePreempted(instance=machine("i-1"), reason="spot-interruption")),
        (100.02, r2),
        (101.0, launched("r2", "i-2")),
        (130.0, events.InstanceBootstrapped(instance=machine("i-2"))),
        (130.0, events.InstanceReplaced(request_id="r2", old_id="i-1", new=machine("i-2"))),
        (
            131.0,
            events.TaskAttemptEnded(task_id="t", attempt=1, instance_id="i-1", result="resource_failure"),
        ),
        (140.0, events.TaskCompleted(task_id="t", instance=None, duration=1, success=True, result="success")),
        rows=[
            row("pool", "a", active()),
            row("instance", "i-2", ready("i-2", 900.0)),
            row("node", "0", nodes.Filled(pool="a", generation=1, node=0, since=990.0, instance_id="i-2")),
            row(
                "task",
                "t-2",
                tasks.Pending(id="t-2", pool="a", spec=TaskSpec(argv=("x",)), seq=1, since=995.0),
            ),
        ],
    )
    commit(
        series,
        rows=[
            row(
                "quarantine",
                "k9",
                Quarantined(
                    key="k9",
                    handle=Handle(provider="local", ref="9"),
                    micro_usd_per_hour=MICRO,
                    seen_at=1.0,
                    reap_at=2.0,
                ),
            )
        ],
        pool="",
    )
    series.turn_ended("a", messages=5, seconds=0.01, waiting=2)
    series.bug("instance/i-1", "Due", ValueError("x"))
    series.bug("what?", "Due", ValueError("x"))
    series.api_answered("GET", "/v1/tasks/{task_id}", 200, 0.01)


def exported(series: Series) -> dict[str, str]:
    """What is exported: name to type and labels."""
    found: dict[str, str] = {}
    for family in series.registry.collect():
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        found[family.name] = " ".join([family.type, ",".join(sorted(labels)) or "-"])
    return found


def test_the_list_of_series_is_stable(series: Series) -> None:
    busy(series)
    now = {name: of for name, of in exported(series).items() if name not in PROCESS}
    promised = listed()
    changed = {name: (of, now.get(name)) for name, of in promised.items() if now.get(name) != of}
    assert not changed, (
        "dashboards and alerts of users stand on these series (listed, exported now): keep them as they were "
        "and add another beside them; if one must go, say so under Changes in the README, then change "
        f"{LISTED.name} and deploy/docs/metrics.md: {changed}"
    )
    new = {name: of for name, of in now.items() if name not in promised}
    assert not new, f"put them into {LISTED.name} and deploy/docs/metrics.md: {new}"
    for family in text_string_to_metric_families(generate_latest(series.registry).decode()):
        assert family.documentation and family.name + "_created" not in now
        for sample in family.samples:  # single machines and tasks are for /metrics/instances only
            assert not {"node", "instance", "task"} & set(sample.labels)


def test_facts_are_counted(series: Series) -> None:
    busy(series)
    assert value(series, "everpool_launches_total", provider="local", outcome="ok") == 2
    assert value(series, "everpool_launches_total", provider="local", outcome="capacity") == 1
    assert value(series, "everpool_launches_total", provider="local", outcome="funds") == 0
    assert value(series, "everpool_time_to_ready_seconds_count", provider="local") == 2
    assert value(series, "everpool_time_to_ready_seconds_sum", provider="local") == pytest.approx(59.98)
    assert value(series, "everpool_notice_to_replacement_asked_seconds_sum") == pytest.approx(0.02)
    assert value(series, "everpool_notice_to_replaced_seconds_sum") == pytest.approx(30.0)
    assert value(series, "everpool_preemptions_total", provider="local", reason="spot_interruption") == 1
    assert value(series, "everpool_tasks_completed_total", pool="a", result="success") == 1
    assert value(series, "everpool_tasks_completed_total", pool="a", result="killed") == 0
    assert value(series, "everpool_task_attempts_total", pool="a", result="resource_failure") == 1
    assert value(series, "everpool_bugs_total", kind="instance") == 1
    assert value(series, "everpool_bugs_total", kind="other") == 1
    assert value(series, "everpool_messages_total", pool="a") == 5
    assert value(series, "everpool_mailbox_depth", pool="a") == 2
    assert value(series, "everpool_links", state="down") == 2
    assert value(series, "everpool_lease_left_min_seconds") == 50
    assert value(series, "everpool_leftovers", provider="local", kind="disk") == 3
    assert value(series, "everpool_leftovers", provider="local", kind="key") == 0
    assert value(series, "everpool_leftovers_dollars_per_hour", provider="local", kind="disk") == 0.25


def test_borders_are_shown(series: Series) -> None:
    assert value(series, "everpool_provider_observation_age_seconds", provider="local") == 10
    assert value(series, "everpool_provider_offers_age_seconds", provider="local") == 0  # since the start
    assert value(series, "everpool_provider_offers", provider="local") == 2
    assert value(series, "everpool_provider_trouble", provider="local") == 1
    assert value(series, "everpool_token_expires_timestamp_seconds", token="short") == 2000
    assert value(series, "everpool_api_connections") == 9
    assert value(series, "everpool_api_connections_cut_total") == 2
    assert value(series, "everpool_api_tokens_refused_total") == 4
    assert value(series, "everpool_certificate_expires_timestamp_seconds") == 5000
    assert value(series, "everpool_webhook_failing", webhook="chat") == 1
    assert value(series, "everpool_webhook_behind_events", webhook="chat") == 40
    assert value(series, "everpool_webhook_dropped_total", webhook="chat") == 3
    assert value(series, "everpool_webhook_behind_events", webhook="new") == 0
    assert value(series, "everpool_webhook_failing", webhook="new") == 0
    assert value(series, "everpool_followers") == 4
    assert value(series, "everpool_ready") == 1
    free = value(series, "everpool_state_disk_free_bytes")
    size = value(series, "everpool_state_disk_size_bytes")
    assert free is not None and size is not None and 0 <= free <= size


def test_what_alerts_about_pools_stand_on(series: Series) -> None:
    busy(series)
    assert value(series, "everpool_pool_ready_nodes", pool="a") == 1
    assert value(series, "everpool_pool_min_nodes", pool="a") == 1
    assert value(series, "everpool_pool_paused", pool="a") == 0
    assert value(series, "everpool_pool_outdated_nodes", pool="a") == 3
    assert value(series, "everpool_pool_state", pool="a", state="degraded") == 1
    assert value(series, "everpool_pool_state", pool="a", state="ready") == 0
    assert value(series, "everpool_pool_preemptions_total", pool="a") == 1
    assert value(series, "everpool_pool_replacements_total", pool="a") == 1
    assert value(series, "everpool_leak_suspected_machines", pool="") == 1  # the one in quarantine
    assert value(series, "everpool_leak_suspected_usd_per_hour", pool="") == 1.0
    assert value(series, "everpool_leak_suspected_machines", pool="a") == 0


def test_only_the_oldest_of_very_many_states_have_a_sample() -> None:
    counts = StateCounts(now=lambda: 10_000.0)
    for i in range(AGES_MAX + 50):
        state = nodes.Vacant(pool=f"p{i}", generation=1, node=0, since=float(i))
        counts.committed(Commit(f"p{i}", [row("node", "0", state)], []))
    [ages] = [family for family in counts.collect() if family.name == "everpool_oldest_state_age_seconds"]
    assert len(ages.samples) == AGES_MAX
    assert min(sample.value for sample in ages.samples) == 10_000 - (AGES_MAX - 1)


def test_states_are_counted_as_they_change(series: Series) -> None:
    busy(series)
    assert value(series, "everpool_nodes", pool="a", state="filled") == 1
    assert value(series, "everpool_nodes", pool="a", state="filling") == 0
    assert value(series, "everpool_instances", pool="a", provider="local", state="ready") == 1
    assert value(series, "everpool_task_queue_depth", pool="a") == 1
    assert value(series, "everpool_pool_desired_nodes", pool="a") == 2
    assert value(series, "everpool_cost_dollars_per_hour", pool="a", state="ready") == 0.5
    assert value(series, "everpool_cost_dollars_per_hour", pool="", state="quarantined") == 1.0
    assert value(series, "everpool_quarantined_machines", provider="local") == 1
    assert value(series, "everpool_oldest_state_age_seconds", pool="a", kind="instance", state="ready") == 100
    draining = instances.Draining(
        **ready("i-2", 0).model_dump(exclude={"status", "since", "gone_at"}),
        since=999.0,
        reason="x",
        deadline=1,
    )
    commit(
        series,
        rows=[
            row("instance", "i-2", draining),
            row("instance", "i-3", ready("i-3", 950.0)),
            row("task", "t-2", None),
            row(
                "pool",
                "a",
                pools.Parked(
                    **active(5).model_dump(include=set(pools.Parked.model_fields) - {"status", "reason"}),
                    reason="r",
                ),
            ),
        ],
    )
    assert value(series, "everpool_instances", pool="a", provider="local", state="draining") == 1
    assert value(series, "everpool_cost_dollars_per_hour", pool="a", state="draining") == 0.5
    assert value(series, "everpool_oldest_state_age_seconds", pool="a", kind="instance", state="ready") == 50
    assert value(series, "everpool_task_queue_depth", pool="a") == 0
    assert value(series, "everpool_pool_parked", pool="a") == 1
    assert value(series, "everpool_pools", state="parked") == 1
    assert series.instance("a", "i-3") is not None


def test_a_pool_that_is_gone_leaves_no_gauges(series: Series) -> None:
    busy(series)
    commit(
        series,
        rows=[
            row("pool", "a", None),
            row("node", "0", None),
            row("task", "t-2", None),
            row("instance", "i-2", ready("i-2", 1.0), terminal=True),
        ],
    )
    left = [
        (family.name, sample.labels)
        for family in series.states.collect()
        for sample in family.samples
        if sample.labels.get("pool") == "a"
    ]
    assert left == []
    assert value(series, "everpool_tasks_completed_total", pool="a", result="success") == 1


def test_counters_of_pools_long_gone_are_forgotten(series: Series) -> None:
    for i in range(260):
        state = active().model_copy(update={"name": f"p{i}"})
        commit(series, rows=[row("pool", f"p{i}", state)], pool=f"p{i}")
        commit(series, rows=[row("pool", f"p{i}", None)], pool=f"p{i}")
    assert value(series, "everpool_tasks_completed_total", pool="p0", result="success") is None
    assert value(series, "everpool_tasks_completed_total", pool="p259", result="success") == 0


def test_reasons_of_preemptions_are_a_closed_set() -> None:
    assert preemption_kind("spot-interruption") == "spot_interruption"
    assert preemption_kind("Spot termination") == "spot_interruption"
    assert preemption_kind("unreachable for 120 s") == "unreachable"
    assert preemption_kind("\n") == "other"


def measured() -> MetricsStore:
    store = MetricsStore()
    store.put(
        "a",
        "i-1",
        Metrics(
            id=1,
            at=1700000000.123,
            values={
                "cpu_percent": 50,
                "load1": 1.5,
                "memory_used_bytes": 2**30,
                "my.total": 1,
                "my-total": 2,
            },
        ),
    )
    store.put(
        "a", "i-1", Metrics(id=2, at=1700000001.5, task='t"1\n', values={"loss": 0.25, "9 lives": 1, "ü": 2})
    )
    store.put("a", "i-gone", Metrics(id=1, at=5, values={"load1": 1}))
    return store


def whose(pool: str, instance_id: str) -> Whose | None:
    return Whose(3, "local") if instance_id == "i-1" else None


def test_instances_keep_their_own_times() -> None:
    text = generate_latest(machine_registry(measured(), whose)).decode()
    labels = 'instance="i-1",node="3",pool="a",provider="local"'
    assert f"everpool_instance_cpu_busy_ratio{{{labels}}} 0.5 1700000000123\n" in text
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    assert {s.labels["instance"] for s in samples} == {"i-1"}
    [loss] = [s for s in samples if s.name == "everpool_task_loss"]
    assert (loss.value, loss.timestamp, loss.labels["task"]) == (0.25, 1700000001.5, 't"1\n')
    [total] = [s for s in samples if s.name == "everpool_instance_my_total_value"]
    assert total.value == 2  # "my-total" sorts first
    assert series_name("9 lives") == "9_lives"
    assert series_name("ü") == "_value"


def test_what_gpus_do_has_the_gpu_as_a_label() -> None:
    store = MetricsStore()
    values = {
        "gpu0_utilization_percent": 25,
        "gpu1_utilization_percent": 100,
        "gpu1_memory_total_bytes": 2**34,
    }
    store.put("a", "i-1", Metrics(id=1, at=5, values=values))
    text = generate_latest(machine_registry(store, whose)).decode()
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    assert {(s.name, s.labels["gpu"], s.value) for s in samples} == {
        ("everpool_instance_gpu_utilization_ratio", "0", 0.25),
        ("everpool_instance_gpu_utilization_ratio", "1", 1.0),
        ("everpool_instance_gpu_memory_size_bytes", "1", 2.0**34),
    }


def test_promtool_finds_nothing(series: Series) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    busy(series)
    for registry in (series.registry, machine_registry(measured(), whose)):
        text = generate_latest(registry)
        checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
