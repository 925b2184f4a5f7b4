"""Lines and codes that users see, from values."""

import io
import re
import signal
from typing import Any, cast

import anyio
import pytest
from rich.console import Console

from actors.events import (
    BootstrapFailed,
    Envelope,
    Error,
    Event,
    InstanceDestroyed,
    InstanceLaunched,
    InstanceReplaced,
    InstanceRequested,
    LaunchRefused,
    PoolParked,
    PoolUpdated,
    TaskCompleted,
)
from actors.instance.facts import node_instance
from controller.cli import waiting
from controller.cli.codes import CONFLICT, FAILED, NOT_FOUND, TIMEOUT, UNREACHABLE, USAGE
from controller.cli.command import as_cli_error
from controller.cli.happenings import line as event_line
from controller.cli.machines import command_line
from controller.cli.progress import Aim, Progress
from controller.cli.tasks import exit_code_of
from controller.client import AsyncClient, EverpoolError, NotRunning, TimedOut
from tests.controller.pictures import machine


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
            InstanceDestroyed(instance_id="i[x]", reason="gone"),
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
        "node 2  gone  i[x]",
        "older is gone",
    ]


def test_why_it_takes_long_is_said_whole_on_a_narrow_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, soft_wrap=True)  # as commands have it
    group = {
        "starting": False,
        "count": 1,
        "why": "waits after a failure: 4 machines in a row did not get or stay ready",
    }
    why = waiting._why({"missing_groups": [group], "there": {"starting": 0}}, "first", is_still=False)
    assert why == "1 node of first still waits after a failure: 4 machines in a row did not get or stay ready"
    with Progress(console, Aim("up first", "ready", 1)) as progress:
        progress.note(f"{why}; more: everpool explain first")
        progress.heard(envelope(PoolParked(pool="first", reason="no machine could be set up " * 6)))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "did not get or stay ready; more: everpool explain first" in " ".join(shown.split())
    assert "could be set up" in shown.splitlines()[3] and max(map(len, shown.splitlines())) <= 80


def test_the_progress_of_a_roll() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=200), Aim("update web", "replaced", 9)) as progress:
        progress.heard(envelope(PoolUpdated(pool="web", changed=("image",), outdated=3)))
        one = node_instance(machine(1, name="web-1-b"))
        progress.heard(envelope(InstanceReplaced(request_id="r", old_id="web-1-a", new=one)))
        failed = BootstrapFailed(instance=one, phase="bad", error="exit code 9")
        progress.heard(envelope(failed))
        picture = Console(file=io.StringIO(), width=100)
        picture.print(progress.picture())
    said = [re.split(r"s  ", line, maxsplit=1)[1] for line in out.getvalue().splitlines()]
    assert said == [
        "updated; 3 machines of the old spec will be replaced",
        "node 1  replaced (1 of 3)  web-1-b",
        "node 1  set-up step 'bad' failed: exit code 9  web-1-b",
    ]
    shown = cast(io.StringIO, picture.file).getvalue()
    assert "1 of 3 replaced" in shown and "last: " in shown and "exit code 9" in shown


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
