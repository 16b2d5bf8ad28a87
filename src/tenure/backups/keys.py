"""Tenants' data keys: the port `KeyService`, and the places in which wrapped keys are kept.

A data key seals one tenant's chunks. A key service wraps it, so that what is kept is of no use without the service, and
keeps the wrapped form outside of every store that is backed up: destroying the key then leaves backups that nobody can
read. Keys of one tenant are never opened under the name of another.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tenure.backups.sealing import KEY_BYTES, DataKey
from tenure.errors import KeyUnusable, UsageError
from tenure.model.names import TENANT_ID, TenantId
from tenure.stores.vault.contract import KeyReference

_REFERENCE: Final = re.compile(r"(?P<service>[a-z]+):(?P<tenant>[^:]+):(?P<made>[0-9a-f]{24})")


@dataclass(frozen=True, kw_only=True)
class Described:
    """A key service in words, for plans and certificates."""

    kind: str
    where: str
    """Which wrapping key of which service, and where the wrapped keys are."""
    destroys: str
    """What destroying a key does, and when it is done."""
    leaves: str
    """What could open a destroyed key all the same, if somebody has kept it."""


@dataclass(frozen=True, kw_only=True)
class Destruction:
    """That a key is gone. `proof` says what was tried afterwards and failed; `leaves` as in `Described`."""

    reference: KeyReference
    proof: str
    leaves: str
    already: bool = False
    """It was gone before."""


class KeyService(Protocol):
    """Makes, opens and destroys data keys. Thread-safe. Everything raises `StoreUnavailable` where the service, or the
    place of its wrapped keys, cannot be reached, and `StoreRefused` where it says no. No message contains a key."""

    def describe(self) -> Described: ...

    def create(self, tenant: TenantId) -> KeyReference:
        """A new data key of the tenant, kept for good before this returns."""

    def references(self, tenant: TenantId) -> Sequence[KeyReference]:
        """All keys of the tenant that are not destroyed, the newest last."""

    def open(self, reference: KeyReference) -> DataKey:
        """The key. Raises `KeyUnusable` if it is destroyed, was never there, or is not what it is kept as."""

    def destroy(self, reference: KeyReference) -> Destruction:
        """Make sure that the key can never be opened again, and show it by trying. Idempotent.

        Raises `KeyUnusable` if it can be opened all the same.
        """


class WrappedKeys(Protocol):
    """Where wrapped keys are kept, by reference. Thread-safe; all processes of the estate see the same."""

    @property
    def where(self) -> str:
        """For messages."""

    @property
    def leaves(self) -> str:
        """Where copies of what is deleted here may stay."""

    def put(self, reference: KeyReference, wrapped: bytes) -> None:
        """Keep it, whatever crashes afterwards. Raises `StoreRefused` if there is one of that name."""

    def get(self, reference: KeyReference) -> bytes | None: ...

    def list(self, tenant: TenantId) -> Sequence[KeyReference]:
        """The references of a tenant, in the order of their names."""

    def delete(self, reference: KeyReference) -> bool:
        """Overwrite and remove it; False if it was not there."""


def new_reference(service: str, tenant: TenantId, now_ms: int) -> KeyReference:
    """A name for a new key. Names of one tenant sort by their age."""
    return KeyReference(f"{service}:{tenant}:{now_ms:012x}{secrets.token_hex(6)}")


def new_material() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def parse_reference(reference: str, service: str) -> TenantId:
    """Whose key it is. Raises `UsageError` for what is no reference, and `KeyUnusable` for another service's."""
    found = _REFERENCE.fullmatch(reference)
    if found is None or not TENANT_ID.fullmatch(found["tenant"]):
        raise UsageError(f"{reference[:140]!r} is not the reference of a data key")
    if found["service"] != service:
        raise KeyUnusable(
            f"the key {reference} is kept by another key service ({found['service']}) than the estate's ({service})",
            hint="set `backups.keys` to the service that made it",
        )
    return TenantId(found["tenant"])


def current(service: KeyService, tenant: TenantId) -> KeyReference:
    """The key that new backups of a tenant are sealed with: its newest one, or its first."""
    known = service.references(tenant)
    return known[-1] if known else service.create(tenant)


def destroyed(reference: KeyReference, where: str) -> KeyUnusable:
    """What `open` says of a key that is not there."""
    return KeyUnusable(
        f"{where}: there is no key {reference}: it was destroyed, or has never been there",
        hint="what is sealed with a destroyed key stays unreadable; that is what destroying is for",
    )


def prove(service: KeyService, reference: KeyReference, *, already: bool) -> Destruction:
    """Try to open a key that was destroyed."""
    try:
        service.open(reference)
    except KeyUnusable as refusal:
        return Destruction(
            reference=reference,
            proof=f"opening it was tried and failed: {refusal.message}",
            leaves=service.describe().leaves,
            already=already,
        )
    raise KeyUnusable(
        f"the key {reference} was destroyed and can be opened all the same",
        hint="somebody keeps putting it back, or the place of wrapped keys shows what it had before",
    )
