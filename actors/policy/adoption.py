"""What to do about a machine of ours that a listing shows. Pure."""

from dataclasses import dataclass
from typing import Literal

from actors.policy.billing import Bill
from providers.model import Handle, Value

VERSION = 1
Judgement = Literal["known", "quarantine", "wait", "reap"]


class Quarantined(Value):
    """A machine with our mark that no state knows. Reaped once it has been seen for the age guard."""

    status: Literal["quarantined"] = "quarantined"
    key: str
    handle: Handle
    micro_usd_per_hour: int
    bill: Bill | None = None  # from when on no other fact counts its dollars
    seen_at: float
    reap_at: float
    next_at: float | None = None  # when terminate is called again; None: not called yet
    tries: int = 0
    missing: int = 0  # complete listings in a row without it
    missing_at: float | None = None  # when the first of these was made, in the vendor's time

    @property
    def id(self) -> str:
        """What names it: two machines can have one key where a vendor knows no tokens."""
        return quarantine_id(self.handle)


class Reaped(Value):
    """A quarantined machine that was observed absent; kept for a while, should it come back."""

    status: Literal["reaped"] = "reaped"
    key: str
    ended_at: float  # the vendor's time up to which its dollars are counted


QuarantineState = Quarantined | Reaped


def quarantine_id(handle: Handle) -> str:
    """The name of a machine in quarantine."""
    return f"{handle.provider}:{handle.ref}"


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a machine that a listing shows."""

    known: bool  # some living state is about it
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
