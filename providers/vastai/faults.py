"""What vast.ai's refusals mean: (status, its error word, its message) -> Fault.

The words are those of the vendor's OpenAPI document, of its rate limits page and of its SDK; a word nobody
has written down is an unknown outcome.
"""

import re
from dataclasses import dataclass

from pydantic_core import from_json

from providers.errors import Fault
from providers.http import Answer

SEARCH_QUOTA = "search_quota_exceeded"  # a 429 of its own: until midnight UTC [SDK 1.9.1, api/client.py]
DETAIL_CHARS_MAX = 300

# Words that mean the same wherever they stand, whatever the status: `error` says "invalid_args" for a lost
# ask too, and a search with a bad key is answered 404 [OpenAPI, examples of createInstance, searchOffers].
_WORDS: tuple[tuple[str, Fault], ...] = (
    (SEARCH_QUOTA, Fault.QUOTA),
    ("no_such_ask", Fault.CAPACITY),
    ("no_such_instance", Fault.GONE),
    ("invalid_price", Fault.CAPACITY),  # outbid before we began: the next ask, or the next search
    ("no_ssh_key_for_vm", Fault.REJECTED),
    ("insufficient_credit", Fault.FUNDS),
    ("lacks credit", Fault.FUNDS),
    ("auth_error", Fault.CREDENTIALS),
    ("invalid user key", Fault.CREDENTIALS),
    ("session expired", Fault.CREDENTIALS),
    ("not your own", Fault.REJECTED),
    ("rate_limit_exceeded", Fault.THROTTLED),
    ("too frequent", Fault.THROTTLED),
)
_STATUS: dict[int, Fault] = {
    401: Fault.CREDENTIALS,
    402: Fault.FUNDS,
    403: Fault.CREDENTIALS,
    410: Fault.CAPACITY,
    413: Fault.REJECTED,
    422: Fault.REJECTED,
    429: Fault.THROTTLED,
}
_ERRORS: dict[str, Fault] = {
    "invalid_args": Fault.REJECTED,
    "invalid_request": Fault.REJECTED,
    "invalid_token": Fault.REJECTED,
    "not_found": Fault.GONE,  # DELETE of a contract that is gone [OpenAPI, destroyInstance]
}
_THRESHOLD = re.compile(r"threshold\s*=\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success.

    Attributes:
        status: of HTTP.
        fault: what it means.
        known: whether a rule says so; else `fault` is UNKNOWN.
        code: the vendor's own word, "" when it gave none.
        detail: one line for a human.
        retry_after_s: when the vendor says how long to wait.
        new_contract: of a create that failed and still made a contract, which bills.
    """

    status: int
    fault: Fault
    known: bool
    code: str
    detail: str
    retry_after_s: float | None = None
    new_contract: int | None = None


def refusal(answer: Answer) -> Refusal | None:
    """What is wrong with an answer; None when it is a success. Bodies may be JSON or plain text."""
    body = parsed(answer)
    said = body if isinstance(body, dict) else {}
    if answer.ok and isinstance(body, dict | list) and said.get("success") is not False:
        return None
    code = str(said.get("error") or "")
    text = str(said.get("msg") or said.get("message") or said.get("detail") or "")
    if not isinstance(body, dict):
        text = answer.body[: 4 * DETAIL_CHARS_MAX].decode(errors="replace")
    fault = fault_of(answer.status, code, text)
    made = said.get("new_contract")
    return Refusal(
        status=answer.status,
        fault=fault or Fault.UNKNOWN,
        known=fault is not None,
        code=code,
        detail=" ".join(f"{answer.status} {code} {text}".split())[:DETAIL_CHARS_MAX],
        retry_after_s=_retry_after_s(answer, text) if fault is Fault.THROTTLED else None,
        new_contract=made if isinstance(made, int) and not isinstance(made, bool) else None,
    )


def fault_of(status: int, code: str, text: str) -> Fault | None:
    """The fault of a refusal, None when no rule knows it.

    A server error stays unknown whatever it says: what was asked may have been done.
    """
    if status >= 500:
        return Fault.UNKNOWN
    said = f"{code} {text}".lower()
    for word, fault in _WORDS:
        if word in said:
            return fault
    if status in _STATUS:
        return _STATUS[status]
    return _ERRORS.get(code)


def parsed(answer: Answer) -> object:
    """The body as JSON, None when it is none."""
    try:
        return from_json(answer.body)
    except ValueError:
        return None


def _retry_after_s(answer: Answer, text: str) -> float | None:
    """Retry-After, which the docs call absent and the SDK honours; else the interval that the text names."""
    told = answer.retry_after_s()
    if told is not None:
        return told
    found = _THRESHOLD.search(text)
    return float(found[1]) if found else None
