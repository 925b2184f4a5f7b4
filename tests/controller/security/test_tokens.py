"""Tokens over a real journal: who is known by one, for how long, and what is kept of it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from actors.events import Envelope, TokenCreated, TokenRevoked
from actors.ports import Commit
from controller.clock import Start
from controller.journal.journal import SqliteJournal
from controller.principal import Scope
from controller.records import Records
from controller.recovery import recover
from controller.security import tokens
from controller.security.tokens import TokenExists, TokenStore, TooManyTokens, Unwelcome

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A clock that is set by hand, and what was told."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.told: list[Envelope] = []

    def now(self) -> float:
        return self.time

    def committed(self, commit: Commit) -> None:
        self.told += commit.envelopes

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        raise AssertionError

    def bug(self, address: str, message: str, error: BaseException) -> None:
        raise AssertionError from error


@asynccontextmanager
async def opened(path: Path, world: World) -> AsyncIterator[TokenStore]:
    """As a daemon finds it after a start."""
    async with SqliteJournal(path) as journal:
        found = recover(journal.load_states(), (), Start(world.time, 0.0)).records
        yield TokenStore(Records(journal, world, world, found), world.now)


def _all_bytes(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.iterdir())


async def test_made_shown_once_and_known_after_a_restart(tmp_path: Path) -> None:
    world = World()
    async with opened(tmp_path / "j", world) as store:
        token = await store.create("ci", "submit", ("ci-*",), 60, "unix:0")
        assert re.fullmatch(r"evp_[A-Za-z0-9_-]{43}", token)
        with pytest.raises(TokenExists, match="revoke it first"):
            await store.create("ci", "read", (), None, "unix:0")
    assert token.encode() not in await to_thread.run_sync(_all_bytes, tmp_path)
    async with opened(tmp_path / "j", world) as store:
        known = store.who(token.encode())
        assert (known.principal.name, known.principal.scope) == ("token:ci", Scope.SUBMIT)
        assert known.principal.may_see("ci-7") and not known.principal.may_see("main")
        [shown] = store.listed()
        assert token not in str(shown) and shown["last_used"] == world.time and not shown["expired"]
        assert store.expiries() == {"ci": world.time + 60}
    assert [(one.principal, one.event) for one in world.told] == [
        (
            "unix:0",
            TokenCreated(name="ci", scope="submit", pools=("ci-*",), expires_at=world.time + 60),
        )
    ]


async def test_wrong_and_revoked_look_alike_and_expired_is_said(tmp_path: Path) -> None:
    world = World()
    async with opened(tmp_path / "j", world) as store:
        token = (await store.create("ci", "read", (), 60, "unix:0")).encode()
        other = (await store.create("other", "read", (), None, "unix:0")).encode()
        world.time += 60
        with pytest.raises(Unwelcome, match="'ci' has expired"):
            store.who(token)
        assert store.who(other).principal.name == "token:other"
        await store.revoke("ci", "token:boss")
        await store.revoke("other", "token:boss")
        texts = set()
        for shown in (token, other, b"evp_wrong", b"", b"\xff\xfe\0", token + b" "):
            with pytest.raises(Unwelcome) as unwelcome:
                store.who(shown)
            texts.add(str(unwelcome.value))
        assert len(texts) == 1
        with pytest.raises(KeyError):
            await store.revoke("ci", "unix:0")
        store.own("a-token-of-some-length")
        assert store.who(b"a-token-of-some-length").principal.name == "token"
        store.own(None)
        with pytest.raises(Unwelcome):
            store.who(b"a-token-of-some-length")
    assert world.told[-1].event == TokenRevoked(name="other") and world.told[-1].principal == "token:boss"
    async with opened(tmp_path / "j", world) as store:
        assert store.names() == []


async def test_what_goes_on_is_cut_when_its_token_is_not_good_any_more(tmp_path: Path) -> None:
    world = World()
    async with opened(tmp_path / "j", world) as store, anyio.create_task_group() as group:
        store.own("a-token-of-some-length")
        gone = store.who((await store.create("gone", "read", (), None, "me")).encode())
        short = store.who((await store.create("short", "read", (), 60, "me")).encode())
        stays = store.who((await store.create("stays", "read", (), None, "me")).encode())
        own = store.who(b"a-token-of-some-length")
        with (
            store.staying(gone) as gone_over,
            store.staying(short) as short_over,
            store.staying(stays) as stays_over,
            store.staying(own) as own_over,
        ):
            await store.revoke("gone", "me")
            assert gone_over.is_set() and not short_over.is_set() and not own_over.is_set()
            world.time += 61
            group.start_soon(store.watch)
            with anyio.fail_after(10):
                await short_over.wait()
            store.own("another-token-of-some-length")
            assert own_over.is_set() and not stays_over.is_set()
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "pools", "text"),
    [
        ("Upper", (), "is not a name"),
        ("a/b", (), "is not a name"),
        ("", (), "is not a name"),
        ("a", ("x y",), "no pattern"),
        ("a", ("",), "no pattern"),
        ("a", ("p",) * 101, "up to 100"),
    ],
)
async def test_names_and_patterns_are_checked(
    tmp_path: Path, name: str, pools: tuple[str, ...], text: str
) -> None:
    async with opened(tmp_path / "j", World()) as store:
        with pytest.raises(ValueError, match=text):
            await store.create(name, "read", pools, None, "me")
        assert store.names() == []


async def test_there_is_a_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKENS_MAX", 2)
    async with opened(tmp_path / "j", World()) as store:
        await store.create("a", "read", (), None, "me")
        await store.create("b", "read", (), None, "me")
        with pytest.raises(TooManyTokens, match="2 tokens already"):
            await store.create("c", "read", (), None, "me")
        await store.revoke("a", "me")
        await store.create("c", "read", (), None, "me")
        assert store.names() == ["b", "c"]
