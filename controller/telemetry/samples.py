"""Series of one sample, read at a scrape."""

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


def gauge(name: str, help: str, value: float) -> Metric:
    """One gauge without labels, under our prefix."""
    return GaugeMetricFamily(f"everpool_{name}", help, value=value)


def counter(name: str, help: str, value: float) -> Metric:
    """One counter without labels, under our prefix."""
    return CounterMetricFamily(f"everpool_{name}", help, value=value)
