"""Erasures as the ledger keeps them, and the digests under which it knows tenants and persons."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType

from tenure.model.names import TenantId
from tenure.model.secret import Secret

Digest = NewType("Digest", bytes)
_SHOWN: Final = 16


class Scope(StrEnum):
    TENANT = "tenant"
    PERSON = "person"


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """One line of the ledger: a tenant that was erased, or a person of it."""

    request: str
    scope: Scope
    key_id: str
    tenant: Digest
    person: Digest | None
    erased_at: datetime


class Names:
    """Digests of tenants and persons: HMAC-SHA256 under the estate's key.

    Without the key nobody can try names out. A person's digest differs from tenant to tenant.
    """

    def __init__(self, key: Secret) -> None:
        self._key = hashlib.sha256(b"tenure erasure ledger 1\0" + key.reveal().encode()).digest()
        self.key_id: Final = hmac.new(self._key, b"key id", hashlib.sha256).hexdigest()[:_SHOWN]

    def tenant(self, tenant: TenantId) -> Digest:
        return self._digest(b"tenant", tenant)

    def person(self, tenant: TenantId, identifier: str) -> Digest:
        """Of an identifier as it stands in the data (an address, a number), without regard to case or outer blanks."""
        return self._digest(b"person", tenant, identifier.strip().casefold())

    def _digest(self, kind: bytes, *parts: str) -> Digest:
        # Each part with its length, so that no two lists of parts give the same bytes.
        message = b"".join(len(p).to_bytes(8, "big") + p for p in (kind, *(p.encode() for p in parts)))
        return Digest(hmac.new(self._key, message, hashlib.sha256).digest())
