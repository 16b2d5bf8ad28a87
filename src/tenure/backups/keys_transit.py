"""Data keys wrapped by HashiCorp Vault's transit engine, or OpenBao's: a transit key of its own for each data key, so
that destroying one needs no trust in whoever keeps the wrapped keys."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import hvac
import requests
from hvac.exceptions import (
    BadGateway,
    InternalServerError,
    InvalidPath,
    InvalidRequest,
    RateLimitExceeded,
    VaultDown,
    VaultError,
    VaultNotInitialized,
)

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
from tenure.backups.sealing import DataKey
from tenure.errors import KeyUnusable, StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.vault.contract import KeyReference

SERVICE: Final = "transit"
_TYPE: Final = "aes256-gcm96"
_TEMPORARY: Final = (BadGateway, InternalServerError, RateLimitExceeded, VaultDown, VaultNotInitialized)


class TransitKeys:
    """Implements `KeyService`. The token needs create, read, update and delete on `MOUNT/keys/PREFIX*`, and update on
    `MOUNT/encrypt/PREFIX*` and `MOUNT/decrypt/PREFIX*`."""

    def __init__(self, client: hvac.Client, *, mount: str, prefix: str, kept: WrappedKeys) -> None:
        self._transit = client.secrets.transit
        self._mount = mount
        self._prefix = prefix
        self._kept = kept
        self._where = f"{client.url}, transit engine {mount}"

    def describe(self) -> Described:
        return Described(
            kind=SERVICE,
            where=f"{self._kept.where}, each wrapped with a transit key of its own in {self._where}",
            destroys="deletes the transit key and the wrapped key, at once",
            leaves=f"a backup of the Vault server that was made before, together with {self._kept.leaves}",
        )

    def create(self, tenant: TenantId) -> KeyReference:
        reference = new_reference(SERVICE, tenant, time.time_ns() // 1_000_000)
        name, bound = self._name(reference), _b64(reference.encode())
        with self._translated(reference):
            self._transit.create_key(name, key_type=_TYPE, mount_point=self._mount)
            answer = self._transit.encrypt_data(
                name, _b64(new_material()), associated_data=bound, mount_point=self._mount
            )
        self._kept.put(reference, str(answer["data"]["ciphertext"]).encode())
        return reference

    def references(self, tenant: TenantId) -> Sequence[KeyReference]:
        return self._kept.list(tenant)

    def open(self, reference: KeyReference) -> DataKey:
        tenant = parse_reference(reference, SERVICE)
        wrapped = self._kept.get(reference)
        if wrapped is None:
            raise destroyed(reference, self._kept.where)
        with self._translated(reference):
            answer = self._transit.decrypt_data(
                self._name(reference),
                wrapped.decode("ascii", "replace"),
                associated_data=_b64(reference.encode()),
                mount_point=self._mount,
            )
        material = base64.b64decode(str(answer["data"]["plaintext"]))
        return DataKey(tenant=tenant, reference=reference, material=material)

    def destroy(self, reference: KeyReference) -> Destruction:
        parse_reference(reference, SERVICE)
        gone = self._delete_transit_key(reference)
        there = self._kept.delete(reference)
        with self._translated(reference):
            if self._has_transit_key(reference):
                raise KeyUnusable(f"{self._where}: the transit key of {reference} is still there")
        return prove(self, reference, already=not (there or gone))

    def _delete_transit_key(self, reference: KeyReference) -> bool:
        """The wrapped key is worth nothing from then on, wherever copies of it are."""
        name = self._name(reference)
        with self._translated(reference):
            if not self._has_transit_key(reference):
                return False
            self._transit.update_key_configuration(name, deletion_allowed=True, mount_point=self._mount)
            self._transit.delete_key(name, mount_point=self._mount)
        return True

    def _has_transit_key(self, reference: KeyReference) -> bool:
        try:
            self._transit.read_key(self._name(reference), mount_point=self._mount)
        except InvalidPath:
            return False
        return True

    def _name(self, reference: KeyReference) -> str:
        return self._prefix + reference.replace(":", ".")

    @contextmanager
    def _translated(self, reference: KeyReference) -> Iterator[None]:
        try:
            yield
        except InvalidRequest as error:
            raise KeyUnusable(
                f"{self._where} does not open the key {reference}: {error.args[0]}",
                hint="it is damaged, another tenant's, or its transit key was deleted",
            ) from error
        except _TEMPORARY as error:
            raise StoreUnavailable(
                f"{self._where} cannot answer: {error.args[0]}", hint="is it sealed, or overloaded?"
            ) from error
        except VaultError as error:
            raise StoreRefused(
                f"{self._where} refuses: {error.args[0]}", hint="what may the token do, and has it expired?"
            ) from error
        except requests.RequestException as error:
            raise StoreUnavailable(
                f"{self._where} cannot be reached: {type(error).__name__}", hint="is the address right?"
            ) from error


def transit_client(*, url: str, token: Secret, namespace: str | None) -> Any:
    """Waits for no answer longer than 10 s."""
    return hvac.Client(url=url, token=token.reveal(), namespace=namespace, timeout=10)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
