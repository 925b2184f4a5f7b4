"""What is sealed comes out again, with its key and in its place only."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.records_state import Sealed
from controller.secrets import errors
from controller.secrets.vault import Key, Vault, new_key

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
VALUES = st.dictionaries(st.text("ABC_", min_size=1, max_size=8), TEXT, max_size=6)
PLACES = st.tuples(
    st.sampled_from(("env_group", "credential")), st.text("ab", max_size=3), st.integers(1, 30)
)


def key() -> Key:
    return Key.parse(new_key().encode())


@given(VALUES, PLACES)
def test_what_is_sealed_comes_out_again_and_shows_nothing(
    values: dict[str, str], place: tuple[str, str, int]
) -> None:
    vault = Vault([key()])
    sealed = vault.seal(values, place)
    assert vault.open(sealed, place) == values
    assert vault.seal(values, place).data != sealed.data  # another nonce each time
    said = base64.b64decode(sealed.data)
    assert not any(value.encode() in said for value in values.values() if len(value.encode()) > 4)


@given(VALUES, PLACES, PLACES)
def test_it_opens_in_no_other_place(
    values: dict[str, str], place: tuple[str, str, int], other: tuple[str, str, int]
) -> None:
    vault = Vault([key()])
    if place != other:
        with pytest.raises(errors.Sealed, match="not what was written"):
            vault.open(vault.seal(values, place), other)


@given(VALUES, PLACES, st.data())
def test_a_changed_bit_is_found(
    values: dict[str, str], place: tuple[str, str, int], data: st.DataObject
) -> None:
    vault = Vault([key()])
    sealed = vault.seal(values, place)
    raw = bytearray(base64.b64decode(sealed.data))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = Sealed(key_id=sealed.key_id, data=base64.b64encode(raw).decode())
    with pytest.raises(errors.Sealed, match="not what was written"):
        vault.open(changed, place)
    with pytest.raises(errors.Sealed, match="not what was written"):
        vault.open(Sealed(key_id=sealed.key_id, data="no base64"), place)
    with pytest.raises(errors.Sealed, match="not what was written"):
        vault.open(Sealed(key_id=sealed.key_id, data=""), place)


def test_another_key_is_named_and_the_one_before_opens() -> None:
    old, new = key(), key()
    sealed = Vault([old]).seal({"A": "secret"}, ("x", 1))
    with pytest.raises(errors.Sealed, match=f"with key {old.id}, and ours is {new.id}"):
        Vault([new]).open(sealed, ("x", 1))
    both = Vault([new, old])
    assert both.open(sealed, ("x", 1)) == {"A": "secret"}
    assert both.seal({}, ("x", 1)).key_id == new.id


def test_a_key_is_read_in_each_form() -> None:
    raw = os.urandom(32)
    forms = [
        raw.hex(),
        raw.hex().upper() + "\n",
        base64.b64encode(raw).decode() + "\n",
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    ]
    keys = [Key.parse(form.encode()) for form in forms]
    assert {one.secret for one in keys} == {raw}
    assert len({one.id for one in keys}) == 1
    assert Key.parse(b"\xff" * 40).secret != Key.parse(b"\xff" * 41).secret
    assert Key.parse(b"any text of more than 32 letters \n") == Key.parse(b"any text of more than 32 letters")
    for short in (b"", b"\xff" * 31, b"too short"):
        with pytest.raises(ValueError, match="a key has 32"):
            Key.parse(short)
    assert raw.hex() not in repr(keys[0])
    assert repr(raw) not in repr(keys[0])
