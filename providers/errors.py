"""The one error of the outside world.

ProviderError(fault)     every expected failure of a call, classified once, in the adapter
└── HostError            a machine that could not be reached or talked to
"""

from enum import StrEnum


class Fault(StrEnum):
    """Why a call failed, and so what may be done next. The list is closed."""

    CAPACITY = "capacity"  # none left here: another market
    QUOTA = "quota"  # park this scope, a human has to raise it
    THROTTLED = "throttled"  # the same again, later
    CREDENTIALS = "credentials"  # stop launching, keep observing
    FUNDS = "funds"  # stop launching, keep observing
    REJECTED = "rejected"  # this spec is wrong, the same again would be refused again
    GONE = "gone"  # the thing named does not exist any more
    CONFLICT = "conflict"  # something of that name is there already: find it by key
    NOT_SENT = "not_sent"  # surely nothing happened: retry freely
    UNKNOWN = "unknown"  # it may have worked: look up by key, never repeat blindly


class ProviderError(Exception):
    """A call to a provider failed in a way that was expected.

    Attributes:
        fault: what may be done next.
        detail: one line for a human, without secrets.
        retry_after_s: seconds the provider asked us to wait, when it did.
        paced: the call was never made: it waited for our own rate limit, for longer than calls may.
    """

    def __init__(
        self, fault: Fault, detail: str, retry_after_s: float | None = None, *, paced: bool = False
    ) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.paced = paced


class HostError(ProviderError):
    """A machine could not be reached, refused us, or showed another host key than it had."""
