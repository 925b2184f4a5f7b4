"""Secret variables are in a task's environment and in memory: never in what an agent writes down."""

from pathlib import Path
from typing import Any

import pytest

from providers.agent.agent import WAITING
from tests.providers.agent.rig import Message, Rig, start, until
from tests.providers.agent.world import World

SECRET = "hunter2-correct-horse"


def secret_start(task: str, *argv: str, **fields: Any) -> Message:
    """A start with a secret and a plain variable."""
    more: Message = {"secret": ["TOKEN"], "env_groups": [["db", 3]]}
    return start(task, *argv, env={"TOKEN": SECRET, "PLAIN": "shown"}, **more, **fields)


def written(world: World) -> str:
    """All that it wrote down, and would write down anew."""
    return "\n".join([*world.records, *map(str, world.core.snapshot())])


def test_what_runs_says_its_revisions_and_is_written_down_without_its_secret() -> None:
    world = World()
    world.connect(slots=1)
    world.say(secret_start("t", "x"), secret_start("v", "x"))
    assert world.ever_spawned == [("t", 1)]
    assert world.core.tasks["t", 1].command["env"]["TOKEN"] == SECRET
    assert SECRET not in written(world) and "shown" in written(world)
    [started] = world.daemon.of("started")
    assert started["env_groups"] == [["db", 3]]
    world.exit(("t", 1))
    world.exit(("v", 1))
    assert set(world.daemon.ended()) == {"t", "v"}
    assert SECRET not in written(world)


def test_what_runs_is_found_again_and_what_waits_is_asked_for_again() -> None:
    world = World()
    world.connect(slots=1)
    world.say(secret_start("t", "x"), secret_start("v", "x"), start("w", "x"))
    world.restart()
    assert set(world.core.tasks) == {("t", 1), ("w", 1)}  # the daemon sees that v is not held
    world.connect(slots=1)
    world.say(secret_start("v", "x"))
    world.exit(("t", 1))
    world.exit(("w", 1))
    assert world.core.tasks["v", 1].command["env"]["TOKEN"] == SECRET
    world.exit(("v", 1))
    assert set(world.daemon.ended()) == {"t", "v", "w"}
    assert world.ever_spawned == [("t", 1), ("w", 1), ("v", 1)]
    assert SECRET not in written(world)


@pytest.mark.parametrize("lines", range(6))
def test_no_death_in_the_middle_starts_one_without_its_secret(lines: int) -> None:
    world = World()
    world.connect(slots=1)
    before = len(world.records)
    world.say(secret_start("t", "x"))
    world.records = world.records[: before + lines]  # the rest was not on disk yet
    world.processes.clear()
    world.ever_spawned.clear()
    world.restart()
    world.connect(slots=1)
    assert world.ever_spawned == []
    held = world.core.tasks.get(("t", 1))
    assert held is None or held.state != WAITING


@pytest.mark.parametrize("restarted", [False, True])
def test_one_that_was_stopped_while_it_waited_stays_ended(restarted: bool) -> None:
    world = World()
    world.connect(slots=1)
    world.say(start("t", "x"), secret_start("v", "x"))
    if restarted:
        world.restart()
        world.connect(slots=1)
    world.say({"t": "stop", "epoch": 1, "task": "v", "attempt": 1, "grace_s": 0})
    assert world.daemon.ended()["v"]["why"] == "stop"
    world.restart()
    world.connect(slots=2)
    world.say(secret_start("v", "x"))
    assert world.ever_spawned == [("t", 1)]
    assert SECRET not in written(world)


def secret_set_up(*steps: str, secret: str = SECRET) -> Message:
    """A set-up with a secret and a plain variable."""
    said = [{"phase": f"p{i}", "run": run, "timeout_s": 60} for i, run in enumerate(steps)]
    env = {"TOKEN": secret, "PLAIN": "shown"}
    return {"t": "bootstrap", "epoch": 1, "run_id": "b", "env": env, "secret": ["TOKEN"], "steps": said}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_set_up_is_written_down_without_its_secret(restarted: bool) -> None:
    world = World()
    world.connect(slots=1)
    world.say(secret_set_up("one", "two"))
    assert world.core.run is not None and world.core.run.env["TOKEN"] == SECRET
    assert SECRET not in written(world) and "shown" in written(world)
    if restarted:  # it runs no step without its secret
        world.restart()
        world.connect(slots=1)
        [ended] = world.daemon.of("bootstrap_ended")
        assert ended["error"] == "the agent ended while this step ran" and world.core.run is None
    assert SECRET not in written(world)


@pytest.mark.parametrize("bad", [[1], [None], "no"])
def test_a_set_up_whose_secrets_have_no_names_is_refused(bad: Any) -> None:
    world = World()
    world.connect(slots=1)
    world.say({**secret_set_up("one"), "secret": bad if bad != "no" else [["x"]]})
    assert world.core.run is None and len(world.daemon.of("refused")) == 1


@pytest.mark.real
def test_what_a_step_prints_of_its_secret_is_not_told_and_no_file_has_it(rig: Rig, tmp_path: Path) -> None:
    stream = rig.attach()
    value = f"{SECRET}\nsecond-line-of-it"
    said = tmp_path / "said"
    stream.say(secret_set_up(f'printf %s "$TOKEN" > {said}; echo "it is: $TOKEN"; exit 3', secret=value))
    ended = stream.until(lambda m: m["t"] == "bootstrap_ended")
    assert said.read_text() == value
    assert ended["error"] == "exit code 3: [hidden]"
    console = [one["content"].rstrip("\n") for one in stream.of("console")]
    assert console == ["it is: [hidden]", "[hidden]"]
    rig.kill_agent()
    for path in rig.dir.rglob("*"):
        if path.is_file() and path.name not in ("step.out", "step.err"):
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.real
def test_on_notice_has_the_secret_after_the_agent_died_and_no_file_has_it(rig: Rig, tmp_path: Path) -> None:
    stream = rig.attach()
    said = tmp_path / "said"
    script = f'echo "$TOKEN" > {said}.task; sleep 60'
    notice = f'echo "$TOKEN" > {said}.hook'
    stream.say(secret_start("t", "sh", "-c", script, on_notice=notice))
    until(lambda: Path(f"{said}.task").exists() and bool(Path(f"{said}.task").read_text()))
    rig.kill_agent()
    again = rig.attach(boot=stream.of("hello")[0]["boot"])
    again.say({"t": "drain", "epoch": 1, "within_s": 2})
    again.ended("t")
    assert Path(f"{said}.task").read_text() == f"{SECRET}\n"
    assert Path(f"{said}.hook").read_text() == f"{SECRET}\n"
    for path in rig.dir.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
