"""Labels, names and marks."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.gcp import names


def unlabel(value: str) -> str | None:
    """The text of a label; None when only its hash is there."""
    if value.startswith("h--"):
        return None
    if not value.startswith("x--"):
        return value
    padded = value[3:].upper()
    try:
        return base64.b32decode(padded + "=" * (-len(padded) % 8)).decode()
    except ValueError:
        return None


@given(st.text(max_size=60))
def test_a_label_is_always_allowed_and_says_what_it_stands_for_when_it_fits(text: str) -> None:
    value = names.label(text)
    assert re.fullmatch(r"[a-z0-9_-]{0,63}", value)
    assert unlabel(value) in (text, None)
    if len(text.encode()) <= 37:
        assert unlabel(value) == text


@given(st.text(max_size=60), st.text(max_size=60))
def test_different_texts_have_different_labels(one: str, other: str) -> None:
    assert (names.label(one) == names.label(other)) == (one == other)


@pytest.mark.parametrize(
    "text", ["owner-1", "a_b", "0", "x--", "x--abc", "h--abc", "Owner", "a/b/1/2", "", "ü"]
)
def test_a_plain_text_is_its_own_label(text: str) -> None:
    is_plain = text in ("owner-1", "a_b", "0")
    assert (names.label(text) == text) == is_plain
    assert unlabel(names.label(text)) == text


@given(st.text(max_size=300))
def test_names_of_machines_are_names_to_the_vendor(key: str) -> None:
    assert re.fullmatch(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?", names.machine_name(key))


def test_a_token_follows_from_the_key() -> None:
    assert names.request_id("a/1") == names.request_id("a/1")
    assert len({names.request_id("a/1"), names.request_id("a/2"), names.request_id("a/1", "a/2")}) == 3


@given(st.text(max_size=100), st.text(max_size=100))
def test_marks_are_read_back(owner: str, key: str) -> None:
    marks = names.Marks(owner=owner, cluster="c1", key=key)
    assert names.marks_of(marks.text()) == marks


@pytest.mark.parametrize("text", [None, "", "everpool", "everpool {", 'everpool {"owner": 1}', "a disk", 7])
def test_other_descriptions_are_no_marks(text: object) -> None:
    assert names.marks_of(text) is None
