"""The estate's signature under manifests: Ed25519. Who can write to a vault cannot make a backup that is believed."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tenure.errors import ConfigurationError

PUBLIC_BYTES: Final = 32
_NAME_DIGITS: Final = 16


class Signer:
    """Signs with a private key, which is 32 random bytes."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)

    @property
    def public(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    @property
    def name(self) -> str:
        return name_of(self.public)

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


class Trust:
    """The public keys whose signatures count."""

    def __init__(self, public: Sequence[bytes]) -> None:
        self._keys = {name_of(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in public}

    @property
    def names(self) -> Sequence[str]:
        return sorted(self._keys)

    def knows(self, name: str) -> bool:
        return name in self._keys

    def verifies(self, name: str, signature: bytes, message: bytes) -> bool:
        key = self._keys.get(name)
        if key is None:
            return False
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def name_of(public: bytes) -> str:
    """How a key is named in manifests: the beginning of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(public).hexdigest()[:_NAME_DIGITS]


def public_key(text: str, where: str) -> bytes:
    """A public key that is given as base64. Raises `ConfigurationError`."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != PUBLIC_BYTES:
        raise ConfigurationError(f"{where} has to be a public key: {PUBLIC_BYTES} bytes in base64")
    return raw
