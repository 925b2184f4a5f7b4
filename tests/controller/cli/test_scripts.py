"""What stands around the command: the demo, the README, the unit, the shell scripts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from controller.config import check
from tests.controller.cli.running import ROOT, Face, daemon, processes_of


def blocks(info: str) -> list[str]:
    """The README's code blocks with this info string."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{info}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.real
def test_the_first_pool_of_the_readme(face: Face) -> None:
    assert blocks("sh serve") == ["everpool serve\n"]
    (script,) = blocks("sh first-pool")
    programs = face.directory / "bin"
    programs.mkdir()
    wrapper = programs / "everpool"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m controller "$@"\n')
    wrapper.chmod(0o755)
    env = face.env | {"PATH": f"{programs}:{face.env['PATH']}"}
    with daemon(face):
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            env=env,
            cwd=face.directory,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert "1\n2\n3\n" in done.stdout
    assert re.search(r"^task t-\w+ runs on node [01]$", done.stdout, re.MULTILINE)
    assert (face.directory / "result.txt").read_text() == "hello\n"
    assert "instance_replaced" in done.stdout and "pool first is gone" in done.stdout


def test_the_providers_of_the_readme_are_a_config(face: Face) -> None:
    (providers,) = blocks("toml providers")
    assert check(providers, "README.md") == []
    (buying,) = blocks("toml buying")
    accounts = providers.partition("[pools.")[0]
    assert check(accounts + buying, "README.md") == []


def test_the_readme_names_every_command_and_no_other(face: Face) -> None:
    shown = face("--help").out
    assert not re.findall(r"\w\.\.\.$", shown, re.MULTILINE), "a command's first sentence is cut"
    assert "\nOther:" not in shown, "a command has no section"
    listed = re.findall(r"^  (\w+)  +\S", shown, re.MULTILINE)
    text = (ROOT / "README.md").read_text()
    table = text.split("## Commands")[1].split("###")[0]
    assert set(re.findall(r"`([a-z]+)`", table)) == set(listed)
    used = set(re.findall(r"\beverpool ([a-z]+)\b", "".join(blocks("sh[^\n]*"))))
    assert used <= set(listed)


@pytest.mark.real
@pytest.mark.timeout(180)
def test_the_demo(face: Face) -> None:
    face.env["TMPDIR"] = str(face.directory)
    shown = face.start("demo", "--json")
    out, err = shown.communicate(timeout=150)
    assert shown.returncode == 0, err
    assert '"ok": true' in out
    assert "Traceback" not in err
    assert list(face.directory.iterdir()) == []
    assert processes_of(face.directory) == []


@pytest.mark.real
def test_check_and_serve_say_all_that_is_wrong(face: Face) -> None:
    config = face.directory / "bad.toml"
    config.write_text('[daemon]\nobserve_evry_s = 1\n[providers.x]\ntype = "lokal"\n')
    for arguments in (
        ("check", str(config)),
        ("check", "--config", str(config)),
        ("serve", "--config", str(config)),
    ):
        done = face(*arguments)
        assert done.code == 2
        assert "bad.toml:2" in done.err and "observe_every_s" in done.err and "'local'" in done.err
    checked = face("check", str(config), "--json")
    assert checked.json["code"] == 2 and len(checked.json["detail"]) == 2
    assert face("check", str(ROOT / "config.example.toml")).code == 0
    both = face("check", str(config), "--config", str(config))
    assert both.code == 2 and "say one of them" in both.err


@pytest.mark.real
def test_check_warns_of_machines_that_a_restart_loses(face: Face) -> None:
    file = face.directory / "played.toml"
    file.write_text('[providers.sim]\ntype = "simulated"\n[[providers.sim.offers]]\nspot = 0.5\n')
    told = face("check", str(file), "--json")
    assert told.code == 0
    [warning] = told.json["warnings"]
    assert warning.startswith("[providers.sim] is of type 'simulated'") and "restarts" in warning
    assert f"warning: {warning}" in told.err


def test_without_a_daemon(face: Face) -> None:
    done = face("ps")
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert "everpool serve" in done.err
    doctor = face("doctor", "--json")
    assert doctor.code == 1
    assert [line["ok"] for line in doctor.json if line["what"] in ("daemon", "python")] == [False, True]
    missing = face("backup", str(face.directory / "b"), "--state-dir", str(face.directory))
    assert missing.code == 1 and "there is no journal" in missing.err


@pytest.mark.real
def test_doctor_of_providers_without_a_daemon(face: Face) -> None:
    config = face.directory / "c.toml"
    config.write_text(f'[daemon]\nstate_dir = "{face.directory}/s"\n[providers.home]\ntype = "local"\n')
    home = face("doctor", "home", "--config", str(config))
    assert home.code == 0, home.out
    assert [line for line in home.out.splitlines() if "home: room" in line][0].startswith("ok   home: room ")
    wrong = face("doctor", "hoem", "--config", str(config))
    assert (wrong.code, wrong.out) == (4, "") and "did you mean 'home'" in wrong.err
    everything = face("doctor", "--config", str(config), "--json")
    assert everything.code == 1  # there is no daemon
    assert {"daemon", "disk", "home: room"} <= {line["what"] for line in everything.json}
    assert not (face.directory / "s").exists()


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("aiobotocore", "botocore"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
AWS = '[providers.work]\ntype = "aws"\n'
NEEDS = "[providers.work] providers of type aws need aiobotocore: pip install 'everpool[aws]'"


@pytest.mark.real
def test_a_missing_extra_is_named_wherever_it_is_needed(face: Face) -> None:
    lacking = face.directory / "lacking"
    lacking.mkdir()
    (lacking / "sitecustomize.py").write_text(ABSENT)
    face.env["PYTHONPATH"] = f"{lacking}{os.pathsep}{face.env['PYTHONPATH']}"
    config = face.directory / "c.toml"
    config.write_text(f'[daemon]\nstate_dir = "{face.directory}/s"\n{AWS}[providers.home]\ntype = "local"\n')
    for arguments in (("check", str(config)), ("serve", "--config", str(config))):
        done = face(*arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.splitlines()[1:] == [f"  {NEEDS}"]
    doctor = face("doctor", "work", "--config", str(config), "--json")
    assert doctor.code == 1
    (line,) = (line for line in doctor.json if not line["ok"])
    assert (line["what"], line["mend"]) == ("provider work", "pip install 'everpool[aws]'")
    with daemon(face, '[providers.local]\ntype = "local"\n'):
        path = face.directory / "everpool.toml"
        path.write_text(path.read_text() + AWS + '[pools.small]\nprovider = ["local"]\nnodes = 0\n')
        refused = face("reload")
        assert refused.code == 2 and NEEDS in refused.err and "nothing was changed" in refused.err
        assert face("ps", "--json").json == []


@pytest.mark.real
def test_by_tcp_with_the_token(face: Face) -> None:
    token = face.directory / "token"
    token.write_text("0123456789abcdef0123\n")
    token.chmod(0o600)
    port = 20_000 + os.getpid() % 10_000
    listen = f'listen = "127.0.0.1:{port}"\ntoken_file = "{token}"\n'
    with daemon(face, listen):
        url = ("--url", f"http://127.0.0.1:{port}")
        assert face("ps", *url, "--token-file", str(token)).code == 0
        refused = face(*url, "ps")
        assert refused.code == 2 and "token" in refused.err
        other = face("serve", "--config", str(face.directory / "everpool.toml"))
        assert other.code == 1 and "is held by pid" in other.err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("local", [False, True])
def test_systemd_takes_the_unit(tmp_path: Path, local: bool) -> None:
    text = (ROOT / "deploy" / "everpool.service").read_text()
    program = "/opt/everpool/bin/everpool"
    assert f"ExecStart={program} serve\n" in text
    unit = tmp_path / "everpool.service"
    unit.write_text(text.replace(program, sys.executable))
    if local:
        (tmp_path / "everpool.service.d").mkdir()
        shutil.copy(ROOT / "deploy/everpool.service.d/local.conf", tmp_path / "everpool.service.d")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if "everpool.service" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("script", ["deploy/demo.sh", "tests/run.sh", ".ci/run"])
def test_scripts_are_plain_sh(script: str) -> None:
    path = ROOT / script
    assert path.read_text().startswith("#!/bin/sh\n")
    assert os.access(path, os.X_OK)
    assert subprocess.run(["sh", "-n", str(path)], capture_output=True).returncode == 0


@pytest.mark.parametrize("script", ["deploy/demo.sh", "tests/run.sh"])
def test_scripts_say_when_there_is_no_python(script: str, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "EVERPOOL_PYTHON": str(tmp_path / "python2")}
    done = subprocess.run(["sh", str(ROOT / script)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr
