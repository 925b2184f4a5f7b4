"""Chaos: kill -9 of the daemon and of machines at random moments, and everything still happens once."""

import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.events import TaskRequested
from tests.real.rig import Rig, tasks_of, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

NODES, TASKS = 5, 300
DAEMON_KILLS, MACHINE_KILLS = 10, 30
WITHIN_S = 240.0  # a node whose machines are lost again and again waits longer each time

# Says in a file that all share, in one write each, that it began, that it goes on, and that it ended.
SCRIPT = """
say() { echo "$EVERPOOL_TASK_ID $EVERPOOL_ATTEMPT $1" >> "$DIARY"; }
say start
i=0
while [ $i -lt $TICKS ]; do
    i=$((i + 1))
    echo "line $i"
    echo "error $i" >&2
    sleep 0.1
    say tick
done
say stop
"""


def seed_of() -> int:
    """From the environment, to see a run again; else new."""
    return int(os.environ.get("EVERPOOL_CHAOS_SEED") or random.SystemRandom().randrange(10**6))


def test_nothing_is_lost_or_doubled_by_kills(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    seed = seed_of()
    dice = random.Random(seed)
    with capsys.disabled():
        print(f"\nchaos: seed {seed}", flush=True)  # noqa: T201
    diary = rig.root / "diary"
    rig.start()
    assert rig.up(nodes=NODES, worker={"concurrency": 2}).status == "success"
    ticks = [dice.randint(2, 20) for _ in range(TASKS)]
    tasks = tasks_of("main", [task_spec(diary, count) for count in ticks])
    assert all(one.taken for one in rig.client.submit(tasks))

    began = time.monotonic()
    cause_chaos(rig, dice)
    chaos_s = time.monotonic() - began
    until(lambda: len(rig.events("task_completed")) >= TASKS, "all tasks completed", WITHIN_S - chaos_s)
    tasks_s = time.monotonic() - began

    ends = rig.check_tasks(one.request_id for one in tasks)
    assert {(end.result, end.exit_code) for end in ends.values()} == {("success", 0)}
    check_diary(diary, tasks, ticks)
    for task, count in zip(tasks, ticks, strict=True):
        check_lines(rig, task.request_id, ends[task.request_id].attempts, count)
    rig.down()
    rig.check_ends()
    assert not rig.events("bug_caught")
    attempts = sum(end.attempts for end in ends.values())
    with capsys.disabled():
        print(  # noqa: T201
            f"chaos: {TASKS} tasks in {attempts} attempts, {len(rig.events('instance_launched'))} machines; "
            f"{chaos_s:.0f} s of kills, all tasks done after {tasks_s:.0f} s",
            flush=True,
        )


def task_spec(diary: Path, ticks: int) -> dict[str, object]:
    """A task that takes `ticks` tenths of a second."""
    env = {"DIARY": str(diary), "TICKS": str(ticks)}
    return {"shell": SCRIPT, "env": env, "retries_infrastructure": 1000, "name": "tick"}


def cause_chaos(rig: Rig, dice: random.Random) -> None:
    """Kill, and start daemons again, until the dead are as many as wanted."""
    kills = ["daemon"] * DAEMON_KILLS + ["machine"] * MACHINE_KILLS
    dice.shuffle(kills)
    for kill in kills:
        time.sleep(dice.uniform(0.1, 2.0))
        if kill == "daemon":
            rig.kill()
            if dice.random() < 0.5:  # a machine dies while nobody looks
                time.sleep(dice.uniform(0, 0.5))
            rig.start(wait=dice.random() < 0.5)  # or the next kill comes while it starts
        else:
            machines = until(rig.records, "a machine lives", WITHIN_S)
            rig.kill_machine(dice.choice(sorted(machines)))
    rig.until_ready()


def check_diary(diary: Path, tasks: list[TaskRequested], ticks: list[int]) -> None:
    """No attempt was started twice, and none did anything after the next one began."""
    newest: dict[str, int] = defaultdict(int)
    done: dict[tuple[str, int], list[str]] = defaultdict(list)
    for task, attempt, word in entries(diary):
        assert attempt >= newest[task], f"{task}: attempt {attempt} does {word} beside {newest[task]}"
        newest[task] = attempt
        done[task, attempt].append(word)
    for words in done.values():
        assert words.count("start") == 1 and words[0] == "start", words
    # (An attempt before the last may have come to its end too, and its report died with its machine.)
    for asked, count in zip(tasks, ticks, strict=True):
        last = done[asked.request_id, newest[asked.request_id]]
        assert last == ["start", *["tick"] * count, "stop"]


def entries(diary: Path) -> Iterator[tuple[str, int, str]]:
    for line in diary.read_text().splitlines():
        task, attempt, word = line.split()
        yield task, int(attempt), word


def check_lines(rig: Rig, task: str, attempts: int, ticks: int) -> None:
    """Every stream has its lines once and in order: all of the last attempt, the first of others."""
    texts = rig.check_log(task)
    for (attempt, stream), lines in texts.items():
        word = "line" if stream == "stdout" else "error"
        wanted = [f"{word} {i}" for i in range(1, ticks + 1)]
        assert lines == wanted[: len(lines)], (task, attempt, stream)
        assert 1 <= attempt <= attempts
    for stream in ("stdout", "stderr"):
        assert len(texts[attempts, stream]) == ticks, (task, attempts, stream)
