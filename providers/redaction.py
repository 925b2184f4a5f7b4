"""What may be said of a vendor's raw answer: all of it, but the secrets."""

import re
from collections.abc import Iterable

import structlog

RAW_CHARS_MAX = 2000
HIDDEN = "[hidden]"
_log = structlog.get_logger("providers")

# Values of fields whose name says that they are secret, in JSON, XML, headers, shell words and query strings.
_NAMED = re.compile(
    r"""(?ix)
    ( [\w.-]*
      (?: token | passw(?:or)?d | passwd | secret | api[_-]?key | access[_-]?key(?![_-]?id\b)
        | private[_-]?key | host[_-]?key | authorization | credential | signature | user[_-]?data
        | x-registry-auth )
      [\w.-]* )
    ( \\?["']? \s* (?: [:=] | > ) \s* (?: (?:bearer|basic) \s+ )? \\?["']? )
    ( [^\s"'<>&,;\\}]+ )
    """
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}")


def redacted(raw: str | bytes, secrets: Iterable[str] = ()) -> str:
    """The text without secrets, cut to a few thousand characters.

    Args:
        raw: a vendor's answer, or an error's text.
        secrets: values that we know to be secret, wherever they stand.
    """
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    for secret in sorted((one for one in secrets if len(one) >= 4), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _PEM.sub(HIDDEN, text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _NAMED.sub(rf"\1\2{HIDDEN}", text)
    return text if len(text) <= RAW_CHARS_MAX else f"{text[:RAW_CHARS_MAX]} [{len(text)} characters in all]"


def log_unknown_answer(
    provider: str, call: str, *, status: int | str, code: str, raw: str | bytes, secrets: Iterable[str] = ()
) -> None:
    """Put an answer that no rule of ours knows into the log, so that a rule can be written for it."""
    _log.warning(
        "a provider answered what we do not know: taken as an unknown outcome",
        provider=provider,
        call=call,
        status=status,
        code=code,
        raw=redacted(raw, secrets),
    )
