"""The command line of the simulation: one seed, ranges that go on, and making a broken seed small."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.loop import Loop
from tests.simulation import __main__ as command_line
from tests.simulation.__main__ import main
from tests.simulation.plan import DAY_S, Case, Habits, numbers_of, plan_of, shown
from tests.simulation.run import Outcome, rule_of, run_case
from tests.simulation.shrink import Shrinking, smallest_part

ROOT = Path(__file__).parents[2]
DAYS = "0.02"


def test_one_seed_says_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--days", DAYS]) == 0
    first = capsys.readouterr().out
    assert first.startswith("seed 3 hash ") and first.endswith(" ok\n")
    assert main(["--seed", "3", "--days", DAYS, "--counts"]) == 0
    assert capsys.readouterr().out.startswith(first)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "required"),
        (["--seed", "x"], "not a whole number"),
        (["--seed", "1", "--seeds", "1-2"], "not allowed with"),
        (["--seed", "1", "--days", "0"], "not a number above 0"),
        (["--seed", "1", "--days", "nan"], "not a number above 0"),
        (["--seeds", "9-3"], "the first is above the last"),
        (["--seeds", "a-b"], "not a range"),
        (["--seeds", "5-"], "needs --minutes"),
        (["--seeds", "1-2", "--jobs", "0"], "number of processes"),
        (["--seeds", "1-2", "--shrink"], "about one seed"),
        (["--seeds", "1-2", "--keep", "1"], "about one seed"),
        (["--seed", "1", "--keep", "1-x"], "not a list"),
        (["--seed", "1", "--without", "crsh"], "no kind crsh: there are "),
        (["--seed", "1", "--state", "f"], "about a range"),
        (["--planted", "--minutes", "1"], "about a range"),
    ],
)
def test_what_is_wrong_with_arguments_is_said(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert why in capsys.readouterr().err


def test_a_range_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    assert main(["--seeds", "1-2", "--days", DAYS, "--state", str(state)]) == 0
    assert capsys.readouterr().out.count("\nseed 2 hash ") == 1
    with state.open("a") as file:
        file.write('{"seed": 3, "da')  # killed while it wrote
    assert main(["--seeds", "1-3", "--days", DAYS, "--state", str(state)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("seed 3 hash ") and "\n3 seeds, " in out and out.endswith(" 0 broken\n")
    kept = [json.loads(line) for line in state.read_text().splitlines()]
    assert [one["seed"] for one in kept] == [1, 2, 3] and all(one["ok"] for one in kept)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no json\n", "is not a line of a state file"),
        ('{"seed": 1}\n', "is not a line of a state file"),
        (
            '{"seed": 1, "days": 9, "hash": "", "ok": true, "seconds": 1, "virtual_days": 1, "counts": {}}\n',
            "is of 9 days a seed, not of 0.02",
        ),
    ],
)
def test_a_state_file_that_does_not_fit_is_refused(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    state.write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["--seeds", "1-2", "--days", DAYS, "--state", str(state)])
    assert end.value.code == 2
    assert why in capsys.readouterr().err
    assert state.read_text() == text
    with pytest.raises(SystemExit):
        main(["--seeds", "1-2", "--state", str(tmp_path)])
    assert "Is a directory" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "1-9000", "--days", DAYS, "--jobs", "2"]
    with subprocess.Popen(
        [*command, "--state", str(state)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("seed 1 ")
        run.send_signal(signal.SIGINT)
        rest = run.stdout.read()
    assert run.returncode == 130
    assert f"--state {state}" in rest.splitlines()[-1]
    kept = [json.loads(line)["seed"] for line in state.read_text().splitlines()]
    assert kept == list(range(1, len(kept) + 1))


def test_minutes_end_a_range_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "5-", "--days", DAYS, "--minutes", "0.0001"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 broken")


# --- plans and smaller cases ----------------------------------------------------------------------


def test_a_plan_of_fewer_days_is_the_beginning_of_one_of_more() -> None:
    long, short = plan_of(Case(7, 3.0), Habits()), plan_of(Case(7, 1.25), Habits())
    assert short == [act for act in long if act.at < 1.25 * DAY_S]
    kept = plan_of(Case(7, 3.0, frozenset({"task"}), frozenset({long[0].index, long[4].index})), Habits())
    assert kept == [act for act in (long[0], long[4]) if act.kind != "task"]
    assert long[0].dice(7).random() == long[0].dice(7).random() != long[1].dice(7).random()


def test_numbers_are_shown_short() -> None:
    assert shown([3, 17, 40, 41, 42, 44]) == "3,17,40-42,44"
    assert numbers_of("3,17,40-42,44") == {3, 17, 40, 41, 42, 44}
    assert numbers_of(shown([])) == frozenset()


def test_a_smallest_part_is_found() -> None:
    assert smallest_part(range(50), lambda part: {7, 30} <= set(part)) == [7, 30]
    assert smallest_part(range(5), lambda part: True) == []


def test_shrinking_leaves_what_is_needed() -> None:
    case = Case(4, 2.0)
    plan = plan_of(case, Habits())
    needed = [act.index for act in plan if act.kind == "task"][2:6:3]

    def run(case: Case) -> Outcome:
        left = {act.index for act in plan_of(case, Habits())}
        breaks = left.issuperset(needed) and "listing_stale" not in case.without
        broken = f"pool pool-{len(left)} is bad" if breaks else None
        return Outcome(case, "", broken, 0.0, case.days * DAY_S)

    told: list[str] = []
    small = Shrinking(run(case), run, told.append, Habits()).smallest()
    assert {act.index for act in plan_of(small.case, Habits())} == set(needed)
    assert small.case.days < 1.0 and "listing_stale" not in small.case.without
    assert small.case.options.endswith(f" --keep {shown(needed)}") and len(told) == 4


def test_a_planted_fault_is_made_small(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Loop, "_owed", lambda self: ())  # after a restart nothing that is owed is done
    found = next(
        outcome for seed in range(1, 30) if (outcome := run_case(Case(seed, 0.1))).broken is not None
    )
    monkeypatch.setattr(command_line, "RUNS_MAX", 20)
    words = ["--seed", str(found.seed), "--days", "0.1"]
    assert main([*words, "--shrink"]) == 1
    lines = capsys.readouterr().out.splitlines()
    again = [line.split("tests.simulation ")[1].split() for line in lines if line.startswith("  again: ")]
    assert len(again) == 2 and any(line.startswith("  acts: ") for line in lines)
    assert main(again[-1]) == 1
    assert found.broken is not None and rule_of(found.broken)[:20] in capsys.readouterr().out
