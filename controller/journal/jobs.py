"""What waits to be written: each job knows who waits for it, and turns values into rows by itself.

A job is made on the event loop, prepared and written on the writer's thread, and settled on the loop again.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Protocol, TypeGuard, get_args

import anyio
from anyio.lowlevel import current_token

from actors.events import Envelope, Event, Request, TaskRequested
from actors.ports import Accepted, Commit, Conflict, Submission
from providers.model import made

Key = tuple[str, str, str]  # pool, kind, id
StateValues = tuple[str, str, str, int, int, float, str]
EventValues = tuple[int, float, str, str, str | None, str]
RequestValues = tuple[str, int, str, str, bytes, float]

_REQUESTS = frozenset(get_args(Request))
_EVENT = {"event"}
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)


class Post(Protocol):
    """Calls `function` on the event loop, soon, from any thread; RuntimeError when the loop is over."""

    def __call__(self, function: Callable[..., object], *args: object) -> object:
        """Hand over one call."""
        ...


def post_here() -> Post:
    """Return the Post of the event loop that this is called in: asyncio, uvloop or trio."""
    loop = current_token().native_token
    post: Post = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon  # type: ignore[attr-defined]
    return post


class Job:
    """One thing to be made durable, and whoever waits for that.

    `waits`: until writing works again; False: it is refused while nothing can be written.
    """

    __slots__ = ("done", "error", "post", "waiting_since", "waits")

    def __init__(self, now_s: float) -> None:
        self.post = post_here()
        self.done = anyio.Event()
        self.error: Exception | None = None
        self.waiting_since = now_s
        self.waits = True

    @property
    def rows(self) -> int:
        """About how many rows it writes."""
        return 1

    def prepare(self, now: float) -> None:
        """Turn values into rows. Raises ValueError or TypeError for what can't be written as JSON."""


class CommitJob(Job):
    """One turn's commit."""

    __slots__ = ("commit", "ended", "events", "requests", "states", "taken")

    def __init__(self, commit: Commit, now_s: float, *, wait: bool = True) -> None:
        super().__init__(now_s)
        self.waits = wait
        self.commit = commit
        self.states: dict[Key, StateValues | None] = {}
        self.events: list[EventValues] = []
        self.requests: list[RequestValues] = []  # that actors sent, such as a node's for an instance
        self.taken: list[tuple[str]] = []
        self.ended: list[tuple[int, float, str]] = []

    @property
    def rows(self) -> int:
        return len(self.commit.states) + len(self.commit.envelopes) + len(self.commit.taken)

    def prepare(self, now: float) -> None:
        """Turn the commit into rows; the last state of an actor counts."""
        pool = self.commit.pool
        for row in self.commit.states:
            values = None
            if row.state is not None:
                body = row.state.__pydantic_serializer__.to_json(row.state).decode()
                values = (pool, row.kind, row.id, row.version, int(row.terminal), now, body)
            self.states[pool, row.kind, row.id] = values
        self.events = [event_values(envelope) for envelope in self.commit.envelopes]
        self.requests = [
            (
                envelope.event.request_id,
                envelope.seq,
                envelope.pool,
                envelope.event.kind,
                body_hash(envelope.event),
                envelope.at,
            )
            for envelope in self.commit.envelopes
            if _is_request(envelope.event)
        ]
        self.taken = [(request_id,) for request_id in self.commit.taken]
        self.ended = [
            (envelope.seq, now, request_id)
            for envelope in self.commit.envelopes
            for request_id in envelope.ends
        ]


class AcceptJob(Job):
    """Requests to be accepted, each once per id."""

    __slots__ = ("answers", "entries", "seq", "submissions")

    def __init__(self, submissions: Sequence[Submission], seq: int, now_s: float) -> None:
        super().__init__(now_s)
        self.waits = False
        self.submissions = submissions
        self.seq = seq  # of the first; the others follow
        self.entries: list[tuple[Envelope, bytes, EventValues]] = []
        self.answers: list[Accepted | Conflict] = []

    @property
    def rows(self) -> int:
        return 2 * len(self.submissions)

    def prepare(self, now: float) -> None:
        """Wrap each request in its envelope, and hash its body."""
        for seq, submission in enumerate(self.submissions, self.seq):
            envelope = enveloped(submission, seq)
            self.entries.append((envelope, body_hash(submission.request), event_values(envelope)))


class CallJob(Job):
    """Anything else that has to go through the writer, such as pruning. `call` must be repeatable.

    `written` hears its result once that is durable, in the writer's thread, before anything else is written.
    """

    __slots__ = ("call", "result", "written")

    def __init__(
        self,
        call: Callable[[sqlite3.Connection], object],
        now_s: float,
        written: Callable[[object], None] | None = None,
    ) -> None:
        super().__init__(now_s)
        self.call = call
        self.written = written
        self.result: object = None


def enveloped(submission: Submission, seq: int) -> Envelope:
    """Return the envelope under which a request enters the journal."""
    return made(
        Envelope,
        seq=seq,
        at=submission.at,
        pool=submission.pool,
        request_id=submission.request.request_id,
        principal=submission.principal,
        event=submission.request,
    )


def _is_request(event: Event) -> TypeGuard[Request]:
    return type(event) in _REQUESTS  # a third of the time of `isinstance`, which tries them all


def event_values(envelope: Envelope) -> EventValues:
    """Return the row of an event."""
    return (
        envelope.seq,
        envelope.at,
        envelope.pool,
        envelope.event.kind,
        envelope.request_id,
        envelope_json(envelope),
    )


def envelope_json(envelope: Envelope) -> str:
    """Return `envelope.model_dump_json()`, made of two: to find an event among its kinds takes longer."""
    event = envelope.event  # by the serializers themselves: `model_dump_json` takes half as long again
    head = envelope.__pydantic_serializer__.to_json(envelope, exclude=_EVENT)
    body: bytes = head[:-1] + b',"event":' + event.__pydantic_serializer__.to_json(event) + b"}"
    return body.decode()


def body_hash(request: Request) -> bytes:
    """Tell bodies apart.

    Defaults are left out, so that a request repeated after an upgrade that brought a new field is still
    known. Tasks, of which there are most, take the model's own JSON, in a third of the time; one with a table
    whose order could differ takes `canonical_hash`, as all did in older journals.
    """
    if type(request) is TaskRequested and len(request.task.env) < 2:
        body = request.__pydantic_serializer__.to_json(request, exclude_defaults=True)
        return hashlib.sha256(body).digest()
    return canonical_hash(request)


def canonical_hash(request: Request) -> bytes:
    """As `body_hash`, for every request: keys are sorted, so that the order of a table doesn't matter."""
    body = _CANONICAL.encode(
        request.__pydantic_serializer__.to_python(request, mode="json", exclude_defaults=True)
    )
    return hashlib.sha256(f"{request.kind} {body}".encode()).digest()
