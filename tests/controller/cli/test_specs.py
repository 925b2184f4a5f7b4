"""What a user types, and the specs it becomes."""

import base64
import json
from pathlib import Path

import pytest

from actors.spec import PoolSpec, Step
from controller.cli import specs
from controller.cli.codes import USAGE, CliError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("2d", 172_800),
        (" 5m ", 300),
    ],
)
def test_durations(text: str, wanted: float) -> None:
    assert specs.seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "soon", "1x", "h", "5 m", "1h30", "-3", "3-", "1hm"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(CliError) as raised:
        specs.seconds(text)
    assert raised.value.code == USAGE


def test_options_lie_on_top_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(
        'provider = ["a", "b"]\nnodes = [2, 5]\nlease_s = 900\n[worker]\nconcurrency = 2\nbuffer = 3\n'
    )
    spec = specs.pool_spec(
        specs.read_spec(file),
        slots=4,
        steps=["greet=echo a=b", "then=true"],
        sets=["nodes.desired=3", "image.env.A=1x", "lease_s=600", 'region="eu"', "zone=local-a"],
    )
    assert spec.provider == ("a", "b")
    assert (spec.worker.concurrency, spec.worker.buffer, spec.lease_s) == (4, 3, 600)
    assert spec.image.steps == (Step(phase="greet", run="echo a=b"), Step(phase="then", run="true"))
    assert (spec.image.env, spec.region, spec.zone) == ({"A": "1x"}, "eu", "local-a")


def test_a_size_keeps_the_bounds_of_the_file() -> None:
    given = {"provider": "local", "nodes": {"desired": 1, "max": 4}}
    spec = specs.pool_spec(given, nodes=3)
    assert (spec.nodes.desired, spec.nodes.max) == (3, 4)
    assert given["nodes"] == {"desired": 1, "max": 4}


def test_the_default_provider_is_local() -> None:
    assert specs.pool_spec({}, nodes=2) == PoolSpec.model_validate({"provider": "local", "nodes": 2})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(CliError) as raised:
        specs.pool_spec({"nodez": 1, "lease_s": -1}, sets=["worker.concurency=1"])
    said = "\n".join([str(raised.value), *raised.value.detail])
    assert "did you mean 'nodes'?" in said and "did you mean 'worker" not in said
    assert "lease_s" in said and "'concurrency'" in said


@pytest.mark.parametrize("entry", ["lease_s", "=3", "a..b=1", "lease_s.x=1"])
def test_sets_that_are_none(entry: str) -> None:
    with pytest.raises(CliError):
        specs.pool_spec({"lease_s": 900}, sets=[entry])


@pytest.mark.parametrize(
    ("name", "text"), [("a.toml", "x ="), ("a.json", "{"), ("b.json", "[1]"), ("c.toml", "\xff")]
)
def test_files_that_hold_no_spec(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CliError) as raised:
        specs.read_spec(path)
    assert raised.value.code == USAGE


def test_a_json_spec(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"provider": "local", "nodes": 2}))
    assert specs.pool_spec(specs.read_spec(path)).nodes.desired == 2


def test_files_to_put(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "deep").mkdir()
    (tmp_path / "in" / "deep" / "x.sh").write_bytes(b"\x00x")
    (tmp_path / "in" / "deep" / "x.sh").chmod(0o750)
    (tmp_path / "one").write_text("1")
    found = specs.puts([str(tmp_path / "in"), f"{tmp_path / 'one'}:there/two"])
    assert [(file.path, file.mode) for file in found][0] == ("in/deep/x.sh", 0o750)
    assert base64.b64decode(found[0].data) == b"\x00x"
    assert found[1].path == "there/two"


@pytest.mark.parametrize("target", ["/etc/passwd", "../up"])
def test_files_stay_in_the_tasks_directory(tmp_path: Path, target: str) -> None:
    (tmp_path / "one").write_text("1")
    with pytest.raises(CliError):
        specs.puts([f"{tmp_path / 'one'}:{target}"])


def test_tasks() -> None:
    task = specs.task_spec(["echo", "a b"], shell=False, name="n", timeout_s=None)
    assert (task.argv, task.shell, task.timeout_s) == (("echo", "a b"), None, None)
    assert specs.task_spec(["echo", "a  b"], shell=True).shell == "echo a  b"
    with pytest.raises(CliError):
        specs.task_spec([], shell=False)
    with pytest.raises(CliError):
        specs.environment(["NOVALUE"])
    assert specs.environment(["A=b=c", "E="]) == {"A": "b=c", "E": ""}
    assert specs.fetches(["out/a.txt", "b:c/d"]) == {"out/a.txt": Path("a.txt"), "b": Path("c/d")}
