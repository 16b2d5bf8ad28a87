"""Data keys wrapped by a master key that the estate is given: for one machine, or several that share a folder."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tenure.backups.keys import (
    Described,
    Destruction,
    WrappedKeys,
    destroyed,
    new_material,
    new_reference,
    parse_reference,
    prove,
)
from tenure.backups.sealing import KEY_BYTES, DataKey
from tenure.errors import ConfigurationError, KeyUnusable
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.vault.contract import KeyReference

SERVICE: Final = "local"
_MAGIC: Final = b"TNRk\x01"
_SALT_BYTES: Final = 32


class LocalKeys:
    """Implements `KeyService`. `masters`: what wraps new keys, and after it those that wrapped older ones."""

    def __init__(self, masters: Sequence[Secret], kept: WrappedKeys) -> None:
        self._masters = [secret_bytes(master, "the master key of `backups.keys`") for master in masters]
        self._kept = kept

    def describe(self) -> Described:
        return Described(
            kind=SERVICE,
            where=f"{self._kept.where}, wrapped with the estate's master key",
            destroys="overwrites the wrapped key with noise and removes it, at once",
            leaves=f"{self._kept.leaves}, together with the master key",
        )

    def create(self, tenant: TenantId) -> KeyReference:
        reference = new_reference(SERVICE, tenant, time.time_ns() // 1_000_000)
        self._kept.put(reference, _wrapped(self._masters[0], reference, new_material()))
        return reference

    def references(self, tenant: TenantId) -> Sequence[KeyReference]:
        return self._kept.list(tenant)

    def open(self, reference: KeyReference) -> DataKey:
        tenant = parse_reference(reference, SERVICE)
        wrapped = self._kept.get(reference)
        if wrapped is None:
            raise destroyed(reference, self._kept.where)
        for master in self._masters:
            material = _unwrapped(master, reference, wrapped)
            if material is not None:
                return DataKey(tenant=tenant, reference=reference, material=material)
        raise KeyUnusable(
            f"{self._kept.where}: the key {reference} cannot be unwrapped: it is damaged, another tenant's, or was "
            "wrapped with another master key",
            hint="name the master keys of before in `backups.keys.former`",
        )

    def destroy(self, reference: KeyReference) -> Destruction:
        parse_reference(reference, SERVICE)
        there = self._kept.delete(reference)
        return prove(self, reference, already=not there)


def secret_bytes(secret: Secret, what: str) -> bytes:
    """32 bytes that are given as base64. Raises `ConfigurationError`, which shows nothing of them."""
    try:
        raw = base64.b64decode(secret.reveal().strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ConfigurationError(
            f"{what} has to be {KEY_BYTES} bytes in base64", hint="make one with `openssl rand -base64 32`"
        )
    return raw


def _wrapped(master: bytes, reference: KeyReference, material: bytes) -> bytes:
    salt = secrets.token_bytes(_SALT_BYTES)
    cipher, nonce = _cipher(master, salt)
    return _MAGIC + salt + cipher.encrypt(nonce, material, _MAGIC + reference.encode())


def _unwrapped(master: bytes, reference: KeyReference, wrapped: bytes) -> bytes | None:
    if not wrapped.startswith(_MAGIC):
        return None
    salt, sealed = wrapped[len(_MAGIC) :][:_SALT_BYTES], wrapped[len(_MAGIC) + _SALT_BYTES :]
    cipher, nonce = _cipher(master, salt)
    try:
        return cipher.decrypt(nonce, sealed, _MAGIC + reference.encode())
    except InvalidTag:
        return None


def _cipher(master: bytes, salt: bytes) -> tuple[AESGCM, bytes]:
    """A key of its own for each wrapping: a nonce never meets the same key twice."""
    both = HKDFExpand(SHA256(), KEY_BYTES + 12, info=b"tenure wrap 1\0" + salt).derive(master)
    return AESGCM(both[:KEY_BYTES]), both[KEY_BYTES:]
