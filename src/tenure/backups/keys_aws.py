"""Data keys wrapped by a key of AWS KMS, which never leaves it. The wrapped keys are kept where the estate says."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

from tenure.backups.keys import (
    Described,
    Destruction,
    WrappedKeys,
    destroyed,
    new_reference,
    parse_reference,
    prove,
)
from tenure.backups.sealing import KEY_BYTES, DataKey
from tenure.errors import KeyUnusable, StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.vault.contract import KeyReference

SERVICE: Final = "kms"
_TEMPORARY: Final = frozenset(
    {
        "ThrottlingException",
        "LimitExceededException",
        "KMSInternalException",
        "DependencyTimeoutException",
        "InternalFailure",
        "ServiceUnavailable",
        "KeyUnavailableException",
    }
)
_UNUSABLE: Final = frozenset(
    {
        "InvalidCiphertextException",
        "IncorrectKeyException",
        "DisabledException",
        "KMSInvalidStateException",
        "NotFoundException",
    }
)


class AwsKmsKeys:
    """Implements `KeyService`. `key` is the id, ARN or alias of the KMS key. The reference of a data key is its
    encryption context: KMS itself refuses to unwrap one under another's name, and its log says whose was opened."""

    def __init__(self, client: Any, key: str, kept: WrappedKeys) -> None:
        self._client = client
        self._key = key
        self._kept = kept
        self._where = f"KMS key {key}"

    def describe(self) -> Described:
        return Described(
            kind=SERVICE,
            where=f"{self._kept.where}, wrapped with the {self._where}",
            destroys="removes the wrapped key at once; the KMS key itself wraps other tenants' keys too and stays. "
            "AWS deletes a KMS key no sooner than 7 to 30 days after it is asked to, and until then takes it back",
            leaves=f"{self._kept.leaves}, together with the right to decrypt with the {self._where}",
        )

    def create(self, tenant: TenantId) -> KeyReference:
        reference = new_reference(SERVICE, tenant, time.time_ns() // 1_000_000)
        with self._translated(reference):
            made = self._client.generate_data_key_without_plaintext(
                KeyId=self._key, NumberOfBytes=KEY_BYTES, EncryptionContext=_context(tenant, reference)
            )
        self._kept.put(reference, made["CiphertextBlob"])
        return reference

    def references(self, tenant: TenantId) -> Sequence[KeyReference]:
        return self._kept.list(tenant)

    def open(self, reference: KeyReference) -> DataKey:
        tenant = parse_reference(reference, SERVICE)
        wrapped = self._kept.get(reference)
        if wrapped is None:
            raise destroyed(reference, self._kept.where)
        with self._translated(reference):
            opened = self._client.decrypt(
                KeyId=self._key, CiphertextBlob=wrapped, EncryptionContext=_context(tenant, reference)
            )
        return DataKey(tenant=tenant, reference=reference, material=opened["Plaintext"])

    def destroy(self, reference: KeyReference) -> Destruction:
        parse_reference(reference, SERVICE)
        there = self._kept.delete(reference)
        return prove(self, reference, already=not there)

    @contextmanager
    def _translated(self, reference: KeyReference) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _UNUSABLE:
                raise KeyUnusable(
                    f"{self._where} does not open the key {reference}: {code}",
                    hint="it is damaged or another tenant's, or the KMS key is disabled or to be deleted",
                ) from error
            kind = StoreUnavailable if code in _TEMPORARY else StoreRefused
            raise kind(
                f"{self._where}, for the key {reference}: {code}", hint="may this login use the KMS key?"
            ) from error
        except (ConnectionError, HTTPClientError) as error:
            raise StoreUnavailable(
                f"{self._where} cannot be reached", hint="is the endpoint right?"
            ) from error
        except BotoCoreError as error:
            raise StoreRefused(f"{self._where}: {error}") from error


def kms_client(*, region: str, endpoint: str | None, access_key: Secret, secret_key: Secret) -> Any:
    """Empty keys mean AWS's own chain of credentials. Waits for no answer longer than 10 s."""
    return boto3.session.Session().client(
        "kms",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=access_key.reveal() or None,
        aws_secret_access_key=secret_key.reveal() or None,
        config=Config(
            connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 3, "mode": "standard"}
        ),
    )


def _context(tenant: TenantId, reference: KeyReference) -> dict[str, str]:
    return {"tenure:tenant": tenant, "tenure:key": reference}
