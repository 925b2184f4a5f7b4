"""`check` looks at the files of secrets: what is wrong is said with its key, what can't be seen is not."""

import os
from pathlib import Path

import pytest

from controller.config import parse
from controller.config_secrets import examine, look


def config(source: str) -> str:
    return f'[providers.v]\ntype = "vastai"\napi_key = {source}\n'


def said(source: str) -> list[tuple[str, bool]]:
    return [(str(one), one.wrong) for one in look(parse(config(source), "x"))]


def test_a_good_one_needs_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    key.write_text("a-very-secret-key")
    key.chmod(0o600)
    assert said(f'{{ file = "{key}" }}') == []
    monkeypatch.setenv("VAST", "a-very-secret-key")
    assert said('{ env = "VAST" }') == []
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert said('{ credential = "key" }') == []


def test_what_the_daemon_would_not_get_either_is_wrong(tmp_path: Path) -> None:
    ((missing, wrong),) = said(f'{{ file = "{tmp_path}/none" }}')
    assert wrong and "providers.v.api_key" in missing and "No such file" in missing
    key = tmp_path / "key"
    key.write_text("a-very-secret-key")
    key.chmod(0o644)
    ((loose, wrong),) = said(f'{{ file = "{key}" }}')
    assert wrong and f"chmod 600 {key}" in loose and "a-very-secret-key" not in loose


def test_a_certificate_is_no_secret(tmp_path: Path) -> None:
    for name, mode in (("crt", 0o644), ("key", 0o640)):
        (tmp_path / name).write_text("a pair of which the daemon says more")
        (tmp_path / name).chmod(mode)
    tls = f'[daemon.tls]\ncertificate = {{ file = "{tmp_path}/crt" }}\nkey = {{ file = "{tmp_path}/key" }}\n'
    assert look(parse(tls, "x")) == []
    (tmp_path / "crt").unlink()
    assert [str(one) for one in look(parse(tls, "x"))] == [
        f"daemon.tls.certificate: {tmp_path}/crt is no file"
    ]


def test_what_only_the_service_sees_is_told_and_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("VAST", raising=False)
    ((credential, wrong),) = said('{ credential = "vast" }')
    assert not wrong and "service" in credential
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/hidden-from-a-reload")
    assert said('{ credential = "vast" }') == [(credential, False)]
    ((variable, wrong),) = said('{ env = "VAST" }')
    assert not wrong and "$VAST" in variable


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_another_user_is_not_wrong(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a-very-secret-key")
    key.chmod(0)
    ((text, wrong),) = said(f'{{ file = "{key}" }}')
    assert not wrong and "not looked at" in text


def test_webhooks_are_looked_at_as_well(tmp_path: Path) -> None:
    text = f'[webhooks.w]\nurl = "https://example.org"\nsecret = {{ file = "{tmp_path}/none" }}\n'
    ((found, wrong),) = [(str(one), one.wrong) for one in look(parse(text, "x"))]
    assert wrong and found.startswith("webhooks.w.secret: ")


def test_the_line_in_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[daemon]\n\n" + config(f'{{ file = "{tmp_path}/none" }}'))
    (line,) = examine(path).wrong
    assert line.startswith(f"{path}:5: providers.v.api_key: ")
