"""Values never come by the command line, and never go out."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from tests.controller.cli.running import Done, Face, daemon

pytestmark = pytest.mark.real
SECRET = "hunter2-correct-horse"
SET = ("credential", "set")


@pytest.fixture(scope="module")
def kept() -> Iterator[Face]:
    """A daemon with a key that the command made."""
    with tempfile.TemporaryDirectory(prefix="epcli-") as directory:
        face = Face(Path(directory))
        made = run(face, "secrets", "keygen", f"{directory}/key")
        assert made.code == 0 and "secrets_key = " in made.out and "keep a copy" in made.err
        assert (face.directory / "key").stat().st_mode & 0o777 == 0o600
        assert run(face, "secrets", "keygen", f"{directory}/key").code == 5
        with daemon(face, f'secrets_key = {{ file = "{directory}/key" }}\n'):
            yield face


def run(face: Face, *arguments: str, said: str = "") -> Done:
    """Run a command, in this process, with something on stdin; nothing it says has the secret."""
    result = CliRunner(env={"EVERPOOL_SOCKET": str(face.socket)}).invoke(app, arguments, input=said)
    assert SECRET not in result.stdout + result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def keys(face: Face, group: str) -> list[str]:
    [found] = [one["keys"] for one in run(face, "secrets", "list", "--json").json if one["group"] == group]
    return list(found)


def test_values_come_by_a_pipe_or_a_file(kept: Face) -> None:
    assert run(kept, "secrets", "set", "db", "A=-", "B=-", said=f"{SECRET}\nsecond\n").code == 0
    assert keys(kept, "db") == ["A", "B"]
    pem = kept.directory / "pem"
    pem.write_text(f"-----BEGIN-----\n{SECRET}\n-----END-----\n")
    assert run(kept, "secrets", "set", "db", f"PEM=@{pem}", "--unset", "B").code == 0
    assert keys(kept, "db") == ["A", "PEM"]
    file = kept.directory / "env"
    file.write_text(f"# of the app\nexport C='{SECRET}'\nD=plain # not a comment\n\n")
    assert (
        run(kept, "secrets", "set", "db", "--env-file", str(file), "--replace", "--pool", "web-*").code == 0
    )
    assert keys(kept, "db") == ["C", "D"]
    listed = run(kept, "secrets", "list")
    assert "web-*" in listed.out and SECRET not in listed.out
    assert [line.split()[0] for line in run(kept, "secrets", "list", "db").out.splitlines()] == [
        "REVISION", "3", "2", "1",
    ]  # fmt: skip
    assert run(kept, "secrets", "rotate").code == 0
    assert run(kept, "secrets", "rm", "db").code == 0
    assert run(kept, "secrets", "rm", "db").code == 4


@pytest.mark.parametrize(
    ("arguments", "said", "why"),
    [
        (("A=" + SECRET,), "", "can be seen by everybody in `ps`"),
        (("A",), "", "write A=- to be asked"),
        (("A=-",), "", "nothing came on stdin"),
        (("A=-",), "\n", "an empty one is not taken"),
        (("A=@/none",), "", "/none can't be read"),
        ((), "", "nothing to set"),
        (("--from-stdin",), f"{SECRET}\n", "stdin:1: write KEY=VALUE"),
        (("--from-stdin",), f"A='{SECRET}\n", "the quote does not end"),
        (("--from-stdin", "A=-"), "A=1", "can't both read stdin"),
        (("PATH=-",), f"{SECRET}\n", "PATH is reserved"),
        (("A=-", "--pool", "Web"), f"{SECRET}\n", "no pattern"),
    ],
)
def test_what_is_not_taken_is_said_without_it(
    kept: Face, arguments: tuple[str, ...], said: str, why: str
) -> None:
    done = run(kept, "secrets", "set", "db", *arguments, said=said)
    assert done.code == 2
    assert why in " ".join(done.err.split())


def test_logins(kept: Face) -> None:
    assert run(kept, "credential", "list").code == 0
    made = run(kept, *SET, "hub", "--hostname", "ghcr.io", "--user", "bob", said=f"{SECRET}\n")
    assert made.code == 0, made.err
    assert run(kept, "credential", "list", "--json").json[0]["hostname"] == "ghcr.io"
    bad = run(kept, *SET, "x", "--hostname", "https://ghcr.io", "--user", "bob", said=SECRET)
    assert bad.code == 2 and "as it stands before the first slash" in bad.err
    assert run(kept, "credential", "rm", "hub").code == 0
