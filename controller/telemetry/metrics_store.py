"""Measured values as machines send them: the newest of each, and the last few reports for followers."""

import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import NamedTuple

from controller.telemetry.watch import Watches
from providers.agent.wire import Metrics

_ALL = "*"
NAME_CHARS_MAX = 128


class Point(NamedTuple):
    """One measured value. `seq` is the followers' cursor; `at` is the machine's clock."""

    seq: int
    at: float
    name: str
    value: float
    task: str


class Batch(NamedTuple):
    """One report."""

    seq: int
    at: float
    task: str
    values: Mapping[str, float]


class Measured:
    """What is known of one instance.

    Attributes:
        instance_id: whose values these are.
        newest: by task ("" is the machine itself) and name: (value, at).
    """

    def __init__(self, pool: str, instance_id: str, reports_max: int) -> None:
        self.pool = pool
        self.instance_id = instance_id
        self.newest: dict[str, dict[str, tuple[float, float]]] = {}
        self.reports: deque[Batch] = deque(maxlen=reports_max)


class MetricsStore:
    """Metrics of all instances. They are not kept over a restart: newer ones come soon.

    Attributes:
        dropped: values beyond a maximum, since start.
        received: values taken in, since start.
    """

    def __init__(self, *, names_max: int = 128, tasks_max: int = 64, reports_max: int = 16) -> None:
        self._names_max = names_max  # of one machine or task
        self._tasks_max = tasks_max  # with metrics of their own, on one instance; the oldest are forgotten
        self._reports_max = reports_max
        self._of: dict[str, Measured] = {}
        self._seq = 0
        self._watches = Watches()
        self.dropped = 0
        self.received = 0

    def put(self, pool: str, instance_id: str, report: Metrics) -> Batch | None:
        """Take in a report, with the time it carries. None when nothing in it counts."""
        measured = self._of.get(instance_id) or Measured(pool, instance_id, self._reports_max)
        values = self._accepted(measured, report)
        if not values:
            return None
        self._of.pop(instance_id, None)  # the last to report is last, so that `since` need not look at all
        self._of[instance_id] = measured
        self._seq += 1
        self.received += len(values)
        batch = Batch(self._seq, report.at, report.task, values)
        measured.reports.append(batch)
        self._watches.wake(instance_id)
        self._watches.wake(_ALL)
        return batch

    def _accepted(self, measured: Measured, report: Metrics) -> dict[str, float]:
        """Values that fit; a report that is older than what is known changes nothing in `newest`."""
        if not (math.isfinite(report.at) and 0 <= report.at < 1e12):
            self.dropped += len(report.values)
            return {}
        tasks = measured.newest
        if report.task not in tasks and len(tasks) > self._tasks_max:
            del tasks[next(task for task in tasks if task)]
        newest = tasks.setdefault(report.task, {})
        accepted: dict[str, float] = {}
        for name, value in report.values.items():
            known = newest.get(name)
            if (known is None and len(newest) >= self._names_max) or len(name) > NAME_CHARS_MAX or not name:
                self.dropped += 1
                continue
            accepted[name] = value
            if known is None or known[1] <= report.at:
                newest[name] = (value, report.at)
        return accepted

    def task_over(self, instance_id: str, task_id: str) -> None:
        """The task runs there no longer: its last values are not current any more."""
        measured = self._of.get(instance_id)
        if measured is not None and task_id:
            measured.newest.pop(task_id, None)

    def forget(self, instance_id: str) -> None:
        """The instance is gone; its followers end."""
        self._of.pop(instance_id, None)
        self._watches.finish(instance_id)

    def of(self, instance_id: str) -> Measured | None:
        """What is known of an instance."""
        return self._of.get(instance_id)

    def __iter__(self) -> Iterator[Measured]:
        return iter(self._of.values())

    def __len__(self) -> int:
        return len(self._of)

    @property
    def seq(self) -> int:
        """Cursor of the newest value."""
        return self._seq

    def since(self, after: int, *, instance_id: str | None = None, pool: str | None = None) -> list[Point]:
        """Values after a cursor that are still remembered, in order."""
        found: list[Batch] = []
        chosen = (
            reversed(self._of.values()) if instance_id is None else filter(None, [self._of.get(instance_id)])
        )
        for measured in chosen:
            if measured.reports[-1].seq <= after:
                break  # and so are all that are left
            if pool is not None and measured.pool != pool:
                continue
            for batch in reversed(measured.reports):
                if batch.seq <= after:
                    break
                found.append(batch)
        found.sort(key=lambda batch: batch.seq)
        return [
            Point(batch.seq, batch.at, name, value, batch.task)
            for batch in found
            for name, value in batch.values.items()
        ]

    async def follow(
        self,
        after: int = 0,
        *,
        instance_id: str | None = None,
        pool: str | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[list[Point], None]:
        """Values after a cursor as they come; who is too slow misses some. Ends when the instance is gone.

        `is_over` tells of instances that were gone before this began.
        """
        key = _ALL if instance_id is None else instance_id
        watch = self._watches.enter(key)
        try:
            while True:
                over = watch.over or is_over()
                points = self.since(after, instance_id=instance_id, pool=pool)
                if points:
                    after = points[-1].seq
                    yield points
                elif over:
                    return
                else:
                    await watch.wait()
        finally:
            self._watches.leave(key)
