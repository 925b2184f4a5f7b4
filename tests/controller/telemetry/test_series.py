"""Prometheus series: names, counts by facts and states, timestamps, promtool."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from actors import events
from actors.events import Envelope, Event, Instance, NodeInstance
from actors.instance import state as instances
from actors.node import state as nodes
from actors.policy.adoption import Quarantined
from actors.pool import state as pools
from actors.ports import Commit, StateRow
from actors.spec import PoolSpec, TaskSpec
from actors.task import state as tasks
from controller.telemetry.console import ConsoleStore
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.machines import Whose, machine_registry, series_name
from controller.telemetry.metrics_store import MetricsStore
from controller.telemetry.series import Series, new_registry, preemption_kind
from controller.telemetry.sources import Sources
from providers.agent.wire import Metrics
from providers.model import MICRO, ClusterHandle, Handle, InstanceType, Offer, Value

OFFER = Offer(
    id="o",
    instance_type=InstanceType(name="small", vcpus=1, memory_gb=1),
    provider="local",
    micro_usd_per_hour=MICRO // 2,
)
CLUSTER = ClusterHandle(cluster_id="c", provider="local", region="", ssh_user="u")

NAMES = """
everpool_api_request_seconds everpool_api_requests everpool_bootstraps everpool_bugs everpool_build_info
everpool_console_kept_bytes everpool_cost_dollars_per_hour everpool_events everpool_files_fetched
everpool_files_kept_bytes everpool_files_refused everpool_instances everpool_journal_commits
everpool_journal_failing everpool_journal_lag_seconds everpool_journal_last_commit_seconds
everpool_journal_queue_depth everpool_journal_retries everpool_journal_rows everpool_launches
everpool_leadership_epoch everpool_lease_left_min_seconds everpool_leftovers
everpool_leftovers_dollars_per_hour everpool_link_reconnects everpool_links everpool_log_delete_failures
everpool_log_evicted_bytes everpool_log_evicted_tasks everpool_log_kept_bytes everpool_log_kept_bytes_max
everpool_log_lines everpool_log_lines_dropped everpool_log_lines_lost everpool_log_lost_bytes
everpool_mailbox_depth everpool_messages everpool_metric_values_dropped everpool_metric_values_received
everpool_nodes everpool_notice_to_replaced_seconds everpool_notice_to_replacement_asked_seconds
everpool_oldest_state_age_seconds everpool_pool_budget_usd everpool_pool_cost_usd
everpool_pool_desired_nodes everpool_pool_parked everpool_pool_spent_usd everpool_pool_usd_per_hour
everpool_pool_wasted_usd everpool_pools everpool_preemptions everpool_quarantined_machines
everpool_task_attempts everpool_task_queue_depth everpool_tasks everpool_tasks_completed
everpool_time_to_ready_seconds everpool_turn_seconds
""".split()


class Link:
    def __init__(self, up: bool, lease_until: float | None) -> None:
        self.up = up
        self.lease_until = lease_until


class Links:
    links = {"i-1": Link(True, 1100.0), "i-2": Link(False, 1050.0), "i-3": Link(False, None)}
    reconnects = 3


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
    return Series(new_registry(), providers=["local"], now=lambda: 1000.0, version="0.1.0", sources=sources)


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
    return pools.Active(name="a", generation=1, spec=PoolSpec(provider=("local",)), desired=desired)


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


def test_the_list_of_series_is_stable(series: Series) -> None:
    busy(series)
    names = {family.name for family in series.registry.collect()}
    assert sorted(name for name in names if not name.startswith("process_")) == NAMES
    for family in text_string_to_metric_families(generate_latest(series.registry).decode()):
        assert family.documentation


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
    assert value(series, "everpool_oldest_state_age_seconds", kind="instance", state="ready") == 100
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
    assert value(series, "everpool_oldest_state_age_seconds", kind="instance", state="ready") == 50
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
