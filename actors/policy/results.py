"""What the end of an attempt means. Pure."""

from dataclasses import dataclass

from actors.events import Result
from providers.agent.wire import Ended

SIGKILL, SIGTERM = 9, 15


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result and reason of one attempt, and whether lost infrastructure is to blame."""

    result: Result
    reason: str
    infrastructure: bool = False
    counts: bool = True  # against the retry budget


def of_ended(ended: Ended, stop_reason: str | None) -> Verdict:
    """The verdict on an attempt whose end the agent reported; the first rule that fits holds.

    Args:
        ended: the agent's report.
        stop_reason: why we had asked it to stop, None when we had not.

    Source: the result table of the seed systems' reference, section 7, with this project's choices:
    codes 1 to 255 without another meaning are `failure`; 0 after our own stop is `terminated`; an
    attempt that nobody saw end is `unknown` and counts as lost infrastructure.
    """
    if not ended.started:
        return _never_started(ended, stop_reason)
    if ended.oom:
        return Verdict("resource_failure", "oom")
    if ended.why in ("notice", "lease"):
        return Verdict("resource_failure", "preempted" if ended.why == "notice" else "lease", True)
    if ended.why == "lost":
        return Verdict("unknown", "lost", True)
    reason = "timeout" if ended.why == "timeout" else (stop_reason or "")
    ours = ended.why in ("stop", "timeout")
    if ended.signal == SIGKILL or ended.code == 128 + SIGKILL:
        return Verdict("killed", reason)
    if ended.signal == SIGTERM or ended.code == 128 + SIGTERM or (ended.code == 0 and ours):
        return Verdict("terminated", reason)
    if ended.code == 0:
        return Verdict("success", "")
    if ended.signal is not None or (ended.code is not None and 1 <= ended.code <= 255):
        return Verdict("failure", reason)
    return Verdict("unknown", reason)


def _never_started(ended: Ended, stop_reason: str | None) -> Verdict:
    if ended.why in ("spawn", "secrets"):
        return Verdict("startup_failure", ended.why)
    if ended.why in ("notice", "lease"):
        return Verdict("resource_failure", "preempted", True, counts=False)
    if ended.why == "stop":
        return Verdict("terminated", stop_reason or "stop", True, counts=False)
    return Verdict("unknown", ended.why or "never started", True)


def of_gone(reason: str) -> Verdict:
    """The verdict on an attempt whose machine is observed absent."""
    word = reason if reason in ("preempted", "unreachable", "lease", "scale_in", "user") else "gone"
    return Verdict("resource_failure", word, True)
