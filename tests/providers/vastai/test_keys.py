"""What is written down about launch keys."""

from pathlib import Path

import pytest
import structlog.testing

from providers.errors import Fault, ProviderError
from providers.vastai import keys
from providers.vastai.keys import Keys, Sent


def test_what_was_sent_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "p" / "keys.jsonl"
    first = Keys(path, lambda: 5.0)
    first.sending("a")
    first.sending("b")
    first.made("b", "41")
    first.made("b", "42")  # one that is known does not change
    first.sending("c")
    first.nothing_made("c")
    again = Keys(path, lambda: 9.0)
    # What became of "a" is unknown since the first ended, which may have been just now.
    assert (again.get("a"), again.get("b"), again.get("c")) == (Sent(9.0), Sent(5.0, "41"), None)


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    Keys(path, lambda: 5.0).made("a", "41")
    with path.open("ab") as file:
        file.write(b'["b",nul\n7\n["c","42"')
    again = Keys(path, lambda: 5.0)
    assert again.get("a") == Sent(5.0, "41")
    assert again.get("b") is None


def test_a_key_that_can_not_be_written_down_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Keys(tmp_path / "file" / "keys.jsonl", lambda: 5.0)
    with pytest.raises(ProviderError) as caught:
        kept.sending("a")
    assert caught.value.fault is Fault.NOT_SENT
    assert kept.get("a") is None
    with structlog.testing.capture_logs() as logs:
        kept.made("b", "41")  # what lives is seen none the less
    assert kept.get("b") == Sent(5.0, "41")
    assert len(logs) == 1


def test_the_oldest_are_forgotten_and_the_file_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "KEYS_MAX", 10)
    path = tmp_path / "keys.jsonl"
    kept = Keys(path, lambda: 5.0)
    for number in range(200):
        kept.made(str(number), "1")
    assert len(path.read_bytes().splitlines()) <= 41
    for known in (kept, Keys(path, lambda: 5.0)):
        assert known.get("0") is None
        assert known.get("199") == Sent(5.0, "1")


def test_what_is_unheard_of_is_counted_from_when_it_was_given_up(tmp_path: Path) -> None:
    clock = [5.0]
    kept = Keys(tmp_path / "keys.jsonl", lambda: clock[0])
    kept.sending("a")
    kept.made("b", "41")
    clock[0] = 50.0
    for key in ("a", "b", "c"):
        kept.unheard(key)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (Sent(50.0), Sent(5.0, "41"), None)
