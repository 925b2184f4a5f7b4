"""The daemon's own log: levels, one line each, no secrets, not too much."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from actors import events
from actors.events import Envelope, Event
from actors.ports import Commit
from controller.telemetry.logging import LogObserver, RateLimit, Secrets, configure


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def commit(*found: Event) -> Commit:
    envelopes = [
        Envelope(seq=i, at=1.0, pool="a", request_id="r", event=event) for i, event in enumerate(found, 1)
    ]
    return Commit("a", envelopes=envelopes)


QUEUED = events.TaskQueued(task_id="t-1", attempt=1)
REFUSED = events.LaunchRefused(instance_id="i-1", market="m", fault="capacity")
PARKED = events.PoolParked(pool="a", reason="three set-ups failed\nin a row")


def test_facts_are_lines_at_sensible_levels() -> None:
    out = io.StringIO()
    configure(stream=out)
    LogObserver().committed(commit(QUEUED, REFUSED, PARKED))
    lines = out.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "warning launch_refused pool=a instance=i-1 request_id=r seq=2 fault=capacity market=m",
        'error   pool_parked pool=a request_id=r seq=3 reason="three set-ups failed\\nin a row" '
        "wasted_micro_usd=0",
    ]


def test_json_lines_and_debug() -> None:
    out = io.StringIO()
    configure(stream=out, format="json", level="debug")
    LogObserver("debug").committed(commit(QUEUED))
    entry = json.loads(out.getvalue())
    del entry["timestamp"]
    assert entry == {
        "level": "debug",
        "event": "task_queued",
        "pool": "a",
        "task": "t-1",
        "request_id": "r",
        "seq": 1,
        "attempt": 1,
    }


def test_secrets_do_not_get_out() -> None:
    out = io.StringIO()
    secrets = configure(stream=out)
    secrets.add("hunter2hunter2")
    log = structlog.get_logger()
    log.info("said hunter2hunter2", api_key="abc", nested={"Password": "x", "list": ["hunter2hunter2"]})
    try:
        raise ValueError("hunter2hunter2 is wrong")
    except ValueError as error:
        LogObserver().bug("pool/a", "Due", error)
    text = out.getvalue()
    assert "hunter2" not in text
    assert "abc" not in text
    assert "bug address=pool/a heard=Due" in text
    assert "ValueError: [hidden] is wrong" in text
    assert Secrets().hide("x") == "x"


def test_repeated_lines_are_counted_not_written() -> None:
    out, now = io.StringIO(), [0.0]
    limit = RateLimit(burst=3, window_s=10, kinds_max=5, clock=lambda: now[0])
    configure(stream=out, limit=limit)
    log = structlog.get_logger()
    for _ in range(10):
        log.info("again", pool="a")
    log.info("again", pool="b")
    now[0] = 10.0
    log.info("again", pool="a")
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[-1].endswith("again pool=a suppressed=7")
    assert limit.suppressed == 7
    for i in range(100):
        log.info(f"kind {i}")
    assert len(limit._seen) == 5


def test_libraries_go_the_same_way() -> None:
    out = io.StringIO()
    configure(stream=out)
    logging.getLogger("asyncssh").info("chatter")
    logging.getLogger("asyncssh").warning("token %s", "é")
    assert out.getvalue().splitlines()[0].split(" ", 1)[1] == 'warning "token é" logger=asyncssh'.replace(
        '"', ""
    )


def test_a_closed_stderr_ends_nothing() -> None:
    out = io.StringIO()
    configure(stream=out)
    out.close()
    structlog.get_logger().error("x")
