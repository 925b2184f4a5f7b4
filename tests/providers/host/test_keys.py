"""Keys are made once, kept private, and pinned for good."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from providers.host.keys import KeyStore, PinMismatch, file_name, pinned, public_line


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys")


def test_a_cluster_key_is_made_once_and_its_public_half_again_if_lost(keys: KeyStore) -> None:
    path, public = keys.cluster_key("c1")
    private = path.read_bytes()
    Path(f"{path}.pub").unlink()
    assert keys.cluster_key("c1") == (path, public)
    assert path.read_bytes() == private
    assert public.startswith("ssh-ed25519 ")
    assert public_line(private) == public


def test_nobody_else_can_read_them(keys: KeyStore) -> None:
    keys.cluster_key("c1")
    keys.host_key("c1", "i1")
    for path in (keys.root, *keys.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_many_at_once_get_the_same_key(keys: KeyStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(lambda _: keys.cluster_key("c1"), range(32)))
        hosts = set(threads.map(lambda _: keys.host_key("c1", "i1"), range(32)))
    assert len(made) == len(hosts) == 1
    assert keys.known_hosts_path("c1").read_text().count("\n") == 1


def test_a_host_key_stays_the_same_and_is_pinned(keys: KeyStore) -> None:
    private = keys.host_key("c1", "i1")
    assert keys.host_key("c1", "i1") == private
    assert keys.host_key("c1", "i2") != private
    assert pinned(keys.known_hosts_path("c1"), "i1") == [" ".join(public_line(private).split()[:2])]


def test_another_key_is_refused_and_changes_nothing(keys: KeyStore) -> None:
    keys.host_key("c1", "i1")
    before = keys.known_hosts_path("c1").read_bytes()
    with pytest.raises(PinMismatch):
        keys.pin("c1", "i1", "ssh-ed25519 AAAAother")
    assert keys.known_hosts_path("c1").read_bytes() == before


def test_forgetting_one_leaves_the_others(keys: KeyStore) -> None:
    keys.host_key("c1", "i1")
    other = keys.host_key("c1", "i2")
    keys.forget("c1", "i1")
    keys.forget("c1", "i1")
    keys.pin("c1", "i1", "ssh-ed25519 AAAAnew")
    assert pinned(keys.known_hosts_path("c1"), "i1") == ["ssh-ed25519 AAAAnew"]
    assert keys.host_key("c1", "i2") == other


def test_forgetting_a_cluster_leaves_nothing(keys: KeyStore) -> None:
    keys.cluster_key("c1")
    keys.host_key("c1", "i1")
    keys.forget("c1")
    keys.forget("c1")
    assert list(keys.root.iterdir()) == []


@pytest.mark.parametrize("odd", ["a/b", "../x", "a b", "a,b", "*", "é"])
def test_an_odd_id_stays_one_word_in_one_directory(keys: KeyStore, odd: str) -> None:
    keys.host_key(odd, odd)
    assert [path.parent for path in keys.root.rglob("known_hosts")] == [keys.root / file_name(odd)]
    assert len(pinned(keys.known_hosts_path(odd), file_name(odd))) == 1


@pytest.mark.parametrize("bad", ["", ".", ".."])
def test_an_id_that_names_no_file_is_refused(keys: KeyStore, bad: str) -> None:
    with pytest.raises(ValueError, match="can't name a file"):
        keys.cluster_key(bad)
