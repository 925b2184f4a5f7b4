"""One set of fault controls for every fake vendor, and the layer that acts the general ones out.

A fake is a WSGI application. It checks each request and each answer of its own against the vendor's schema
and notes what breaks it in `Controls.violations`, which every test that uses a fake ends by finding empty.
"""

import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]
Failure = Literal["throttle", "fail_before", "fail_after", "cut_before", "cut_after"]


@dataclass
class Controls:
    """What goes wrong next, and what was asked. May be used from any thread.

    Attributes:
        starts_after_s: a new machine is pending for so long.
        ends_after_s: a machine that is to end is stopping for so long.
        listing_lag_s: listings and lookups show the world as it was so long ago.
        lose_push: notices are not pushed (queues, webhooks); what machines see of them is not touched.
        capacity: machines that may live at once, by "zone/instance_type/lifecycle"; a market that is missing
            has no limit.
        unreachable: zones or regions that cannot be read now.
        calls: how often each call was made, also those that were made to fail.
        violations: requests and answers that break the vendor's schema.
    """

    starts_after_s: float = 0.0
    ends_after_s: float = 0.0
    listing_lag_s: float = 0.0
    lose_push: bool = False
    capacity: dict[str, int] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    _failures: dict[str, deque[Failure]] = field(default_factory=dict)
    _holds: dict[str, float] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def throttle(self, call: str, times: int = 1) -> None:
        """Refuse the next calls the way the vendor throttles."""
        self._plan(call, "throttle", times)

    def fail_before(self, call: str, times: int = 1) -> None:
        """Answer the next calls with a server error, nothing done."""
        self._plan(call, "fail_before", times)

    def fail_after(self, call: str, times: int = 1) -> None:
        """Do what the next calls ask, and answer with a server error."""
        self._plan(call, "fail_after", times)

    def cut_before(self, call: str, times: int = 1) -> None:
        """Cut the connection of the next calls, nothing done."""
        self._plan(call, "cut_before", times)

    def cut_after(self, call: str, times: int = 1) -> None:
        """Do what the next calls ask, and cut the connection instead of an answer."""
        self._plan(call, "cut_after", times)

    def hold(self, call: str, seconds: float) -> None:
        """Take so long for each call of this kind; 0 ends that."""
        with self._lock:
            self._holds[call] = seconds

    def violated(self, what: str) -> None:
        """Note something that breaks the vendor's schema."""
        with self._lock:
            self.violations.append(what)

    def arrived(self, call: str) -> Failure | None:
        """Count a call, and say what is to go wrong with it."""
        with self._lock:
            self.calls[call] += 1
            held = self._holds.get(call, 0.0)
            planned = self._failures.get(call) or self._failures.get("*")
            failure = planned.popleft() if planned else None
        if held:
            time.sleep(held)
        return failure

    def _plan(self, call: str, failure: Failure, times: int) -> None:
        with self._lock:
            self._failures.setdefault(call, deque()).extend([failure] * times)


class Faulty:
    """WSGI middleware: acts out what `Controls` has planned.

    Args:
        app: the fake.
        controls: its controls.
        name: the call's name, from a request.
        refused: answers a throttled call, as the vendor does.
        broken: answers a call with a server error, as the vendor does.
    """

    def __init__(
        self,
        app: WSGIApp,
        controls: Controls,
        *,
        name: Callable[[Environ], str],
        refused: Callable[[str], WSGIApp],
        broken: Callable[[str], WSGIApp],
    ) -> None:
        self._app, self._controls = app, controls
        self._name, self._refused, self._broken = name, refused, broken

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request. One whose sender left midway was never made."""
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        if len(body) < length:
            return _cut(environ)
        environ["wsgi.input"] = BytesIO(body)
        call = self._name(environ)
        match self._controls.arrived(call):
            case "throttle":
                return self._refused(call)(environ, start_response)
            case "fail_before":
                return self._broken(call)(environ, start_response)
            case "fail_after":
                self._do(environ)
                return self._broken(call)(environ, start_response)
            case "cut_before":
                return _cut(environ)
            case "cut_after":
                self._do(environ)
                return _cut(environ)
            case None:
                return self._app(environ, start_response)

    def _do(self, environ: Environ) -> None:
        answer = self._app(dict(environ), lambda *_: lambda data: None)
        for _ in answer:
            pass
        close = getattr(answer, "close", None)
        if close is not None:
            close()


def _cut(environ: Environ) -> Iterable[bytes]:
    """Reset the connection. The server (werkzeug's) gives its socket to the application."""
    connection: socket.socket = environ["werkzeug.socket"]
    with suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("cut on purpose")


def market(zone: str, instance_type: str, lifecycle: str) -> str:
    """The name of a market in `Controls.capacity`."""
    return f"{zone}/{instance_type}/{lifecycle}"
