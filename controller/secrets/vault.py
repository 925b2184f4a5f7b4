"""How secrets are encrypted: AES-256-GCM, each with a nonce of its own, bound to the place where it is kept.

What is sealed for one place can't be opened for another, so rows of the journal that were swapped, or put
back from an older copy under another revision, are found out.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.records_state import Sealed
from controller.secrets import errors

KEY_BYTES = 32
KEY_ID_CHARS = 12
_NONCE_BYTES = 12  # random: safe for 2**32 seals with one key

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{43}=?")

CHANGED = "is not what was written: the journal was changed; set it again, with its pools"
Place = Sequence[str | int]  # what a secret is bound to, such as ("env_group", "db", 3)


@dataclass(frozen=True, slots=True)
class Key:
    """32 secret bytes, and the name that ciphertexts know them by."""

    secret: bytes = field(repr=False)
    id: str

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """A key from a file: 32 bytes in base64 or hex; else any 32 or more random bytes, which are hashed.

        White space around text does not count. Raises ValueError for what is too short.
        """
        try:
            text = content.decode().strip()
        except UnicodeDecodeError:
            return cls._of(_hashed(content))
        if _HEX.fullmatch(text):
            return cls._of(bytes.fromhex(text))
        if _BASE64.fullmatch(text):
            padded = text.rstrip("=") + "="
            return cls._of(base64.b64decode(padded.replace("-", "+").replace("_", "/")))
        return cls._of(_hashed(text.encode()))

    @classmethod
    def _of(cls, secret: bytes) -> Self:
        return cls(secret, sha256(b"everpool secrets key id\0" + secret).hexdigest()[:KEY_ID_CHARS])


def _hashed(content: bytes) -> bytes:
    if len(content) < KEY_BYTES:
        raise ValueError(f"has {len(content)} bytes: a key has {KEY_BYTES}, written in base64 or hex")
    return sha256(b"everpool secrets key\0" + content).digest()


def new_key() -> str:
    """A new key, in base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


class Vault:
    """Seals with its first key, and opens with any."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.key = keys[0]
        self._keys = {key.id: AESGCM(key.secret) for key in reversed(keys)}

    def can_open(self, sealed: Sealed) -> bool:
        """Whether the key that sealed it is at hand."""
        return sealed.key_id in self._keys

    def seal(self, values: Mapping[str, str], place: Place) -> Sealed:
        """Encrypt values for one place."""
        nonce = os.urandom(_NONCE_BYTES)
        plain = json.dumps(dict(values), separators=(",", ":")).encode("utf-8", "surrogatepass")
        data = nonce + self._keys[self.key.id].encrypt(nonce, plain, _bound(place))
        return Sealed(key_id=self.key.id, data=base64.b64encode(data).decode())

    def open(self, sealed: Sealed, place: Place) -> dict[str, str]:
        """What was sealed for this place.

        Raises:
            errors.Sealed: with another key, for another place, or it was changed since.
        """
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise errors.Sealed(
                f"was encrypted with key {sealed.key_id}, and ours is {self.key.id}: put that key back, "
                "as [daemon] secrets_key or secrets_key_old, or set it again"
            )
        try:
            data = base64.b64decode(sealed.data, validate=True)
            plain = key.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound(place))
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise errors.Sealed(CHANGED) from error
        opened: dict[str, str] = json.loads(plain)
        return opened


def _bound(place: Place) -> bytes:
    return json.dumps(["everpool", *place]).encode()
