"""A seed is the same run under another Python. Its environment is made once and kept."""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.simulation.run import run_seed

ROOT = Path(__file__).parents[2]
SEEDS = range(1, 4)
DAYS = 0.5
MINORS = (13, 12, 14, 11)  # the first that is not ours is taken


def _others() -> list[str]:
    """Interpreters of other minor versions that can make environments."""
    found: list[str] = []
    for minor in MINORS:
        if minor == sys.version_info.minor:
            continue
        paths = sorted(Path("~/.pyenv/versions").expanduser().glob(f"3.{minor}.*/bin/python"))
        on_path = shutil.which(f"python3.{minor}")
        for path in [*(str(path) for path in paths), *([on_path] if on_path else [])]:
            wanted = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, {minor}))"
            if subprocess.run([path, "-c", wanted], capture_output=True, check=False).returncode == 0:
                found.append(path)
                break
    return found


@pytest.fixture(scope="module")
def other_python() -> Path:
    """A Python of another minor version, with what the project needs."""
    others = _others()
    if not others:
        text = f"no Python of another minor version with venv: one of {MINORS} is wanted"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    mark = hashlib.sha256(repr((others[0], needed)).encode()).hexdigest()[:12]
    home = Path(os.environ.get("EVERPOOL_TEST_CACHE", ROOT / ".venv-other"))
    python = home / mark / "bin" / "python"
    done = home / mark / "complete"
    if not done.exists():
        subprocess.run([others[0], "-m", "venv", "--clear", str(home / mark)], check=True)
        (home / ".gitignore").write_text("*\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *needed], check=True)
        done.touch()
    return python


def test_a_seed_is_the_same_run_under_another_python(other_python: Path) -> None:
    seeds = ["--seeds", f"{SEEDS[0]}-{SEEDS[-1]}", "--days", str(DAYS)]
    command = [str(other_python), "-m", "tests.simulation", *seeds]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as other:
        own = [run_seed(seed, DAYS).line for seed in SEEDS]
        said, _ = other.communicate()
    assert [line for line in said.splitlines() if line.startswith("seed ")] == own, said[-2000:]
