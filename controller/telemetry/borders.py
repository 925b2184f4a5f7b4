"""Series of the daemon's borders: providers, webhooks, those who follow, what is let in, the disk."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controller.telemetry.samples import counter, gauge

TOKENS_MAX = 500  # samples of tokens: of those that expire first


class GatewayView(Protocol):
    """What an account showed last."""

    @property
    def observed_at(self) -> float | None:
        """Of the last complete listing."""
        ...

    @property
    def offers_at(self) -> float | None:
        """When offers were told last."""
        ...

    @property
    def offers(self) -> tuple[object, ...] | None:
        """The newest."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing can be bought there."""
        ...


class FollowersView(Protocol):
    """Who follows events."""

    @property
    def count(self) -> int:
        """Now."""
        ...

    @property
    def lagged(self) -> int:
        """How often one fell behind."""
        ...


class WebhooksView(Protocol):
    """Where events are sent."""

    def names(self) -> Sequence[str]:
        """All of them."""
        ...

    def failing(self, name: str) -> bool:
        """Whether its last try failed."""
        ...

    def behind(self, name: str) -> int:
        """How many seqs it has not come past."""
        ...

    def delivered(self, name: str) -> int:
        """Events that it took."""
        ...

    def dropped(self, name: str) -> int:
        """Events that were given up."""
        ...


class TokensView(Protocol):
    """Who may come in."""

    def expiries(self) -> Mapping[str, float]:
        """UTC seconds, by the name of the token; of those that expire."""
        ...


class GuardView(Protocol):
    """Who came in, and who was turned away since the start."""

    @property
    def tokens(self) -> TokensView:
        """All of them."""
        ...

    @property
    def connections(self) -> int:
        """Open now."""
        ...

    @property
    def connections_refused(self) -> int:
        """Because there were too many."""
        ...

    @property
    def connections_cut(self) -> int:
        """Because they were too slow."""
        ...

    @property
    def requests_limited(self) -> int:
        """Answered 429 for their rate."""
        ...

    @property
    def tokens_refused(self) -> int:
        """Wrong ones."""
        ...

    @property
    def certificate_expires_at(self) -> float | None:
        """UTC seconds; None: there is no TLS."""
        ...


class Health(Protocol):
    """What /readyz says."""

    def __call__(self) -> Mapping[str, object]:
        """`ready` and `observing_only`, at least."""
        ...


@dataclass(slots=True, kw_only=True)
class Borders:
    """Where to look. What is None has no samples.

    Attributes:
        now: UTC seconds.
        gateways: by the provider's name.
        webhooks: of the config.
        followers: of events.
        guard: who is let in.
        loop_lag: how late the event loop ran what was due, in seconds.
        health: what /readyz says.
        state_dir: its disk is looked at.
    """

    now: Callable[[], float]
    gateways: Callable[[], Mapping[str, GatewayView]] | None = None
    webhooks: WebhooksView | None = None
    followers: FollowersView | None = None
    guard: Callable[[], GuardView] | None = None
    loop_lag: Callable[[], float] | None = None
    health: Health | None = None
    state_dir: Path | None = None


class BorderCollector(Collector):
    """Reads them at each scrape."""

    def __init__(self, borders: Borders) -> None:
        self._of = borders
        self._since = borders.now()

    def collect(self) -> Iterator[Metric]:
        """All series of the borders there are."""
        of = self._of
        if of.gateways is not None:
            yield from _providers(of.gateways(), of.now(), self._since)
        if of.webhooks is not None:
            yield from _webhooks(of.webhooks)
        if of.followers is not None:
            yield gauge("followers", "Streams of events that are read now.", of.followers.count)
            yield counter("followers_lagged", "Streams of events that fell behind.", of.followers.lagged)
        if of.guard is not None:
            yield from _let_in(of.guard())
        if of.loop_lag is not None:
            text = "How late the event loop ran what was due, at most, within the last minute."
            yield gauge("loop_lag_seconds", text, of.loop_lag())
        if of.health is not None:
            health = of.health()
            yield gauge("ready", "1 while /readyz says that the daemon does its work.", bool(health["ready"]))
            observing = bool(health.get("observing_only"))
            yield gauge("observing_only", "1 while a newer daemon leads the machines.", observing)
        if of.state_dir is not None:
            yield from _disk(of.state_dir)


def _providers(gateways: Mapping[str, GatewayView], now: float, since: float) -> Iterator[Metric]:
    observed = GaugeMetricFamily(
        "everpool_provider_observation_age_seconds",
        "Since the last complete list of our machines; since the start while there was none.",
        labels=["provider"],
    )
    age = GaugeMetricFamily(
        "everpool_provider_offers_age_seconds",
        "Since the provider told its offers; since the start while it did not.",
        labels=["provider"],
    )
    offers = GaugeMetricFamily("everpool_provider_offers", "Offers that it told last.", labels=["provider"])
    trouble = GaugeMetricFamily(
        "everpool_provider_trouble", "1 while nothing can be bought there.", labels=["provider"]
    )
    for name, gateway in sorted(gateways.items()):
        observed.add_metric([name], _age(now, gateway.observed_at, since))
        age.add_metric([name], _age(now, gateway.offers_at, since))
        offers.add_metric([name], len(gateway.offers or ()))
        trouble.add_metric([name], gateway.trouble is not None)
    yield from (observed, age, offers, trouble)


def _age(now: float, at: float | None, since: float) -> float:
    return max(0.0, now - (since if at is None else at))


def _let_in(guard: GuardView) -> Iterator[Metric]:
    yield gauge("api_connections", "Open connections to the API.", guard.connections)
    text = "Connections that were closed at once, because there were too many."
    yield counter("api_connections_refused", text, guard.connections_refused)
    text = "Connections that were closed because their client was too slow."
    yield counter("api_connections_cut", text, guard.connections_cut)
    text = "Requests that were answered 429, because there were too many of one client."
    yield counter("api_requests_limited", text, guard.requests_limited)
    yield counter("api_tokens_refused", "Requests that showed a wrong token.", guard.tokens_refused)
    certificate = GaugeMetricFamily(
        "everpool_certificate_expires_timestamp_seconds",
        "When the API's certificate expires; no sample without TLS.",
        labels=[],
    )
    if guard.certificate_expires_at is not None:
        certificate.add_metric([], guard.certificate_expires_at)
    yield certificate
    tokens = GaugeMetricFamily(
        "everpool_token_expires_timestamp_seconds",
        "When a token expires; no sample for those that do not.",
        labels=["token"],
    )
    first = sorted((at, name) for name, at in guard.tokens.expiries().items())[:TOKENS_MAX]
    for at, name in first:
        tokens.add_metric([name], at)
    yield tokens


def _webhooks(hooks: WebhooksView) -> Iterator[Metric]:
    failing = GaugeMetricFamily(
        "everpool_webhook_failing", "1 while it does not take what it is sent.", labels=["webhook"]
    )
    behind = GaugeMetricFamily(
        "everpool_webhook_behind_events",
        "Events of all kinds that it has not come past yet.",
        labels=["webhook"],
    )
    delivered = CounterMetricFamily(
        "everpool_webhook_delivered", "Events that it took since it was first named.", labels=["webhook"]
    )
    dropped = CounterMetricFamily(
        "everpool_webhook_dropped",
        "Events that were given up since it was first named.",
        labels=["webhook"],
    )
    for name in hooks.names():
        failing.add_metric([name], hooks.failing(name))
        behind.add_metric([name], hooks.behind(name))
        delivered.add_metric([name], hooks.delivered(name))
        dropped.add_metric([name], hooks.dropped(name))
    yield from (failing, behind, delivered, dropped)


def _disk(directory: Path) -> Iterator[Metric]:
    try:
        found = os.statvfs(directory)
    except OSError:  # it is gone: that the journal can't be written is told elsewhere
        return
    yield gauge(
        "state_disk_free_bytes", "Free on the disk of the state directory.", found.f_bavail * found.f_frsize
    )
    yield gauge(
        "state_disk_size_bytes", "Size of the disk of the state directory.", found.f_blocks * found.f_frsize
    )
