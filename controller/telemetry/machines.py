"""The series of single machines and tasks, for /metrics/instances, with the times of measurement."""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from controller.telemetry.metrics_store import Measured, MetricsStore

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]+")
_RESERVED = ("_total", "_count", "_sum", "_bucket", "_created", "_info", "_gsum", "_gcount")
_NAME_CHARS_MAX = 100
# What agents measure, in Prometheus' base units: name, help, factor.
_KNOWN = {
    "cpu_percent": ("cpu_busy_ratio", "Share of all processors that was busy.", 0.01),
    "memory_total_bytes": ("memory_size_bytes", "Memory of the machine.", 1.0),
    "memory_used_bytes": ("memory_used_bytes", "Memory that is not available.", 1.0),
    "disk_total_bytes": ("disk_size_bytes", "Size of the disk the tasks work on.", 1.0),
    "disk_used_bytes": ("disk_used_bytes", "How much of it is used.", 1.0),
    "network_rx_bytes": ("network_received_bytes", "Bytes received since the machine started.", 1.0),
    "network_tx_bytes": ("network_sent_bytes", "Bytes sent since the machine started.", 1.0),
    "load1": ("load1", "Load average over a minute.", 1.0),
}
_GPU = re.compile(r"gpu(\d+)_(.+)")
_GPU_KNOWN = {
    "utilization_percent": (
        "gpu_utilization_ratio",
        "Share of the time in which the GPU worked.",
        0.01,
    ),
    "memory_used_bytes": ("gpu_memory_used_bytes", "Memory of the GPU that is in use.", 1.0),
    "memory_total_bytes": ("gpu_memory_size_bytes", "Memory of the GPU.", 1.0),
    "temperature_celsius": ("gpu_temperature_celsius", "Temperature of the GPU.", 1.0),
    "power_watts": ("gpu_power_watts", "What the GPU draws.", 1.0),
}


class Whose(NamedTuple):
    """What the labels say of an instance."""

    node: int | None
    provider: str


def series_name(name: str) -> str:
    """A series name for a name that a task chose."""
    clean = _NOT_IN_NAMES.sub("_", name).strip("_")[:_NAME_CHARS_MAX].lower()
    return f"{clean}_value" if not clean or clean.endswith(_RESERVED) else clean


class MachineCollector(Collector):
    """One sample for each newest value, with its own timestamp.

    A task's values are everpool_task_<name>, a machine's everpool_instance_<name>. How many there can be
    is bounded by the store.
    """

    def __init__(self, store: MetricsStore, whose: Callable[[str, str], Whose | None]) -> None:
        self._store = store
        self._whose = whose  # (pool, instance id); None: it is over

    def describe(self) -> list[Metric]:
        """Nothing is known before it is measured."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All newest values, by name."""
        families: dict[str, Metric] = {}
        for measured in sorted(self._store, key=lambda one: (one.pool, one.instance_id)):
            whose = self._whose(measured.pool, measured.instance_id)
            if whose is None:
                continue
            labels = {
                "pool": measured.pool,
                "instance": measured.instance_id,
                "provider": whose.provider,
                "node": "" if whose.node is None else str(whose.node),
            }
            _collect(measured, labels, families)
        yield from (families[name] for name in sorted(families))


def _collect(measured: Measured, labels: dict[str, str], families: dict[str, Metric]) -> None:
    for task, newest in sorted(measured.newest.items()):
        own = {**labels, "task": task} if task else labels
        seen: set[tuple[str, str]] = set()
        for name, (value, at) in sorted(newest.items()):
            gpu, mine = "", own
            if not task and (of_gpu := _GPU.fullmatch(name)) is not None and of_gpu[2] in _GPU_KNOWN:
                gpu, (short, help, factor) = of_gpu[1], _GPU_KNOWN[of_gpu[2]]
                mine = {**own, "gpu": gpu}
            elif task:
                short, help, factor = series_name(name), f"Written by tasks as {name!r}.", 1.0
            elif name in _KNOWN:
                short, help, factor = _KNOWN[name]
            else:
                short, help, factor = series_name(name), "Measured by the agent.", 1.0
            full = f"everpool_{'task' if task else 'instance'}_{short}"
            if (full, gpu) in seen:  # two names that differ only in what series cannot show: the first counts
                continue
            seen.add((full, gpu))
            family = families.get(full)
            if family is None:
                family = families[full] = Metric(full, help, "gauge")
            number = value * factor if math.isfinite(value) else value
            family.samples.append(Sample(full, mine, number, at))


def machine_registry(store: MetricsStore, whose: Callable[[str, str], Whose | None]) -> CollectorRegistry:
    """The registry behind /metrics/instances."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MachineCollector(store, whose))
    return registry
