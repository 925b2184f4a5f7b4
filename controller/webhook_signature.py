"""The signature of webhooks: made by the daemon, and checked by who receives. Needs nothing but Python.

A receiver checks it before it believes anything, and takes each event once, whatever comes twice:

    from controller.client import WebhookInvalid, verify_webhook

    def receive(headers, body):  # body: the bytes as they came, before any parsing
        try:
            verify_webhook(SECRET, headers, body)
        except WebhookInvalid:
            return 401
        envelope = json.loads(body)
        if envelope["seq"] not in taken:  # an event may come more than once: its seq tells
            taken.add(envelope["seq"])
            act_on(envelope["event"])
        return 204
"""

import hashlib
import hmac
import time
from collections.abc import Mapping

SIGNATURE = "Everpool-Signature"  # t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">
NAME = "Everpool-Webhook"
SEQ = "Everpool-Event-Seq"
SECRET_CHARS_MIN = 16


class WebhookInvalid(ValueError):
    """What came was not signed by who has the secret, or too long ago. The text says which."""


def signature(secret: str, at: int, body: bytes) -> str:
    """The value of the header, for a body that is sent at `at` (unix seconds)."""
    return f"t={at},v1={_mac(secret, str(at), body)}"


def verify_webhook(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    tolerance_s: float = 300,
    *,
    now: float | None = None,
) -> None:
    """Return when everpool sent this with this secret and not long ago.

    Args:
        secret: the webhook's, without white space around it.
        headers: of the request, their names in any case.
        body: as it came.
        tolerance_s: how far the sender's clock and time may be from ours.
        now: unix seconds; None: this computer's clock.

    Raises:
        WebhookInvalid: do not believe it.
    """
    given = next((value for name, value in headers.items() if name.lower() == SIGNATURE.lower()), None)
    if given is None:
        raise WebhookInvalid(f"no header {SIGNATURE}")
    parts = [part.strip().partition("=") for part in given.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    macs = [value for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not macs or not (times[0].isascii() and times[0].isdigit() and len(times[0]) < 16):
        raise WebhookInvalid(f"the header {SIGNATURE} is not t=<seconds>,v1=<hex>")
    wanted = _mac(secret, times[0], body).encode()
    if not any([hmac.compare_digest(mac.encode(), wanted) for mac in macs]):
        raise WebhookInvalid("the signature is of another secret, or the body was changed")
    if abs((time.time() if now is None else now) - int(times[0])) > tolerance_s:
        raise WebhookInvalid(f"it was signed more than {tolerance_s:g} s ago, or ahead")


def _mac(secret: str, at: str, body: bytes) -> str:
    return hmac.new(secret.strip().encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
