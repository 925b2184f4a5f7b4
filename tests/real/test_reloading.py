"""SIGHUP to a real daemon: what it may not open, and that nothing it waits for keeps it from stopping."""

import signal
import socket
import sqlite3
import ssl
from contextlib import closing

import httpx2 as httpx
import pytest

from actors.events import ConfigReloaded
from tests.controller.security.pki import Authority
from tests.real.rig import Rig, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
TOKEN = "a-token-that-is-long-enough"


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def hang_up(rig: Rig) -> None:
    assert rig.daemon is not None
    rig.daemon.send_signal(signal.SIGHUP)


def test_a_socket_for_all_does_not_turn_plain(rig: Rig) -> None:
    authority, port = Authority(rig.root), free_port()
    authority.issue()
    token = rig.root / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    tls = f'[daemon.tls]\ncertificate = {{ file = "{authority.certificate}" }}\n'
    tls += f'key = {{ file = "{authority.key}" }}\n'
    rig.configure(daemon=f'listen = "0.0.0.0:{port}"\ntoken_file = "{token}"\n{tls}')
    rig.start()
    rig.configure(daemon=f'listen = "127.0.0.1:{port}"\ntoken_file = "{token}"')
    hang_up(rig)
    fact = rig.until_event("config_reloaded").event
    assert isinstance(fact, ConfigReloaded) and fact.needs_restart == ("daemon.tls", "daemon.listen")
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/v1/whoami", headers=bearer)
    trust = ssl.create_default_context(cafile=str(authority.ca_file))
    assert httpx.get(f"https://127.0.0.1:{port}/v1/whoami", headers=bearer, verify=trust).status_code == 200
    rig.restart()  # from now on it is what the config says
    assert httpx.get(f"http://127.0.0.1:{port}/v1/whoami", headers=bearer).status_code == 200


def test_a_reload_that_cannot_be_written_down_does_not_keep_it_from_stopping(rig: Rig) -> None:
    rig.start()
    with closing(sqlite3.connect(rig.state / "journal.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can write
        hang_up(rig)
        until(lambda: "the journal can't be written" in rig.log.read_text(), "it can't write")
        hang_up(rig)
        until(lambda: "not in the journal" in rig.log.read_text(), "it was reloaded")
        assert rig.stop() == 0
