"""Keys that were used, on disks that do not always work."""

from pathlib import Path

import pytest
import structlog

from providers.container.ledger import Ledger, name_of
from providers.model import Handle, Sighting


def end_of(key: str) -> Sighting:
    handle = Handle(provider="box", ref=name_of(key))
    return Sighting(key=key, handle=handle, state="stopped", launched_at=1.0, ended_at=2.0)


def all_of(_: Sighting) -> bool:
    return True


def test_what_cannot_be_written_is_held_said_once_and_written_later(tmp_path: Path) -> None:
    place = tmp_path / "keys"
    place.write_text("no directory can be here")
    ledger = Ledger(place, lambda: 3.0)
    with structlog.testing.capture_logs() as logs:
        ledger.note_made("o/p/0/1/1")
        ledger.note_ended(end_of("o/p/1/1/1"))
        ledger.note_ended(end_of("o/p/1/1/1"))
        assert [one.key for one in ledger.tell(all_of)] == ["o/p/1/1/1"]
        assert ledger.tell(all_of) == []
    assert len(logs) == 1
    assert ledger.is_used("o/p/0/1/1") and ledger.is_used("o/p/1/1/1")
    with pytest.raises(NotADirectoryError):
        ledger.is_used("o/p/2/1/1")
    place.unlink()
    ledger.note_made("o/p/3/1/1")
    again = Ledger(place, lambda: 3.0)
    assert [again.is_used(f"o/p/{node}/1/1") for node in range(4)] == [True, True, False, True]
    assert [one.key for one in again.tell(all_of)] == ["o/p/1/1/1"]


def test_what_cannot_be_read_is_not_thrown_away(tmp_path: Path) -> None:
    first = Ledger(tmp_path, lambda: 3.0)
    first.note_ended(end_of("o/p/0/1/1"))
    (tmp_path / "x.json").mkdir()  # as good as a file for which there are no descriptors left
    ledger = Ledger(tmp_path, lambda: 3.0)
    ledger.tell(all_of)
    (tmp_path / "x.json").rmdir()
    ledger.tell(all_of)
    assert ledger.is_used("o/p/0/1/1")
    assert [one.key for one in Ledger(tmp_path, lambda: 3.0).tell(all_of)] == ["o/p/0/1/1"]
