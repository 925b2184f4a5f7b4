"""The forms of records: see records.py. Stored as JSON; a changed form needs a version and an upcaster."""

from typing import Literal

from providers.model import Value


class TokenRecord(Value):
    """A token that lets somebody in.

    Attributes:
        digest: SHA-256 of the token, in hex. A token has 256 random bits, so nothing slower is needed.
        hint: its first letters, to tell tokens apart.
        pools: patterns; empty: all.
        made_by: the principal that made it.
        expires_at: UTC seconds; None: it does not.
    """

    digest: str
    hint: str
    scope: Literal["read", "submit", "admin"]
    pools: tuple[str, ...] = ()
    made_at: float
    made_by: str
    expires_at: float | None = None


class Sealed(Value):
    """Something encrypted. Which key it was, and nonce and ciphertext together, in base64."""

    key_id: str
    data: str


class EnvRevision(Value):
    """Values of environment variables, as they were set at one time; never changed.

    `pools`: those of the group then, to which it is sealed; None: of before, when it was sealed to none.
    """

    revision: int
    at: float
    by: str
    keys: tuple[str, ...]
    sealed: Sealed
    pools: tuple[str, ...] | None = None


class EnvGroupRecord(Value):
    """A group of environment variables: its last revisions, the newest last.

    `pools`: patterns of the pools whose tasks may name it; empty: all. As in the newest revision.
    """

    revisions: tuple[EnvRevision, ...]
    pools: tuple[str, ...] = ()


class CredentialRecord(Value):
    """What a registry of images wants to see. The password is in `sealed`."""

    hostname: str
    user: str
    at: float
    by: str
    sealed: Sealed


class WebhookRecord(Value):
    """How far a webhook is.

    Attributes:
        cursor: seq of the last event that was delivered, or given up.
        delivered, dropped: since it was first named.
        dropped_failing: of those dropped, since `failing_since`.
        failing_since: UTC seconds; None: it takes what it is sent.
        tries: of the event behind the cursor.
        last_error: of the last try that failed.
        last_status: HTTP status of the last answer, None when there was none.
    """

    cursor: int
    delivered: int = 0
    dropped: int = 0
    dropped_failing: int = 0
    failing_since: float | None = None
    tries: int = 0
    last_error: str = ""
    last_status: int | None = None
    delivered_at: float | None = None


RECORDS: dict[str, type[Value]] = {
    "token": TokenRecord,
    "env_group": EnvGroupRecord,
    "credential": CredentialRecord,
    "webhook": WebhookRecord,
}
RECORD_VERSION = 1
