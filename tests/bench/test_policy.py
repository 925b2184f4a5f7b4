"""The replay of traces: its figures by hand on tiny traces, the same every time, and what it refuses."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from actors.buying import Buying
from tests.bench import policy
from tests.bench.replay import DAY_S, Terms, Variant, oracle_share, replayed, scenarios_in

GAP_S = 600
ON_DEMAND = Variant("on-demand", Buying(policy="on-demand"))


def write(folder: Path, name: str, data: Sequence[int], gap_s: float = GAP_S) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"metadata": {"gap_seconds": gap_s}, "data": list(data)})
    (folder / f"{name}.json").write_text(text)


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Two scenarios of six hours: one says whether there are machines, the other how many."""
    write(tmp_path / "whether", "us-east-1a_v100_1", [1] * 20 + [0] * 6 + [1] * 10)
    write(tmp_path / "whether", "us-east-1c_v100_1", [0] * 10 + [1] * 26)
    write(tmp_path / "many", "us-central1-a_c3-88", [4] * 12 + [1] * 12 + [4] * 12)
    write(tmp_path / "many", "us-central1-b_c3-88", [2] * 80)
    (tmp_path / "README.md").write_text("what these are")
    (tmp_path / "many" / "README.md").write_text("and these")
    (tmp_path / "empty").mkdir()
    return tmp_path


def words(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = policy.main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_on_demand_is_always_ready_at_its_whole_price(traces: Path) -> None:
    many, whether = scenarios_in(traces, Terms())
    assert (many.name, many.seconds, whether.name) == ("many", 36 * GAP_S, "whether")
    for scenario in (many, whether):
        run = replayed(ON_DEMAND, scenario, 2, Terms(), oracle_share(scenario, 2, Terms()))
        assert run.availability == pytest.approx(1, abs=15 / scenario.seconds)  # calls, and being seen
        assert run.cost == pytest.approx(1, abs=1e-3)
        assert (run.launches, run.losses, run.refused, run.spot_share) == (2, 0, 0, 0)


def test_the_oracle_reads_traces_as_the_cloud_does(traces: Path) -> None:
    many, whether = scenarios_in(traces, Terms())
    span_s, cold_s = 36 * GAP_S, 180
    # A zone is left for the other before it closes, and that one never does: one cold start more.
    assert oracle_share(whether, 5, Terms()) == pytest.approx((span_s + cold_s) / (3 * span_s), rel=1e-4)
    # Of six nodes there is room for three from two to four hours.
    short_s = 12 * GAP_S
    on_demand_s = cold_s + short_s + cold_s
    wanted = (6 * span_s - 3 * short_s + 3 * 3 * on_demand_s) / (3 * 6 * span_s)
    assert oracle_share(many, 6, Terms()) == pytest.approx(wanted, rel=1e-3)


def test_prices_of_types_are_against_each_other(tmp_path: Path) -> None:
    write(tmp_path, "z-1a_small", [1] * 36)
    write(tmp_path, "z-1a_large", [1] * 36)
    terms = Terms(type_prices={"large": 8.0}, spot_share=0.5)
    only = scenarios_in(tmp_path, terms)[0]
    assert oracle_share(only, 1, terms) == pytest.approx(0.5)
    prices = {offer.instance_type: (offer.spot, offer.on_demand) for offer in only.offers}
    assert prices == {"small": (1.5, 3.0), "large": (12.0, 24.0)}


def test_traces_can_be_cut(traces: Path) -> None:
    many, _ = scenarios_in(traces, Terms(days_max=0.1))
    assert many.seconds == 0.1 * DAY_S


def test_the_same_words_give_the_same_figures(traces: Path) -> None:
    """In one process and in several, with another hash seed each time."""
    command = [sys.executable, "-m", "tests.bench.policy", "--traces", str(traces), "--nodes", "2", "--json"]
    command += ["--policy", "sticky-race", "--policy", "default"]
    root = Path(policy.__file__).parents[2]
    answers = []
    for jobs, seed in (("1", "1"), ("2", "2")):
        done = subprocess.run(
            [*command, "--jobs", jobs],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(done.stdout)
    assert answers[0] == answers[1]
    told = json.loads(answers[0].splitlines()[-1])
    assert {"cost_over_oracle", "availability", "mean_ready"} <= told.keys()
    assert len(told["runs"]) == 4 and all(not run["bugs"] for run in told["runs"])
    assert told["policy"] == told["default_policy"]


def test_a_folder_of_traces_is_a_scenario_itself(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--traces", traces / "many", "--nodes", 1, "--policy", "on-demand", "--jobs", 1, "--json")
    code, out, err = words(capsys, *arguments)
    assert code == 0 and "1 of 1: on-demand, many, 1 node: " in err and "x oracle" in err
    told = json.loads(out.splitlines()[-1])
    assert told["cost_over_oracle"] == pytest.approx(3, abs=0.01)
    assert "on-demand" in out and "all 1 scenarios" in out


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("nounderscore.json", '{"metadata": {"gap_seconds": 1}, "data": [1]}', "is not named"),
        ("a-1a_t.json", "{", "is no JSON"),
        ("a-1a_t.json", '{"data": [1]}', "gap_seconds"),
        ("a-1a_t.json", '{"metadata": {"gap_seconds": 600}, "data": []}', "lacks data"),
        ("a-1a_t.json", '{"metadata": {"gap_seconds": 600}, "data": [1, -1]}', "data[1]"),
        (
            "a-1a_t.json",
            '{"metadata": {"gap_seconds": 60}, "data": [1, 1, 1]}',
            "not longer than a cold start",
        ),
        ("notes.txt", "x", "neither it nor a folder in it holds a trace"),
    ],
)
def test_what_cannot_be_replayed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, wanted: str
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_text(content)
    code, out, err = words(capsys, "--traces", tmp_path)
    assert (code, out) == (2, "") and wanted in err and str(tmp_path) in err
    assert words(capsys, "--traces", tmp_path / "nowhere")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--policy", "hazzard"), "nothing is called so"),
        (("--policy", "hazard:missing_node_hour=-1"), "missing_node_hour"),
        (("--policy", "hazard:extra=n,colour=blue"), "colour"),
        (("--scenario", "other"), "there are many, whether"),
        (("--type-price", "h100=2"), "no trace is of the type h100"),
    ],
)
def test_what_nobody_knows_is_named(
    traces: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], wanted: str
) -> None:
    code, out, err = words(capsys, "--traces", traces, *arguments)
    assert (code, out) == (2, "") and wanted in err


@pytest.mark.parametrize(
    "arguments", [("--nodes", "0"), ("--nodes", "x"), ("--spot-share", "nan"), ("--days", "-1")]
)
def test_numbers_out_of_bounds_are_refused(
    traces: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        policy.main(["--traces", str(traces), *arguments])
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_every_policy_is_replayed_unless_some_are_named() -> None:
    labels = [one.label for one in policy.chosen(())]
    for name in (
        "on-demand",
        "round-robin",
        "even-spread",
        "sticky-race",
        "karpenter",
        "spothedge+n",
        "hazard:300",
    ):
        assert name in labels
    default = policy.default_of(policy.chosen(()))
    assert default.buying == Buying() and default.label in labels
    assert [one.label for one in policy.chosen(["spothedge", "default"])][:4] == [
        *(f"spothedge+{extra}" for extra in (0, 1, 2)),
        "spothedge+n",
    ]
    assert next(one for one in policy.chosen(["spothedge+n"])).of(8).extra == 8
    assert policy.chosen(["hazard:missing_node_hour=7,spares=auto"])[0].buying.spares == "auto"


def test_averages_are_of_runs_and_launches_per_loss_of_sums(traces: Path) -> None:
    many, _ = scenarios_in(traces, Terms())
    run = replayed(ON_DEMAND, many, 1, Terms(), 0.5)
    lossy = replace(run, nodes=3, launches=15, losses=6, availability=0.5, cost=0.5)
    row = policy.averaged("x", [run, lossy])
    assert row.launches_per_loss == 12 / 6
    assert row.cost_over_oracle == pytest.approx((run.cost + 0.5) / 2 / 0.5)
    assert row.availability == (run.availability + 0.5) / 2
