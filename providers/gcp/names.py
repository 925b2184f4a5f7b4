"""Names, labels and ids that follow from a launch key, and the marks that say whose a thing is.

A label holds 63 characters of [a-z0-9_-] and so only helps to filter. What counts as proof of ownership is
the description of an instance, disk or firewall rule, which is exact. An instance's metadata is not used: it
can only be listed as a whole, with the host key that is in it.
"""

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from os.path import commonprefix

from providers.model import Value

LABEL_CHARS_MAX = 63
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "everpool:gcp")

OWNER, CLUSTER, POOL, KEY = "everpool-owner", "everpool-cluster", "everpool-pool", "everpool-key"
EPOCH, PRICE, BATCH = "everpool-epoch", "everpool-price", "everpool-batch"


def label(text: str) -> str:
    """A text as a label's value: itself, or in base 32 after "x--", or, when that is too long, its hash."""
    if _PLAIN.fullmatch(text) and not text.startswith(("x--", "h--")):
        return text
    spelt = "x--" + _base32(text.encode())
    return spelt if len(spelt) <= LABEL_CHARS_MAX else "h--" + digest(text)


def digest(text: str) -> str:
    """32 characters of [a-z2-7] that stand for a text."""
    return _base32(hashlib.sha256(text.encode()).digest()[:20])


def machine_name(key: str) -> str:
    """The name of the machine launched under `key`."""
    return f"everpool-{digest(key)}"


def cluster_name(owner: str, cluster_id: str) -> str:
    """The name of a cluster's firewall rule, and the network tag of its machines."""
    return f"everpool-{digest(f'{owner} {cluster_id}')}"


def request_id(*keys: str) -> str:
    """The idempotency token of a launch."""
    return str(uuid.uuid5(_SPACE, "\n".join(keys)))


def batch_name(keys: Sequence[str]) -> str:
    """What a bulk insert's machines are labelled with."""
    return digest("\n".join(keys))


class Marks(Value):
    """What a description says of the thing it is on.

    Machines of a bulk insert have one description, with the keys of all: what they begin with, and each
    one's rest.
    """

    owner: str
    cluster: str = ""
    key: str = ""
    stem: str = ""
    rests: tuple[str, ...] = ()

    def text(self) -> str:
        """As a description."""
        said = self.model_dump(exclude_defaults=True)
        return "everpool " + json.dumps(said, separators=(",", ":"), ensure_ascii=False)

    def key_of(self, name: str) -> str:
        """The launch key of the machine of that name; "" when it is none of these."""
        return self.key or _by_name(self.stem, self.rests).get(name, "")


def marks_of_all(owner: str, cluster: str, keys: Sequence[str]) -> Marks:
    """The marks of machines that are made by one call."""
    stem = commonprefix(list(keys))
    return Marks(owner=owner, cluster=cluster, stem=stem, rests=tuple(key[len(stem) :] for key in keys))


@lru_cache(maxsize=1000)
def _by_name(stem: str, rests: tuple[str, ...]) -> Mapping[str, str]:
    return {machine_name(stem + rest): stem + rest for rest in rests}


def marks_of(description: object) -> Marks | None:
    """The marks in a description; None when it is not one of ours."""
    if not isinstance(description, str) or not description.startswith("everpool {"):
        return None
    try:
        return Marks.model_validate_json(description.removeprefix("everpool "))
    except ValueError:
        return None


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
