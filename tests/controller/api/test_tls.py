"""TCP with a certificate: who trusts its authority gets in; a new one is served without a restart."""

import socket
import ssl
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.streams.tls import TLSStream

from controller.api.serving import bind
from controller.client import AsyncClient, Client, EverpoolError, NotRunning
from controller.config import ConfigError, parse
from controller.config_sections import LimitsConfig
from controller.security.certificate import Certificate
from tests.controller.api.world import OWN, Served, served
from tests.controller.journal.samples import until
from tests.controller.security.pki import Authority

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)


@pytest.fixture
def pki(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.issue()
    return made


def _sync_pools(url: str, pki: Authority) -> int:
    with Client(url, token=OWN, ca_file=pki.ca_file) as everpool:
        return len(everpool.pools())


@both
async def test_clients_with_the_authority_get_in(
    tmp_path: Path, pki: Authority, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, certificate=Certificate(pki.config, time.time)) as world:
        url = f"https://127.0.0.1:{world.port}"
        async with AsyncClient(url, token=world.tokens["read"], ca_file=pki.ca_file) as everpool:
            assert len(await everpool.pools()) == 2
        assert await to_thread.run_sync(_sync_pools, url, pki) == 2
        async with AsyncClient(url, token=OWN) as everpool:
            with pytest.raises(EverpoolError, match="is not trusted: name its authority") as untrusted:
                await everpool.pools()
            assert not isinstance(untrusted.value, NotRunning)
        monkeypatch.setenv("EVERPOOL_CA_FILE", str(pki.ca_file))
        async with AsyncClient(url, token=OWN) as everpool:
            assert len(await everpool.pools()) == 2
        async with AsyncClient(url.replace("https", "http"), token=OWN) as everpool:
            with pytest.raises(EverpoolError):
                await everpool.pools()


async def _serial(world: Served, pki: Authority) -> int:
    context = ssl.create_default_context(cafile=str(pki.ca_file))
    tcp = await anyio.connect_tcp("127.0.0.1", world.port)
    async with await TLSStream.wrap(tcp, hostname="127.0.0.1", ssl_context=context) as stream:
        told = stream.extra(anyio.streams.tls.TLSAttribute.peer_certificate)
        assert told is not None
        return int(str(told["serialNumber"]), 16)


@both
async def test_a_new_pair_is_served_and_a_bad_one_is_not(
    tmp_path: Path, pki: Authority, anyio_backend: Any
) -> None:
    certificate = Certificate(pki.config, time.time)
    async with served(tmp_path, certificate=certificate) as world:
        url = f"https://127.0.0.1:{world.port}"
        async with AsyncClient(url, token=OWN, ca_file=pki.ca_file) as everpool:
            assert await everpool.pools()
            first = await _serial(world, pki)
            pki.issue(key=False)
            assert not certificate.look() and await _serial(world, pki) == first
            pki.issue()
            assert certificate.look() and await _serial(world, pki) != first
            assert await everpool.pools()  # its connection goes on


@both
async def test_old_protocols_and_slow_handshakes_are_refused(
    tmp_path: Path, pki: Authority, anyio_backend: Any
) -> None:
    limits = LimitsConfig(header_within_s=0.3, connections_max=2)
    async with served(tmp_path, certificate=Certificate(pki.config, time.time), limits=limits) as world:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        tcp = await anyio.connect_tcp("127.0.0.1", world.port)
        with pytest.raises((ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream)):
            await TLSStream.wrap(tcp, ssl_context=context)
        await tcp.aclose()
        await until(lambda: world.desk.guard.connections == 0)
        silent = [await anyio.connect_tcp("127.0.0.1", world.port) for _ in range(2)]
        await until(lambda: world.desk.guard.connections == 2)
        await until(lambda: world.desk.guard.connections == 0)
        for one in silent:
            await one.aclose()
        async with AsyncClient(f"https://127.0.0.1:{world.port}", token=OWN, ca_file=pki.ca_file) as everpool:
            assert await everpool.pools()


def test_a_daemon_does_not_start_with_a_bad_pair(tmp_path: Path, pki: Authority) -> None:
    text = f"""
        [daemon]
        state_dir = "{tmp_path}"
        listen = "0.0.0.0:0"
        tls = {{ certificate = {{ file = "{pki.certificate}" }}, key = {{ file = "{pki.key}" }} }}
    """
    config = parse(text, "test")
    with bind(config) as listening:
        assert listening.certificate is not None and listening.token is None
        assert listening.tcp is not None and listening.tcp.family == socket.AF_INET
    pki.key.chmod(0o644)
    with pytest.raises(ConfigError, match="daemon.tls.key: .* may be read by everybody"):
        bind(config)
    assert not (tmp_path / "api.sock").exists()
