"""Where a secret is read from, and what is said when it can't be; never the secret itself."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from providers.errors import Fault, ProviderError
from providers.secret import SECRET_BYTES_MAX, SecretSource

SECRET = "s3cr3t-of-the-account"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A secret as one keeps it."""
    path = tmp_path / "key"
    path.write_text(f"  {SECRET}\n")
    path.chmod(0o600)
    return path


def refused(source: SecretSource) -> str:
    """Why it can't be read."""
    with pytest.raises(ProviderError) as caught:
        source.read()
    assert caught.value.fault is Fault.CREDENTIALS
    assert SECRET not in str(caught.value)
    return caught.value.detail


def test_a_file_is_read_each_time_and_without_the_space_around(file: Path) -> None:
    source = SecretSource(file=file)
    assert source.read() == SECRET
    file.write_text("another")
    assert source.read() == "another"


def test_a_file_in_the_home_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    assert SecretSource(file=Path("~/key")).read() == SECRET
    assert "no-such-user" in refused(SecretSource(file=Path("~no-such-user/key")))


def test_a_credential_of_systemd(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SecretSource(credential="key")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "LoadCredential=key:PATH" in refused(source)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(file.parent))
    assert source.read() == SECRET
    assert "can't be read" in refused(SecretSource(credential="other"))


def test_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SecretSource(env="EVERPOOL_TEST_KEY")
    monkeypatch.setenv("EVERPOOL_TEST_KEY", f" {SECRET}\n")
    assert source.read() == SECRET and source.path() is None
    for value in ("", " \n"):
        monkeypatch.setenv("EVERPOOL_TEST_KEY", value)
        assert refused(source) == "$EVERPOOL_TEST_KEY is not set"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o666])
def test_what_everybody_may_read_is_no_secret(mode: int, file: Path) -> None:
    file.chmod(mode)
    assert f"chmod 600 {file}" in refused(SecretSource(file=file))
    file.chmod(0o640)
    assert SecretSource(file=file).read() == SECRET


def test_what_is_no_secret_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    source = SecretSource(file=path)
    assert "No such file" in refused(source)
    path.write_bytes(b" \n")
    path.chmod(0o600)
    assert "is empty" in refused(source)
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not text" in refused(source)
    path.write_bytes(b"x" * (SECRET_BYTES_MAX + 1))
    assert f"more than {SECRET_BYTES_MAX} bytes" in refused(source)
    path.write_bytes(b"x" * SECRET_BYTES_MAX)
    assert len(source.read()) == SECRET_BYTES_MAX


def test_nothing_is_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        assert refused(SecretSource(file=path)) == f"{path} is not a file"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"file": "/a", "env": "B"},
        {"credential": "a/b"},
        {"credential": ".."},
        {"credential": ""},
        {"credential": "a\0b"},
        {"env": ""},
        {"file": "/a\0b"},
        {"path": "/a"},
    ],
)
def test_a_source_names_one_thing(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        SecretSource.model_validate(given)


def test_no_source_shows_its_secret(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERPOOL_TEST_KEY", SECRET)
    for source in (SecretSource(file=file), SecretSource(env="EVERPOOL_TEST_KEY")):
        source.read()
        assert SECRET not in repr(source) and SECRET not in source.model_dump_json()


def test_a_secret_that_is_written_down_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        SecretSource.model_validate("hunter2-hunter2")
    (problem,) = caught.value.errors(include_input=False)
    assert "such as { file =" in problem["msg"] and "hunter2" not in problem["msg"]
