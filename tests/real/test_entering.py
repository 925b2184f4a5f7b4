"""`everpool exec` and `everpool ssh` into containers, as people use them."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.real.engines import ENGINES, EngineKind, RealEngine, engine
from tests.real.rig import REPOSITORY, Rig

pytestmark = pytest.mark.real
OFFERS = [{"memory_gb": 0.25, "spot": 0.0}]
WITHIN_S = 60.0


@pytest.fixture(params=ENGINES)
def real(request: pytest.FixtureRequest) -> Iterator[RealEngine]:
    kind: EngineKind = request.param
    found = engine(kind)
    yield found
    found.clear()


def line(rig: Rig, *words: str) -> list[str]:
    return [sys.executable, "-m", "controller", "--socket", str(rig.state / "api.sock"), *words]


def test_a_container_is_entered(real: RealEngine, rig: Rig) -> None:
    rig.configure(rest=real.toml("box", offers=OFFERS))
    rig.start()
    assert rig.up("boxes", nodes=1, provider="box").status == "success"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    script = 'cat; printf "%s|" "$@"; echo err >&2; exit 7'
    done = subprocess.run(
        line(rig, "exec", "boxes/0", "--", "sh", "-c", script, "x", "a b", "$HOME"),
        input=b"in\x00put\n" * 50_000,
        capture_output=True,
        env=env,
        timeout=WITHIN_S,
    )
    assert (done.returncode, done.stderr) == (7, b"err\n")
    assert done.stdout == b"in\x00put\n" * 50_000 + b"a b|$HOME|"

    short = subprocess.run(
        line(rig, "ssh", "boxes/0", "--", "echo $((6 * 7))"),
        capture_output=True,
        env=env,
        timeout=WITHIN_S,
    )
    assert (short.returncode, short.stdout) == (0, b"42\n")
    forwarding = subprocess.run(
        line(rig, "ssh", "-L", "1:localhost:1", "boxes/0"), capture_output=True, env=env, timeout=WITHIN_S
    )
    assert forwarding.returncode == 2 and b"is a container" in forwarding.stderr

    said, code = talked(line(rig, "ssh", "boxes/0"), env)
    assert code == 5
    assert b"117 31" in said  # the window's size is ours
    rig.down("boxes")


def talked(command: list[str], env: dict[str, str]) -> tuple[bytes, int]:
    """Type into a terminal that runs a command; what was shown, and how it ended."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, env)
    os.set_blocking(terminal, False)
    subprocess.run(["stty", "rows", "31", "cols", "117"], stdin=terminal, check=True)
    said, typed, deadline = b"", False, time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        select.select([terminal], [], [], 1)
        try:
            said += os.read(terminal, 65_536)
        except BlockingIOError:
            pass
        except OSError:  # the other side is closed
            break
        if not typed and said.rstrip().endswith((b"#", b"$")):
            os.write(terminal, b"""python3 -c "import os; print(*os.get_terminal_size())"; exit 5\r""")
            typed = True
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return said, os.waitstatus_to_exitcode(status)
