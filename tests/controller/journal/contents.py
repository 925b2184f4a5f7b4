"""What a journal's file holds, and what it should: a model of the journal in plain dicts."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from actors.address import Kind
from actors.events import Envelope, Request
from actors.loop import VERSIONS
from actors.policy.adoption import Quarantined
from actors.ports import Accepted, Commit, Conflict, Submission
from controller.journal.jobs import body_hash, enveloped
from controller.journal.reader import StoredState
from controller.recovery import MARKETS, Recovered
from providers.model import Value

Key = tuple[str, str, str]  # pool, kind, id
StateSeen = tuple[int, bytes, bool]  # version, JSON, whether it is over
RequestSeen = tuple[int, str, str, str, int | None]  # seq, pool, kind, status, ended by
REQUESTS = get_args(Request)
_KINDS: dict[str, Kind] = {str(kind): kind for kind in VERSIONS}


@dataclass(slots=True)
class Model:
    """The journal as plain dicts: what is there after some steps, in whatever order they became durable."""

    states: dict[Key, StateSeen] = field(default_factory=dict)
    values: dict[Key, Value] = field(default_factory=dict)  # of states: the very values that were committed
    events: dict[int, bytes] = field(default_factory=dict)
    requests: dict[str, RequestSeen] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    envelopes: dict[str, Envelope] = field(default_factory=dict)  # of accepted requests

    def commit(self, commit: Commit) -> None:
        """A turn's commit became durable."""
        for row in commit.states:
            key = (commit.pool, row.kind, row.id)
            if row.state is None:
                self.states.pop(key, None)
                self.values.pop(key, None)
            else:
                self.states[key] = (row.version, row.state.model_dump_json().encode(), row.terminal)
                self.values[key] = row.state
        for envelope in commit.envelopes:
            self._append(envelope)
            if isinstance(envelope.event, REQUESTS):
                self._ask(envelope, "taken")
        for request in commit.taken:
            self._change(request, "taken", None, unless=("taken", "ended"))
        for envelope in commit.envelopes:
            for request in envelope.ends:
                self._change(request, "ended", envelope.seq, unless=("ended",))

    def accept(self, submission: Submission, seq: int) -> Accepted | Conflict:
        """A request came; the answer it gets. `seq` is used when it is new."""
        name, body = submission.request.request_id, body_hash(submission.request)
        if name not in self.requests:
            envelope = enveloped(submission, seq)
            self._append(envelope)
            self._ask(envelope, "new")
            self.bodies[name] = body
            return Accepted(envelope, new=True)
        if self.bodies.get(name) != body:
            return Conflict(name)
        return Accepted(self.envelopes[name], new=False, ended_by=self.requests[name][4])

    def _append(self, envelope: Envelope) -> None:
        assert envelope.seq not in self.events, "a seq was given twice"
        self.events[envelope.seq] = envelope.model_dump_json().encode()

    def _ask(self, envelope: Envelope, status: str) -> None:
        request: Any = envelope.event
        row = (envelope.seq, envelope.pool, request.kind, status, None)
        if self.requests.setdefault(request.request_id, row) is row:
            self.envelopes[request.request_id] = envelope

    def _change(self, request: str, status: str, ended_by: int | None, unless: tuple[str, ...]) -> None:
        row = self.requests.get(request)
        if row is not None and row[3] not in unless:
            self.requests[request] = (*row[:3], status, ended_by)

    # --- what a restart would find ----------------------------------------------------------------

    @property
    def rows(self) -> list[StoredState]:
        """All newest states, in the order in which they are read."""
        return [StoredState(*key, *seen) for key, seen in sorted(self.states.items())]

    @property
    def open_requests(self) -> list[Envelope]:
        """Requests that no state has taken over, oldest first."""
        waiting = [self.envelopes[name] for name, row in self.requests.items() if row[3] == "new"]
        return sorted(waiting, key=lambda envelope: envelope.seq)

    def recovered(self) -> Recovered:
        """What a restart should make of it, of the values themselves: nothing was written or read."""
        found = Recovered(requests=self.open_requests)
        for (pool, kind, name), state in sorted(self.values.items(), key=lambda item: item[0]):
            if self.states[pool, kind, name][2]:
                continue
            if isinstance(state, Quarantined):
                found.quarantine[name] = state
            elif pool == MARKETS:
                found.markets[_KINDS[kind], name] = state
            else:
                found.pools.setdefault(pool, {})[_KINDS[kind], name] = state
        return found


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything in a journal's file, as it is."""

    states: dict[Key, StateSeen]
    events: dict[int, bytes]
    requests: dict[str, RequestSeen]


def contents(path: Path) -> Contents:
    """Read a journal's file. Raises sqlite3.DatabaseError when it is not sound."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        (sound,) = file.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(f"{path.name}: {sound}")
        states = {
            (pool, kind, name): (version, body.encode(), terminal == 1)
            for pool, kind, name, version, body, terminal in file.execute(
                "SELECT pool, kind, id, version, body, terminal FROM states"
            )
        }
        events = {seq: body.encode() for seq, body in file.execute("SELECT seq, body FROM events")}
        requests = {
            name: (seq, pool, kind, status, ended_by)
            for name, seq, pool, kind, status, ended_by in file.execute(
                "SELECT request_id, seq, pool, kind, status, ended_by FROM requests"
            )
        }
    return Contents(states, events, requests)


def difference(
    seen: Contents, model: Model, may_be_missing: Callable[[object], bool] | None = None
) -> str | None:
    """What is not as the model says, in words; None when nothing is.

    Args:
        seen: what is there.
        model: what should be.
        may_be_missing: asked of each state's key and event's seq that is not there.
    """
    tables: list[tuple[str, Any, Any]] = [
        ("states", seen.states, model.states),
        ("events", seen.events, model.events),
        ("requests", seen.requests, model.requests),
    ]
    for name, there, wanted in tables:
        if there == wanted:
            continue
        for key, value in there.items():
            if key not in wanted:
                return f"{name}: {key} should not be there"
            if wanted[key] != value:
                return f"{name}: {key} is {value!r} instead of {wanted[key]!r}"
        for key in wanted.keys() - there.keys():
            if may_be_missing is None or not may_be_missing(key):
                return f"{name}: {key} is missing"
    return None
