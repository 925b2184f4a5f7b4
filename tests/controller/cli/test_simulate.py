"""`everpool simulate`, as a user runs it."""

import json
import signal
import sys
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controller.cli.codes import DETACHED, USAGE
from controller.cli.main import app
from tests.controller.cli.running import Done, Face

CONFIG = """\
[providers.cloud]
type = "simulated"
notice_s = 120
preemptions_per_hour = 0.2
[[providers.cloud.offers]]
spot = 0.36
on_demand = 1.08

[pools.train]
provider = "cloud"
nodes = { desired = 2, min = 1 }

[pools.here]
provider = "local"
nodes = 1

[pools.none]
provider = "local"
nodes = 0

[pools.old]
remove = true

[providers.local]
type = "local"
"""
TRACE = {"metadata": {"gap_seconds": 3600}, "data": [4, 4, 2, 0, 4, 4]}


class Bench:
    """A directory with a config, and the command in this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "everpool.toml"
        self.config.write_text(CONFIG)

    def __call__(self, *arguments: str) -> Done:
        done = CliRunner().invoke(app, ["simulate", "--config", str(self.config), *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    def traces(self, **files: object) -> str:
        folder = self.directory / "traces"
        folder.mkdir()
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{name.replace('__', '-')}.json").write_text(text)
        return str(folder)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def numbers(value: Any) -> Any:
    """The keys of a JSON value, and what stands under each: so a change of the contract is seen."""
    if isinstance(value, dict):
        return {key: numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [numbers(inner) for inner in value[:1]]
    return type(value).__name__


def test_the_table_has_every_pool_and_figure(bench: Bench) -> None:
    done = bench("--days", "0.5")
    assert done.code == 0
    lines = {line.split("  ")[0]: line.split()[-3:] for line in done.out.splitlines()}
    assert done.out.splitlines()[0].split() == ["POOL", "train", "here", "none"]
    assert list(lines) == [
        "POOL",
        "nodes (min)",
        "all nodes ready",
        "nodes ready, mean",
        "below min",
        "cost",
        "all on demand",
        "share of that",
        "machine hours, spot",
        "machine hours, on demand",
        "preemptions",
        "launches",
        "launches refused",
        "launches per loss",
        "whole first after",
        "short, times",
        "whole again, median",
        "whole again, p95",
        "whole again, max",
        "at the end",
    ]
    assert lines["at the end"] == ["whole", "whole", "whole"]
    assert "simulating 0.5 days of train, here, none" in done.err and "seed 0, " in done.err
    assert "provider cloud: as its config says" in done.err


def test_json_is_one_object_with_keys_that_stay(bench: Bench) -> None:
    done = bench("--json", "--days", "0.25", "--pool", "train", "--tasks", "2", "--task-seconds", "600")
    assert done.code == 0 and done.out.count("\n") == 1
    assert numbers(done.json) == {
        "seconds": "float",
        "asked_seconds": "float",
        "seed": "int",
        "assumed": ["str"],
        "bugs": [],
        "events": "int",
        "journal_sha256": "str",
        "pools": [
            {
                "pool": "str",
                "nodes_desired": "int",
                "nodes_min": "int",
                "availability": "float",
                "ready_share": "float",
                "below_min_share": "float",
                "cost_micro_usd": "int",
                "cost_usd": "float",
                "on_demand_micro_usd": "int",
                "on_demand_usd": "float",
                "cost_percent_of_on_demand": "float",
                "machine_hours_spot": "float",
                "machine_hours_on_demand": "float",
                "preemptions": "int",
                "launches": "int",
                "launches_refused": "int",
                "launches_per_loss": "float",
                "whole_first_after_s": "float",
                "whole_again": done.json["pools"][0]["whole_again"]
                and {"count": "int", "median_s": "NoneType", "p95_s": "NoneType", "max_s": "NoneType"},
                "is_whole_at_end": "bool",
                "why_short": "NoneType",
                "tasks": {
                    "asked": "int",
                    "done": "int",
                    "failed": "int",
                    "attempts_lost": "int",
                    "all_done_after_s": "float",
                },
            }
        ],
    }
    assert done.json["seconds"] == done.json["asked_seconds"] == 0.25 * 86_400


def test_the_same_seed_prints_the_same(bench: Bench) -> None:
    given = ("--json", "--days", "0.3", "--pool", "train")
    first, again, other = bench(*given, "--seed", "3"), bench(*given, "--seed", "3"), bench(*given)
    assert first.out == again.out
    assert first.json["journal_sha256"] != other.json["journal_sha256"]


def test_prices_and_a_hazard_instead_of_a_cloud(bench: Bench) -> None:
    given = ("--spot-price", "0.36", "--on-demand-price", "1.08", "--preemptions-per-hour", "1")
    done = bench("--json", "--days", "0.5", "--pool", "here", *given, "--notice", "none", "--zones", "3")
    pool = done.json["pools"][0]
    assert pool["on_demand_micro_usd"] == 12 * 1_080_000
    assert pool["preemptions"] > 3 and pool["whole_again"]["median_s"] == pytest.approx(122, abs=3)
    assert "3 zones, 0.36 dollars an hour spot" in done.json["assumed"][0]
    assert "no notice" in done.json["assumed"][0]


def test_a_machine_takes_the_time_that_is_said(bench: Bench) -> None:
    done = bench(
        "--json", "--days", "0.1", "--pool", "here", "--boot-seconds", "200", "--setup-seconds", "60"
    )
    assert done.json["pools"][0]["whole_first_after_s"] == pytest.approx(263, abs=5)


def test_a_machine_that_boots_too_slowly_for_the_pool(bench: Bench) -> None:
    """As in earnest: provision_timeout is 300 s."""
    pool = bench("--json", "--days", "0.1", "--pool", "here", "--boot-seconds", "400").json["pools"][0]
    assert (pool["availability"], pool["whole_first_after_s"]) == (0, None)
    assert pool["launches"] > 1 and pool["why_short"]


def test_what_an_imagined_machine_needs_it_has(bench: Bench) -> None:
    bench.config.write_text(
        "[pools.a]\nprovider = 'local'\nvcpus = 96\nmemory_gb = 700\nzone = 'z'\nregion = 'r'\n"
        "instance_type = 't'\narchitecture = 'arm64'\ndisk_gb = 9\n[pools.a.accelerator]\nname = 'H100'\n"
    )
    assert bench("--json", "--days", "0.1").json["pools"][0]["is_whole_at_end"] is False  # local has no such
    done = bench("--json", "--days", "0.1", "--on-demand-price", "3", "--zones", "2")
    assert done.json["pools"][0]["is_whole_at_end"] is True
    assert done.json["assumed"][0].startswith("provider local: 1 zone, 3 dollars an hour on demand")


def test_a_local_providers_notices_are_acted_out(bench: Bench) -> None:
    notice = "[[providers.local.notices]]\nafter_s = 600\nmachines = [1]\nwithin_s = 0\n"
    bench.config.write_text(f"{CONFIG}{notice}")
    pool = bench("--json", "--days", "0.1", "--pool", "here").json["pools"][0]
    assert (pool["preemptions"], pool["launches"], pool["whole_again"]["count"]) == (1, 2, 1)


def test_traces_say_when_machines_are_there(bench: Bench) -> None:
    yes_or_no = {"metadata": {"gap_seconds": 3600}, "data": [1, 0, 0, 0, 0, 0]}
    folder = bench.traces(us__west__2a_v100_1=yes_or_no, **{"us__central1__a_c3-88": yes_or_no})
    prices = ("--traces", folder, "--spot-price", "0.36", "--on-demand-price", "1.08")
    done = bench("--json", "--days", "0.25", "--pool", "here", *prices)
    pool = done.json["pools"][0]
    assert (pool["preemptions"], pool["is_whole_at_end"]) == (1, True)
    assert pool["machine_hours_spot"] == pytest.approx(1.03, abs=0.05)
    assert "2 traces" in done.json["assumed"][0] and "whether there are machines" in done.json["assumed"][0]
    assert "no notice" not in done.json["assumed"][0]


def test_traces_may_count_machines(bench: Bench) -> None:
    folder = bench.traces(**{"us__west__2a_v100_1": TRACE})
    done = bench("--json", "--days", "0.25", "--pool", "here", "--traces", folder, "--spot-price", "0.36")
    assert "1 trace of" in done.json["assumed"][0] and "how many machines" in done.json["assumed"][0]
    pool = done.json["pools"][0]
    assert (pool["preemptions"], pool["on_demand_usd"]) == (1, None)


def test_a_pool_that_can_not_be_filled_is_no_error(bench: Bench) -> None:
    bench.config.write_text("[pools.a]\nprovider = 'local'\nvcpus = 99\n")
    done = bench("--days", "0.1")
    assert done.code == 0
    assert "all nodes ready           0.000 %" in done.out
    assert "short" in done.out.splitlines()[-1]
    assert "pool a is short at the end: local" in done.err


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture(bench: Bench, suffix: str) -> None:
    picture = bench.directory / f"pool{suffix}"
    done = bench("--days", "0.5", "--picture", str(picture))
    assert done.code == 0 and str(picture) in done.err
    data = picture.read_bytes()
    if suffix == ".png":
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
        return
    root = xml.fromstring(data)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert b"train" in data  # comments name what the paths draw


WRONG = [
    (("--days", "0"), "--days 0: has to be more than 0, and 3660 at most"),
    (("--days", "-1"), "--days -1"),
    (("--days", "3661"), "--days 3661"),
    (("--days", "nan"), "--days nan"),
    (("--pool", "tain"), "the config keeps no pool 'tain'; did you mean 'train'?"),
    (("--pool", "old"), "the config keeps no pool 'old'; there are train, here, none"),
    (("--zones", "0", "--spot-price", "1"), "--zones 0"),
    (("--spot-price", "nan"), "--spot-price nan"),
    (("--preemptions-per-hour", "-1"), "--preemptions-per-hour -1"),
    (("--boot-seconds", "inf"), "--boot-seconds inf"),
    (("--notice", "soon"), "'soon' is no duration"),
    (("--tasks", "3"), "--tasks and --task-seconds need each other"),
    (("--task-seconds", "3"), "--tasks and --task-seconds need each other"),
    (("--tasks", "0", "--task-seconds", "3"), "--tasks 0"),
    (("--zones", "3"), "--zones needs --spot-price"),
    (("--on-demand-price", "1", "--preemptions-per-hour", "1"), "--preemptions-per-hour needs --spot-price"),
    (("--pool", "train", "--notice", "1m"), "nothing would use --notice"),
    (("--traces", "no/such"), "--traces needs --spot-price"),
    (("--traces", "no/such", "--spot-price", "1"), "--traces no/such: is no folder"),
    (("--traces", "no/such", "--spot-price", "1", "--zones", "2"), "--zones contradicts --traces"),
    (
        ("--traces", "no/such", "--spot-price", "1", "--preemptions-per-hour", "2"),
        "--preemptions-per-hour contradicts --traces",
    ),
    (("--picture", "a.pdf"), "a picture's name ends in .png or .svg"),
    (("--picture", "/no/such/a.png"), "there is no directory /no/such"),
    (("--picture", "/proc/a.png"), "/proc/a.png: can't be written"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=lambda value: " ".join(value)[:60])
def test_what_is_wrong_is_said_and_exits_2(bench: Bench, arguments: tuple[str, ...], said: str) -> None:
    done = bench(*arguments)
    assert (done.code, done.out) == (USAGE, "")
    assert said in done.err


def test_a_directory_is_no_picture(bench: Bench) -> None:
    (bench.directory / "a.png").mkdir()
    done = bench("--picture", str(bench.directory / "a.png"))
    assert done.code == USAGE and "is a directory" in done.err


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no file named zone_type_count.json"),
        ({"nothing": TRACE}, "is not named zone_type_count.json"),
        ({"z_t_1": "{"}, "is no JSON"),
        ({"z_t_1": {"data": [1]}}, "lacks metadata.gap_seconds"),
        ({"z_t_1": {"metadata": {"gap_seconds": 60}, "data": []}}, "lacks data"),
        ({"z_t_1": {"metadata": {"gap_seconds": 60}, "data": [1, -1]}}, "data[1] is no number of 0 or more"),
        ({"z_a b": TRACE}, "z_a b.json: "),
    ],
)
def test_traces_that_are_none(bench: Bench, files: dict[str, object], said: str) -> None:
    done = bench("--traces", bench.traces(**files), "--spot-price", "1")
    assert done.code == USAGE and said in done.err


def test_a_config_that_is_wrong_or_keeps_nothing(bench: Bench) -> None:
    bench.config.write_text("[pools.a]\nprovider = 'local'\nnodez = 1\n")
    done = bench()
    assert done.code == USAGE and "did you mean 'nodes'" in done.err
    bench.config.write_text("")
    done = bench("--json")
    assert done.code == USAGE and "the config names no pool" in done.json["error"]
    bench.config.unlink()
    assert "can't be read" in bench().err


def test_without_matplotlib_the_extra_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = bench("--picture", str(bench.directory / "a.png"))
    assert done.code == USAGE and "pip install 'everpool[picture]'" in done.err


@pytest.mark.real
def test_ctrl_c_prints_the_figures_so_far(face: Face) -> None:
    config = face.directory / "everpool.toml"
    config.write_text(CONFIG.replace("0.2", "60"))  # the cloud takes machines all the time: work for hours
    given = ("--config", str(config), "--days", "3660", "--pool", "train", "--json")
    process = face.start("simulate", *given)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("simulating 3660 days of train")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == DETACHED, err
    assert "interrupted: simulated" in err
    done = json.loads(out)
    assert 0 <= done["seconds"] < done["asked_seconds"] == 3660 * 86_400
