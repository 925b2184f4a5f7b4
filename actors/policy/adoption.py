"""What to do about a machine of ours that a listing shows. Pure."""

from dataclasses import dataclass
from typing import Literal

from providers.model import Handle, Value

VERSION = 1
Judgement = Literal["known", "quarantine", "wait", "reap"]


class Quarantined(Value):
    """A machine with our mark that no state knows. Reaped once it has been seen for the age guard."""

    status: Literal["quarantined"] = "quarantined"
    key: str
    handle: Handle
    micro_usd_per_hour: int
    seen_at: float
    reap_at: float
    next_at: float | None = None  # when terminate is called again; None: not called yet
    tries: int = 0
    missing: int = 0  # complete listings in a row without it


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a machine that a listing shows."""

    known: bool  # some living state has its key
    quarantined: Quarantined | None


def judge(found: Found, now: float) -> Judgement:
    """Known machines belong to their instances; others wait out an age guard, then are reaped."""
    if found.known:
        return "known"
    if found.quarantined is None:
        return "quarantine"
    one = found.quarantined
    if now < one.reap_at or (one.next_at is not None and now < one.next_at):
        return "wait"
    return "reap"
