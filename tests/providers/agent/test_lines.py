"""Splitting output into lines."""

from hypothesis import given
from hypothesis import strategies as st

from providers.agent.agent import PIECE, Line, same_lines, split_lines

OUTPUT = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\n", b"\r", b"\r\n", b"\xff", "é".encode(), "😀".encode(), b"a" * PIECE, b"b" * 1000]
        ),
        st.binary(max_size=8),
    ),
    max_size=12,
).map(b"".join)


def in_reads(data: bytes, sizes: list[int]) -> tuple[list[Line], list[tuple[int, int, bool]]]:
    """Split as the agent does, while `data` grows by `sizes`."""
    lines: list[Line] = []
    ranges = []
    at = end = 0
    for size in [*sizes, len(data)]:
        end = min(end + size, len(data))
        while True:
            more, used, cut = split_lines(data[at:end], end == len(data))
            if not used:
                break
            ranges.append((at, at + used, cut))
            lines, at = lines + more, at + used
    assert at == len(data)
    return lines, ranges


@given(OUTPUT, st.lists(st.integers(min_value=0, max_value=2 * PIECE), max_size=6))
def test_lines_do_not_depend_on_how_output_was_read(data: bytes, sizes: list[int]) -> None:
    whole, _ = in_reads(data, [])
    lines, ranges = in_reads(data, sizes)
    assert lines == whole
    again = [line for start, end, cut in ranges for line in same_lines(data[start:end], cut)]
    assert again == whole


@given(OUTPUT)
def test_text_is_the_output_decoded(data: bytes) -> None:
    ends = {0: "\n", 1: "\r", 2: ""}
    lines, _ = in_reads(data, [])
    text = "".join(text + ends[kind] for text, kind in lines)
    expected = data.decode("utf-8", "replace").replace("\r\n", "\n")
    assert text in (expected, expected + "\n")


def test_kinds() -> None:
    assert split_lines(b"a\r\nb\rc\n", False) == ([("a", 0), ("b", 1), ("c", 0)], 7, False)
    assert split_lines(b"a\r", False) == ([], 0, False)
    assert split_lines(b"a\r", True) == ([("a", 1)], 2, False)
    assert split_lines(b"a\nb", False) == ([("a", 0)], 2, False)
    assert split_lines(b"a\nb", True) == ([("a", 0), ("b", 0)], 3, False)
    assert split_lines(b"\n\n", False) == ([("", 0), ("", 0)], 2, False)


def test_a_long_line_comes_in_pieces_and_no_character_is_cut() -> None:
    data = b"x" * (PIECE - 1) + "é".encode() + b"y\n"
    lines, used, cut = split_lines(data, False)
    assert [(len(text), kind) for text, kind in lines] == [(PIECE - 1, 2), (2, 0)]
    assert (used, cut) == (len(data), False)
    assert split_lines(data[: PIECE + 1], False)[1:] == (PIECE - 1, True)
    assert split_lines(b"\x80" * (PIECE + 1), False)[0][0][1] == 2  # not UTF-8: cut anywhere
