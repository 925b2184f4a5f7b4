"""Tokens and TLS as a user has them: a real daemon, its certificate changed live, and over a restart."""

import json
import socket
from pathlib import Path

import pytest

from tests.controller.cli.running import Face, daemon, until
from tests.controller.security.pki import Authority

pytestmark = pytest.mark.real


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_tokens_over_tls(face: Face) -> None:
    pki = Authority(face.directory)
    pki.issue(days=10)
    port = _free_port()
    token = face.directory / "ci.token"
    config = (
        f'listen = "0.0.0.0:{port}"\n[daemon.tls]\n'
        f'certificate = {{ file = "{pki.certificate}" }}\nkey = {{ file = "{pki.key}" }}\n'
    )
    there = ("--url", f"https://127.0.0.1:{port}", "--ca-file", str(pki.ca_file), "--token-file", str(token))
    log = face.directory / "daemon.log"
    with daemon(face, config):
        made = face("token", "create", "ci", "--scope", "submit", "--pool", "ci-*", "--expires", "30d",
                    "--out", str(token), "--json")  # fmt: skip
        assert made.code == 0, made.err
        assert token.read_text().strip() not in made.out and made.json["pools"] == ["ci-*"]
        assert token.stat().st_mode & 0o777 == 0o600
        again = face("token", "create", "ci", "--out", str(face.directory / "other"))
        assert again.code == 4 or "there is a token 'ci' already" in again.err, again
        assert not (face.directory / "other").exists()

        who = face(*there, "whoami", "--json")
        assert who.json == {"name": "token:ci", "scope": "submit", "pools": ["ci-*"]}, who.err
        refused = face(*there, "backup", str(face.directory / "copy"))
        assert refused.code != 0 and "has scope submit" in refused.err and "--scope admin" in refused.err
        refused = face(*there, "up", "main", "--nodes", "0")
        assert refused.code != 0 and "limited to pools ci-*" in refused.err
        untrusted = face("--url", there[1], "--token-file", str(token), "whoami")
        assert untrusted.code != 0 and "ca_file" in untrusted.err.replace("--ca-file", "ca_file")
        [shown] = face("token", "list", "--json").json
        assert shown["name"] == "ci" and shown["last_used"] is not None and not shown["expired"]
        assert "in 29d" in face("token", "list").out

        warned = [one for one in face("doctor", "--json").json if one["what"] == "certificate"]
        assert [one["ok"] for one in warned] == [False] and "expires in" in warned[0]["detail"]
        pki.issue(key=False)
        bad = face("reload", "--json")
        assert any("is not the key of" in line for line in bad.json["plan"]), bad
        assert face(*there, "whoami").code == 0
        pki.issue(days=90)
        assert face("reload").code == 0
        assert [one for one in face("doctor", "--json").json if one["what"] == "certificate"] == []
        assert face(*there, "whoami").code == 0
    with daemon(face, config):
        assert face(*there, "whoami").out.startswith("token:ci: scope submit")
        following = face.start(*there, "events", "--follow", "--json")
        assert following.stdout is not None
        assert face("token", "revoke", "ci").code == 0
        assert following.wait(30) != 0  # it was cut, and may not come again
        assert face(*there, "whoami").code != 0
        told = [json.loads(line) for line in face("events", "--json").out.splitlines()]
        by_kind = {one["event"]["kind"]: one["principal"] for one in told}
        assert {by_kind[kind][:5] for kind in ("token_created", "token_revoked", "administered")} == {"unix:"}
    until(lambda: following.poll() is not None)
    secret = token.read_text().strip()
    for file in [log, *Path(face.directory / "s").rglob("*")]:
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file
