"""Lines and codes that users see, from values."""

import io
import re
import signal
from typing import Any, cast

import anyio
import pytest
from rich.console import Console

from actors.events import (
    Envelope,
    Error,
    Event,
    InstanceDestroyed,
    InstanceLaunched,
    InstanceRequested,
    LaunchRefused,
    PoolParked,
    TaskCompleted,
)
from controller.cli import waiting
from controller.cli.codes import CONFLICT, FAILED, NOT_FOUND, TIMEOUT, UNREACHABLE, USAGE
from controller.cli.command import as_cli_error
from controller.cli.happenings import line as event_line
from controller.cli.machines import command_line
from controller.cli.progress import Progress
from controller.cli.tasks import exit_code_of
from controller.client import AsyncClient, EverpoolError, NotRunning, TimedOut


def envelope(event: Event, seq: int = 7) -> Envelope:
    return Envelope(seq=seq, at=0.25, pool="web", event=event)


def completed(**fields: object) -> TaskCompleted:
    raw = {"task_id": "t", "instance": None, "duration": 1.0, "success": False} | fields
    return TaskCompleted.model_validate(raw)


@pytest.mark.parametrize(
    ("event", "number", "code"),
    [
        (completed(success=True, result="success", exit_code=0), None, 0),
        (completed(result="failure", exit_code=3), None, 3),
        (completed(result="failure"), signal.SIGSEGV, 139),
        (completed(result="killed"), signal.SIGKILL, 137),
        (completed(result="terminated", exit_code=0), None, 143),
        (completed(result="startup_failure", exit_code=127), None, 127),
        (completed(result="startup_failure"), None, 125),
        (completed(result="resource_failure", reason="preempted"), None, 125),
        (Error(request_id="t", message="no", fatal=True), None, 1),
    ],
)
def test_exit_codes_of_run(event: Event, number: int | None, code: int) -> None:
    assert exit_code_of(event, number) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotRunning(0, "x"), UNREACHABLE),
        (TimedOut(0, "x"), TIMEOUT),
        (EverpoolError(401, "x"), USAGE),
        (EverpoolError(404, "x"), NOT_FOUND),
        (EverpoolError(409, "x"), CONFLICT),
        (EverpoolError(422, "x"), USAGE),
        (EverpoolError(503, "x"), FAILED),
    ],
)
def test_exit_codes_of_errors(error: EverpoolError, code: int) -> None:
    assert as_cli_error(error).code == code


def test_events_as_lines() -> None:
    line = event_line(envelope(PoolParked(pool="web", reason="all markets\nfailed"))).plain
    assert line.startswith("1970-01-01 ")
    assert line.endswith("  web           pool parked: all markets failed  pool_parked #7")


def test_progress_of_nodes_as_lines() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=200)) as progress:
        asked = InstanceRequested(provider="local", cluster_id="c", node_id=2)
        launched = InstanceLaunched(
            request_id="r", cluster_id="c", node_id=2, provider="local", instance_id="i[x]"
        )
        for event in (
            asked,
            launched,
            launched,
            LaunchRefused(instance_id="i[x]", market="m", fault="capacity"),
            InstanceDestroyed(instance_id="i[x]", reason="user"),
            InstanceDestroyed(instance_id="older"),
            completed(),
        ):
            progress.heard(envelope(event))
    lines = [re.split(r"s  ", line, maxsplit=1)[1] for line in out.getvalue().splitlines()]
    assert lines == [
        "node 2  asked",
        "node 2  launched  i[x]",
        "node 2  i[x] refused at m: capacity  i[x]",
        "node 2  gone (user)  i[x]",
        "older is gone",
    ]


@pytest.mark.anyio
async def test_who_waits_hears_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WHY_AFTER_S", 0.001)
    heard = anyio.Event()
    answers = [
        {"missing_groups": [{"starting": True, "why": "boots", "count": 1}], "there": {"starting": 1}},
        {"missing_groups": [{"starting": False, "why": "all full", "count": 2}], "there": {"starting": 0}},
        {"missing_groups": [{"starting": False, "why": "all full", "count": 2}], "there": {"starting": 0}},
    ]

    class Explains:
        async def explain(self, pool: str) -> dict[str, Any]:
            if not answers:
                heard.set()
                await anyio.sleep_forever()
            return answers.pop(0)

    out = io.StringIO()
    with Progress(Console(file=out, width=200)) as progress, anyio.move_on_after(5) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting._say_why, cast(AsyncClient, Explains()), "web", progress)
            await heard.wait()
            tasks.cancel_scope.cancel()
    assert not scope.cancelled_caught
    [line] = out.getvalue().splitlines()
    assert line.endswith("2 nodes of web still wait: all full; more: everpool explain web")


def test_the_ssh_command_trusts_nothing_but_the_pinned_key() -> None:
    machine = {
        "instance_id": "web-0-1.1.1",
        "address": {"host": "127.0.0.1", "port": 2222},
        "ssh_user": "everpool",
        "private_key_path": "/with space/key",
        "known_hosts_path": "/state/known_hosts",
    }
    line = command_line(machine, ["-v"], ["echo", "a b"])
    assert line[:7] == ["ssh", "-F", "/dev/null", "-p", "2222", "-l", "everpool"]
    assert line[-4:] == ["-v", "127.0.0.1", "--", "echo 'a b'"]
    settings = [line[place + 1] for place, word in enumerate(line) if word == "-o"]
    assert {
        'IdentityFile="/with space/key"',
        "UserKnownHostsFile=/state/known_hosts",
        "HostKeyAlias=web-0-1.1.1",
        "StrictHostKeyChecking=yes",
    } <= set(settings)
