"""Who hears what loops report on: all observers in order, and the one that keeps what lies around in step."""

import contextlib
from collections.abc import Iterable

from actors.acting import Acting
from actors.events import ClusterDestroyed
from actors.instance.state import Destroyed as DestroyedInstance
from actors.market.state import MarketState
from actors.ports import Commit, Observer
from controller.keys import Keys
from controller.telemetry.sink import Sink


class Observers:
    """Passes what loops report on to each observer, in order."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)

    def committed(self, commit: Commit) -> None:
        """A commit is durable."""
        for observer in self._observers:
            observer.committed(commit)

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """A turn is over."""
        for observer in self._observers:
            observer.turn_ended(pool, messages=messages, seconds=seconds, waiting=waiting)

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """A rule raised."""
        for observer in self._observers:
            observer.bug(address, message, error)


class HouseKeeping:
    """An observer that keeps what lies around in step with what lives: keys, market memory, metrics."""

    def __init__(self, keys: Keys, sink: Sink) -> None:
        self._keys = keys
        self._sink = sink
        self.acting: Acting | None = None

    def committed(self, commit: Commit) -> None:
        """Forget the keys of machines that are gone; pass the memory of markets on."""
        told = False
        for row in commit.states:
            if isinstance(row.state, MarketState) and self.acting is not None:
                self.acting.market_committed(row.id, row.state)
                told = True
            elif isinstance(row.state, DestroyedInstance):
                self._sink.instance_gone(commit.pool, row.id)
                with contextlib.suppress(OSError):  # tried again with the cluster's
                    self._keys.forget(row.state.cluster.cluster_id, row.id)
        for envelope in commit.envelopes:
            if isinstance(envelope.event, ClusterDestroyed):
                with contextlib.suppress(OSError):  # a key that opens nothing any more
                    self._keys.forget(envelope.event.cluster_id)
        if told and self.acting is not None:
            self.acting.markets_changed()

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """Nothing here is about turns."""

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """Nothing here is about bugs."""
