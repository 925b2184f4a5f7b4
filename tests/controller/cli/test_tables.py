"""Tables on terminals of any width."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from controller.cli.addressing import Where
from controller.cli.command import Session
from controller.cli.tables import BELOW, Column, broken, fitted

COLUMNS = ("ID", Column("MARKET", drop=2), Column("SIZE", drop=1), Column("WHY", words=True))
WORDS = "the cheapest of two markets, and none other had a machine left for this node today"
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


def shown(width: int | None, why: str = WORDS, market: str = "cloud/east/a/large/spot") -> list[str]:
    return list(fitted(COLUMNS, [("i-1", market, 7, why), ("i-2", "cloud", None, None)], width).lines)


def test_a_pipe_gets_each_row_whole() -> None:
    head, first, second = shown(None, why=WORDS * 9)
    assert head == "ID   MARKET                   SIZE  WHY"
    assert first.endswith(WORDS * 9) and second == "i-2  cloud                    -     -"


def test_words_are_broken_beside_their_row_where_there_is_room() -> None:
    _, first, *more, last = shown(80)
    assert first.startswith("i-1  cloud/east/a/large/spot  7     the cheapest")
    assert more and all(line.startswith(" " * 36) for line in more)
    assert last.startswith("i-2") and max(map(len, (first, *more))) <= 80


def test_words_go_below_their_row_then_columns_go() -> None:
    lines = shown(60)
    assert lines[:3] == ["ID   MARKET                   SIZE", "    WHY", "i-1  cloud/east/a/large/spot  7"]
    assert lines[3].startswith(" " * BELOW + "the cheapest")
    assert shown(30)[0] == "ID   MARKET" and shown(20)[0] == "ID"


def test_columns_that_had_no_room_are_named_and_no_others() -> None:
    rows = [("i-1", "cloud/east/a/large/spot", 7, WORDS)]
    hidden = {width: fitted(COLUMNS, rows, width).hidden for width in (None, 200, 80, 60, 30, 20)}
    none: tuple[str, ...] = ()
    wide = {None: none, 200: none, 80: none, 60: none}
    assert hidden == {**wide, 30: ("SIZE",), 20: ("MARKET", "SIZE")}
    assert fitted(COLUMNS, [("i-1", "m" * 20, None, None)], 30).hidden == ()


def test_a_terminal_is_told_what_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(Where(), json=False, _out=Console(width=20, force_terminal=True, soft_wrap=True))
    session.table(None, COLUMNS, [("i-1", "cloud/east/a/large/spot", 7, "dear")], empty="")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert " ".join(lines[-3:]).endswith("not shown: MARKET, SIZE (wider terminal, or --json)")
    assert max(map(len, lines)) <= 20


def test_a_column_without_a_value_goes_first() -> None:
    lines = fitted(COLUMNS, [("i-1", "m" * 20, None, None)], 30).lines
    assert lines == ("ID   MARKET", "i-1  " + "m" * 20)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=5), st.integers(70, 200))
def test_nothing_is_wider_than_the_terminal_and_no_word_is_lost(
    rows: list[tuple[str, str, str, str]], width: int
) -> None:
    found = fitted(COLUMNS, [(str(at), *row[1:]) for at, row in enumerate(rows)], width)
    assert all(cell_len(line) <= max(width, 5) for line in found.lines)
    assert all(line.isprintable() and line == line.rstrip() for line in found.lines)
    told = "".join("".join(found.lines).split())
    for row in rows:
        why = "".join(letter if letter.isprintable() else " " for letter in row[3])
        assert len(told) >= len("".join(why.split()))


@given(TEXT, st.integers(2, 40))
def test_broken_lines_have_all_letters_in_order(text: str, width: int) -> None:
    lines = broken(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(cell_len(line) <= width for line in lines)
