"""A vault on SeaweedFS, in a bucket without versions and in one with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from tenure.estate.local import S3Endpoint
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.buckets.client import Bucket
from tenure.stores.vault import VaultStore
from tests.contract.rigs.s3 import client
from tests.vaults import backed_up, backup_id

KINDS = ("vault", "vault-versioned")
VARIANTS = ("vault-versioned",)
PREFIX = "backups/{tenant}/"


def make(kind: str, request: pytest.FixtureRequest) -> VaultRig:
    fresh = request.getfixturevalue("fresh_bucket")
    return VaultRig(kind, *fresh("seaweed-a", versioned=kind == "vault-versioned"))


class VaultRig:
    erases = True

    def __init__(self, kind: str, s3: S3Endpoint, bucket: str) -> None:
        self.kind = kind
        self.s3 = s3
        self.bucket = bucket
        self.admin = client(s3, s3.access_key, s3.secret_key)
        self._made: list[VaultStore] = []
        self._numbers = itertools.count(1)

    def store(self, **changes: Any) -> VaultStore:
        options: dict[str, Any] = {
            "endpoint": self.s3.endpoint,
            "name": self.bucket,
            "region": self.s3.region,
            "access_key": self.s3.access_key,
            "secret_key": self.s3.secret_key,
        }
        store = VaultStore(
            name=StoreName("vault"),
            cell=CellName("blue"),
            bucket=Bucket(**{**options, **changes}),
            prefix=PREFIX,
        )
        self._made.append(store)
        return store

    def write(self, tenant: TenantId, item: str) -> None:
        """A backup of two chunks."""
        n = next(self._numbers)
        backed_up(
            self.store().vault, tenant, backup_id(n), [f"{item} {n}".encode(), f"{item} more {n}".encode()]
        )

    def plant(self, text: str) -> None:
        self.admin.put_object(Bucket=self.bucket, Key="notes/readme", Body=text.encode())

    def leftovers(self) -> Sequence[str]:
        found = self.admin.list_object_versions(Bucket=self.bucket, Prefix=".tenure/")
        return [v["Key"] for v in (*found.get("Versions", []), *found.get("DeleteMarkers", []))]

    def unreachable(self) -> VaultStore:
        return self.store(endpoint="http://127.0.0.1:1")

    def wrong_password(self) -> VaultStore:
        return self.store(secret_key=Secret("wrong-password"))

    def close(self) -> None:
        for store in self._made:
            store.close()
