"""Measured values: newest first, bounded, followed."""

import math

import anyio
import pytest

from controller.telemetry.metrics_store import MetricsStore, Point
from providers.agent.wire import Metrics


def report(values: dict[str, float], at: float, task: str = "") -> Metrics:
    return Metrics(id=1, at=at, values=values, task=task)


def test_the_newest_value_and_its_time_are_kept() -> None:
    store = MetricsStore()
    store.put("p", "i-1", report({"load1": 1.0, "cpu": 0.5}, 10.0))
    store.put("p", "i-1", report({"load1": 2.0}, 20.0))
    store.put("p", "i-1", report({"load1": 9.0}, 15.0))  # late: followers hear it, it is not the newest
    measured = store.of("i-1")
    assert measured is not None
    assert measured.newest[""] == {"load1": (2.0, 20.0), "cpu": (0.5, 10.0)}
    assert [point.value for point in store.since(1, instance_id="i-1")] == [2.0, 9.0]


def test_everything_is_bounded() -> None:
    store = MetricsStore(names_max=3, tasks_max=2, reports_max=4)
    store.put("p", "i-1", report({f"m{i}": 1.0 for i in range(10)} | {"x" * 999: 1.0}, 1.0))
    assert store.dropped == 8
    for i in range(10):
        store.put("p", "i-1", report({"a": float(i)}, 2.0, task=f"t-{i}"))
    measured = store.of("i-1")
    assert measured is not None
    assert list(measured.newest) == ["", "t-8", "t-9"]
    assert len(measured.reports) == 4
    assert store.put("p", "i-1", report({"a": 1.0}, math.nan)) is None
    store.task_over("i-1", "t-9")
    assert list(measured.newest) == ["", "t-8"]
    store.forget("i-1")
    assert len(store) == 0


@pytest.mark.anyio
async def test_who_follows_what_is_gone_already_is_not_kept_waiting() -> None:
    store = MetricsStore()
    with anyio.fail_after(5):
        assert [one async for one in store.follow(0, instance_id="i-1", is_over=lambda: True)] == []


@pytest.mark.anyio
async def test_followers_go_on_from_a_cursor() -> None:
    store, seen = MetricsStore(), list[Point]()
    store.put("p", "i-1", report({"a": 1.0}, 1.0))
    after = store.seq

    async def follow() -> None:
        async for points in store.follow(after, instance_id="i-1"):
            seen.extend(points)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            store.put("p", "i-2", report({"a": 2.0}, 2.0))
            store.put("p", "i-1", report({"a": 3.0}, 3.5))
            await anyio.wait_all_tasks_blocked()
            store.forget("i-1")
    assert seen == [Point(3, 3.5, "a", 3.0, "")]
    assert [(point.seq, point.value) for point in store.since(0, pool="p")] == [(2, 2.0)]
    assert store.since(0, pool="q") == []
