"""A vault in a bucket of its own, without versions, with versions, and with locks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tenure.estate.local import S3Endpoint
from tenure.model.names import CellName, StoreName
from tenure.stores.buckets.client import Bucket
from tenure.stores.vault import VaultStore
from tests.contract.rigs.s3 import client
from tests.variants import marked


@dataclass(kw_only=True)
class VaultBucket:
    """A bucket, and stores in it as several processes would make them."""

    s3: S3Endpoint
    name: str
    versioned: bool
    made: list[VaultStore] = field(default_factory=list)

    @property
    def admin(self) -> Any:
        return client(self.s3, self.s3.access_key, self.s3.secret_key)

    def store(self, *, endpoint: str | None = None) -> VaultStore:
        store = VaultStore(
            name=StoreName("vault"),
            cell=CellName("blue"),
            bucket=Bucket(
                endpoint=endpoint or self.s3.endpoint,
                name=self.name,
                region=self.s3.region,
                access_key=self.s3.access_key,
                secret_key=self.s3.secret_key,
            ),
            prefix="backups/{tenant}/",
        )
        self.made.append(store)
        return store

    def keys(self, prefix: str = "") -> list[str]:
        """Every version and delete marker, by its key."""
        found = self.admin.list_object_versions(Bucket=self.name, Prefix=prefix)
        return sorted(v["Key"] for v in (*found.get("Versions", []), *found.get("DeleteMarkers", [])))


@pytest.fixture(params=marked(["plain", "versioned"], ["plain"]))
def bucket(request: pytest.FixtureRequest, fresh_bucket: Callable[..., Any]) -> Iterator[VaultBucket]:
    versioned = request.param == "versioned"
    yield from made_bucket(*fresh_bucket("seaweed-a", versioned=versioned), versioned=versioned)


@pytest.fixture
def plain_bucket(fresh_bucket: Callable[..., Any]) -> Iterator[VaultBucket]:
    yield from made_bucket(*fresh_bucket("seaweed-a"), versioned=False)


@pytest.fixture
def versioned_bucket(fresh_bucket: Callable[..., Any]) -> Iterator[VaultBucket]:
    yield from made_bucket(*fresh_bucket("seaweed-a", versioned=True), versioned=True)


@pytest.fixture
def locking_bucket(fresh_bucket: Callable[..., Any]) -> Iterator[VaultBucket]:
    yield from made_bucket(*fresh_bucket("seaweed-a", locks=True), versioned=True)


def made_bucket(s3: S3Endpoint, name: str, *, versioned: bool) -> Iterator[VaultBucket]:
    made = VaultBucket(s3=s3, name=name, versioned=versioned)
    try:
        yield made
    finally:
        for store in made.made:
            store.close()
