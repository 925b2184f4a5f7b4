"""What is read back of a journal that somebody else wrote, or that was garbled."""

import pytest

from controller.journal.errors import StateUnreadable
from controller.recovery import decoded


@pytest.mark.parametrize(
    ("kind", "version", "body"),
    [("gadget", 1, b"{}"), ("pool", 1, b"{}"), ("pool", 1, b"{"), ("task", 1, b"\xff"), ("node", 99, b"{}")],
)
def test_a_state_that_cannot_be_read_is_named(kind: str, version: int, body: bytes) -> None:
    with pytest.raises(StateUnreadable, match=kind):
        decoded(kind, version, body)
