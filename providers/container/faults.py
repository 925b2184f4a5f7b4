"""What the engine's refusals mean. Pure.

Docker says what happened by status and text; podman's compatible API says most of it by text under status
500, in `cause` by a constant of its source. Texts are looked at only where a status says too little.

Sources: moby api/docs v1.41 (statuses) and errdefs; podman 4.3 libpod/define/errors.go (causes); both
engines' answers as `tests/providers/container` has them recorded.
"""

import re
from typing import Literal

from providers.errors import Fault

Call = Literal["look", "create", "start", "remove", "pull", "exec", "network", "volume"]

# The first that fits holds. `calls` empty: any call.
_TEXTS: tuple[tuple[Fault, str, tuple[Call, ...]], ...] = (
    (Fault.GONE, r"no such container|is not running|container state improper|marked for removal", ()),
    (Fault.GONE, r"no container with (name or )?id|removal of container .* is already in progress", ()),
    (Fault.CONFLICT, r"already in use|already exists|already used", ("create", "network", "volume")),
    (Fault.CONFLICT, r"has active endpoints|is being used|(volume|network) is in use", ()),
    (
        Fault.CAPACITY,
        r"no space left|cannot allocate memory|available,? non-overlapping|too many open files",
        (),
    ),
    (Fault.CAPACITY, r"no available (network|ip)|address pools? (have|has) been|disk quota exceeded", ()),
    (Fault.CREDENTIALS, r"unauthorized|authentication required|no basic auth credentials", ("pull",)),
    (Fault.CREDENTIALS, r"(incorrect|invalid) username|authentication failed", ("pull",)),
    (
        Fault.REJECTED,
        r"manifest unknown|access denied|access to the resource is denied|name unknown",
        ("pull",),
    ),
    (Fault.REJECTED, r"repository .* not found|invalid reference|no matching manifest|not found", ("pull",)),
    (Fault.THROTTLED, r"toomanyrequests|too many requests|rate limit", ("pull",)),
    (Fault.NOT_SENT, r"connection refused|no such host|i/o timeout|unreachable|connection reset", ("pull",)),
    (Fault.NOT_SENT, r"handshake|deadline exceeded|client\.timeout|unexpected eof|x509", ("pull",)),
    (Fault.REJECTED, r"image not known|no such image", ("create",)),
    (Fault.REJECTED, r"executable file .*not found|command that was not found|exec format error", ("start",)),
    (Fault.REJECTED, r"unable to find user|no matching entries in|unable to find group", ("start", "create")),
    (Fault.REJECTED, r"no such file or directory|not a directory|permission denied", ("start", "create")),
    (Fault.REJECTED, r"operation not permitted|unknown runtime|runtime .* not found", ("start", "create")),
    (Fault.REJECTED, r"invalid argument|not supported|unknown (or invalid )?ulimit", ("start", "create")),
    (Fault.REJECTED, r"network .* ?not found|unable to find network|no such volume", ("start", "create")),
    (Fault.REJECTED, r"failed to create endpoint|could not find bridge", ("start",)),
)
_STATUS: dict[int, Fault] = {
    400: Fault.REJECTED,
    401: Fault.CREDENTIALS,
    403: Fault.CREDENTIALS,  # of an authorization plugin
    404: Fault.GONE,
    405: Fault.REJECTED,
    406: Fault.REJECTED,
    409: Fault.CONFLICT,
    429: Fault.THROTTLED,
    501: Fault.REJECTED,
    503: Fault.THROTTLED,
}


def fault_of(call: Call, status: int, message: str) -> Fault | None:
    """What an answer of `status` to a call means; None when no rule knows, which is an unknown outcome.

    Args:
        call: what was asked.
        status: of HTTP, 400 or more; 200 for what is said within the answer to a pull.
        message: what the engine said, in its own words.
    """
    if call == "create" and status == 404:  # the image, a network, a volume: the container can't be it
        return Fault.REJECTED
    if status == 404 and call == "pull":
        return Fault.REJECTED
    if status == 404 and call == "start":  # docker looks for the network then
        return (
            Fault.GONE if re.search(r"no such container|no container with", message, re.I) else Fault.REJECTED
        )
    if status in (400, 404, 429, 501, 503):
        return _STATUS[status]
    for fault, text, calls in _TEXTS:
        if (not calls or call in calls) and re.search(text, message, re.IGNORECASE):
            return fault
    return _STATUS.get(status)


def message_of(body: bytes) -> str:
    """What the first 8 KiB of an answer's body say, in one line."""
    text = body[:8192].decode(errors="replace")
    if (found := re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', text)) is not None:
        text = found[1].replace('\\"', '"').replace("\\n", " ")
    return " ".join(text.split())
