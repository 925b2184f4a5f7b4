"""The daemon's own log: one line per event as text or JSON on stderr, or in the journal, without secrets.

Set up once, by the daemon. Rules and policies log nothing: what they decide is seen in the commits that
`LogObserver` writes down.
"""

import contextlib
import json
import logging
import re
import sys
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from actors import events
from actors.events import Envelope, Event, NodeInstance
from actors.ports import Commit
from controller.sentences import called_off
from controller.telemetry.journald import JournalOut, is_journal
from controller.telemetry.journald import entry as journal_entry

HIDDEN = "[hidden]"
_SECRET_KEY = re.compile(
    r"token|passw|secret|credential|authorization|cookie|private_?key|api_?key|access_?key|host_key$", re.I
)
_SECRET_CHARS_MIN = 6  # a shorter one would black out ordinary words
_SECRETS_MAX = 100_000  # more than the newest revisions of all groups have; then the oldest are dropped
_DEPTH_MAX = 6
_VALUE_CHARS_MAX = 2000
_FIRST = ("pool", "node", "instance", "task", "request_id", "seq")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "text", "json", "journald"]


class Secrets:
    """Values that must not be seen in any log, wherever they turn up."""

    def __init__(self, values_max: int = _SECRETS_MAX) -> None:
        self._values_max = values_max
        self._values: OrderedDict[str, None] = OrderedDict()  # that was added last is last
        self._by_start: dict[str, list[str]] = {}  # the same by their first letters, longest first
        self._told = False

    def add(self, value: str) -> None:
        """Hide `value` from now on; too short ones are hidden by their key only.

        When there are too many, the one that was not added again for the longest time is hidden no more.
        """
        if len(value) < _SECRET_CHARS_MIN:
            return
        if value in self._values:
            self._values.move_to_end(value)
            return
        self._values[value] = None
        insort(self._by_start.setdefault(value[:_SECRET_CHARS_MIN], []), value, key=_longest_first)
        if len(self._values) > self._values_max:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest, _ = self._values.popitem(last=False)
        start = oldest[:_SECRET_CHARS_MIN]
        self._by_start[start].remove(oldest)
        if not self._by_start[start]:
            del self._by_start[start]
        if not self._told:
            self._told = True
            structlog.get_logger().warning(
                "too many secrets: those not used for the longest time are not hidden in logs any more",
                hidden=self._values_max,
            )

    def hide(self, text: str) -> str:
        """`text` without the values: at each place the longest that is there."""
        if not self._values:
            return text
        parts, done, at = list[str](), 0, 0
        while at + _SECRET_CHARS_MIN <= len(text):
            for value in self._by_start.get(text[at : at + _SECRET_CHARS_MIN], ()):
                if text.startswith(value, at):
                    parts += (text[done:at], HIDDEN)
                    done = at = at + len(value)
                    break
            else:
                at += 1
        return "".join([*parts, text[done:]])

    def __call__(self, _logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
        """As a structlog processor: hide by key and by value, at any depth."""
        return {key: self._clean(key, value, 0) for key, value in entry.items()}

    def _clean(self, key: str, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if key and _SECRET_KEY.search(key):
            return HIDDEN
        if depth < _DEPTH_MAX:
            if isinstance(value, Mapping):
                return {str(k): self._clean(str(k), v, depth + 1) for k, v in value.items()}
            if isinstance(value, list | tuple | set | frozenset):
                return [self._clean("", one, depth + 1) for one in value]
        return self.hide(str(value))


def _longest_first(value: str) -> int:
    return -len(value)


class RateLimit:
    """Lets at most `burst` lines of one kind through in `window_s` seconds; the next tells how many not."""

    def __init__(
        self,
        *,
        burst: int = 100,
        window_s: float = 10.0,
        kinds_max: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._window_s = window_s
        self._kinds_max = kinds_max
        self._clock = clock
        self._seen: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()  # since when, how many
        self.suppressed = 0

    def __call__(self, _logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
        """As a structlog processor: raises DropEvent for what is too much."""
        key = (entry.get("event"), entry.get("level"), entry.get("pool"))
        now = self._clock()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= self._window_s:
            if count > self._burst:
                entry["suppressed"] = count - self._burst
            since, count = now, 0
        self._seen[key] = (since, count + 1)
        self._seen.move_to_end(key)
        if len(self._seen) > self._kinds_max:
            self._seen.popitem(last=False)
        if count >= self._burst:
            self.suppressed += 1
            raise structlog.DropEvent
        return entry


class _Out:
    """Writes lines. A stderr that takes no more must not end a turn."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failed = 0

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # full, gone, or closed
            self.failed += 1

    debug = info = warning = error = critical = log = exception = msg


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if len(text) > _VALUE_CHARS_MAX:
        text = text[:_VALUE_CHARS_MAX] + "…"
    if isinstance(value, str) and (not text or re.search(r'[\s"=]', text) or _CONTROL.search(text)):
        return json.dumps(text, ensure_ascii=False)
    return _one_line(text)


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def render_text(_logger: WrappedLogger, _method: str, entry: MutableMapping[str, Any]) -> str:
    """`2026-01-02T03:04:05Z info  event pool=a …`; a traceback follows on lines of its own, indented."""
    at, level, event = entry.pop("timestamp", ""), entry.pop("level", ""), entry.pop("event", "")
    exception = entry.pop("exception", None)
    keys = [key for key in _FIRST if key in entry] + sorted(key for key in entry if key not in _FIRST)
    fields = "".join(f" {key}={_quoted(entry[key])}" for key in keys)
    line = f"{at} {level:<7} {_one_line(str(event))}{fields}"
    if exception:
        line += "".join(f"\n    {_one_line(part)}" for part in str(exception).splitlines())
    return line


def render_json(_logger: WrappedLogger, _method: str, entry: MutableMapping[str, Any]) -> str:
    """One JSON object, with the time, level and event first."""
    first = {key: entry[key] for key in ("timestamp", "level", "event", *_FIRST) if key in entry}
    return json.dumps({**first, **entry}, default=str, ensure_ascii=False)


def render_journal(_logger: WrappedLogger, _method: str, entry: MutableMapping[str, Any]) -> bytes:
    """An entry of the journal: its own time, its own level, the same words, and fields to search by."""
    level, event = str(entry.get("level", "")), str(entry.get("event", ""))
    line = render_text(_logger, _method, {**entry, "timestamp": "", "level": ""})
    return journal_entry(line.lstrip(), level, event, entry)


class _Bridge(logging.Handler):
    """What libraries log through the standard library goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL)),
            record.getMessage(),
            logger=record.name,
            exc_info=record.exc_info or None,
        )


def configure(
    *,
    level: Level = "info",
    format: Format = "text",
    stream: TextIO | None = None,
    secrets: Secrets | None = None,
    limit: RateLimit | None = None,
) -> Secrets:
    """Set up structlog and the standard library's logging; returns where secrets are to be added.

    `auto`: `journald` when the stream is the journal's, else `text`. Without a journal, `journald` is `text`.
    """
    secrets = secrets or Secrets()
    stream = stream or sys.stderr
    out: _Out | JournalOut = _Out(stream)
    render: Callable[[WrappedLogger, str, MutableMapping[str, Any]], str | bytes]
    render = render_json if format == "json" else render_text
    if format == "journald" or (format == "auto" and is_journal(stream)):
        with contextlib.suppress(OSError):
            out, render = JournalOut(), render_journal
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            limit or RateLimit(),
            structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
            structlog.processors.format_exc_info,
            secrets,
            render,
        ],
        logger_factory=lambda *_: out,
        cache_logger_on_first_use=False,
    )
    logging.getLogger().handlers[:] = [_Bridge()]
    set_level(level)
    return secrets


def set_level(level: Level) -> None:
    """Write down from now on what is as loud as that; of libraries their information only at `debug`."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))
    logging.getLogger().setLevel(logging.INFO if level == "debug" else logging.WARNING)


# --- what is committed --------------------------------------------------------------------------

_DEBUG_KINDS: tuple[type, ...] = (
    events.TaskQueued,
    events.TaskRequested,
    events.TaskStopRequested,
    events.TaskStarted,
    events.TaskAttemptEnded,
    events.TaskCompleted,
    events.BootstrapCommand,
    events.Metric,
    events.Log,
    events.ConsoleOutput,
)
_WARNING_KINDS: tuple[type, ...] = (
    events.InstancePreempted,
    events.BootstrapFailed,
    events.LaunchRefused,
    events.InstanceQuarantined,
    events.LeftoverFound,
    events.BudgetWarned,
)
_ERROR_KINDS: tuple[type, ...] = (events.PoolParked, events.BudgetReached, events.BugCaught)
_RENAMED = {"instance_id": "instance", "node_id": "node", "task_id": "task", "message": "detail"}


def level_of(event: Event) -> int:
    """How loud an event is."""
    if isinstance(event, _DEBUG_KINDS):  # there are most of them
        return logging.DEBUG
    if isinstance(event, events.BootstrapPhase):
        return logging.WARNING if event.event == "failed" else logging.DEBUG
    if isinstance(event, events.Error):
        if called_off(event):  # such as what waited for a pool that was told to end
            return logging.DEBUG if event.message.startswith("already done") else logging.INFO
        return logging.ERROR if event.fatal else logging.WARNING
    for kinds, level in ((_WARNING_KINDS, 30), (_ERROR_KINDS, 40)):
        if isinstance(event, kinds):
            return level
    return logging.INFO


def fields_of(envelope: Envelope) -> dict[str, object]:
    """What a line tells of an event: its plain values, and whose instance it is about."""
    fields: dict[str, object] = {"seq": envelope.seq}
    if envelope.pool:  # else it is about the daemon
        fields["pool"] = envelope.pool
    if envelope.request_id:
        fields["request_id"] = envelope.request_id
    for name, value in envelope.event:
        if isinstance(value, NodeInstance):
            fields.update(instance=value.instance.id, node=value.node, provider=value.provider)
        elif (
            name not in ("kind", "event") and value not in (None, "") and isinstance(value, str | int | float)
        ):
            fields[_RENAMED.get(name, name)] = value
    if isinstance(envelope.event, events.BootstrapPhase):
        fields["step"] = envelope.event.event
    return fields


class LogObserver:
    """Implements `actors.ports.Observer`: writes down what was committed, and bugs."""

    def __init__(self, level: Level = "info") -> None:
        self._log = structlog.get_logger()
        self.set_level(level)

    def set_level(self, level: Level) -> None:
        """Write down events that are as loud as that."""
        self._level = _LEVELS[level]

    def committed(self, commit: Commit) -> None:
        """One line for each event that is loud enough."""
        for envelope in commit.envelopes:
            level = level_of(envelope.event)
            if level >= self._level:
                self._log.log(level, envelope.event.kind, **fields_of(envelope))

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """Nothing: turns are counted, not told."""

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """An exception in a rule, with where it came from."""
        self._log.error("bug", address=address, heard=message, exc_info=error)
