"""What tests of backups ask of an estate besides its command line: what is in the vaults, and what is in a backup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import yaml

from tenure.backups.backups import Backups
from tenure.estate.config import load_estate
from tenure.model.names import StoreName, TenantId
from tenure.operations.deps import Vaults
from tenure.stores.vault.contract import Backup
from tenure.wiring import Stores, open_registry
from tenure.wiring.backups import open_backups
from tenure.wiring.vaults import RegionVaults
from tests.estate import TestEstate

FIRST, SECOND = "us-east-1", "eu-west-1"
"""The region of the cell blue, and where platinum's copies go."""


def config_with(estate: TestEstate, name: str, **tiers: Mapping[str, Any]) -> Path:
    """The estate's file with other settings of these tiers' backups."""
    document = yaml.safe_load(estate.config.read_text(encoding="utf-8"))
    for tier, changed in tiers.items():
        document["tiers"][tier]["backup"].update(changed)
    path = estate.config.with_name(name)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


@contextmanager
def vaults_of(estate: TestEstate) -> Iterator[tuple[Vaults, Backups]]:
    """The vaults themselves, and what opens backups."""
    described = load_estate(estate.config)
    registry = open_registry(described)
    stores = Stores(described, registry.mutex)
    try:
        yield RegionVaults(described, stores), open_backups(described)
    finally:
        stores.close()
        registry.close()


def shelf(estate: TestEstate, tenant: str, region: str = FIRST) -> tuple[set[str], set[str]]:
    """The complete and the unfinished backups of a tenant in a region's vault. Nothing may be damaged."""
    with vaults_of(estate) as (vaults, _):
        seen = vaults.vault(region).shelf(TenantId(tenant))
    assert seen.damaged == ()
    return {one.id for one in seen.complete}, {one.id for one in seen.unfinished}


def objects_in(estate: TestEstate, tenant: str, region: str = FIRST) -> set[str]:
    """The keys of everything that lies in a region's vault for a tenant."""
    client, bucket = bucket_of(estate, region)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"backups/{tenant}/")
    return {entry["Key"] for page in pages for entry in page.get("Contents", ())}


def bucket_of(estate: TestEstate, region: str) -> tuple[Any, str]:
    """The S3 that has a region's vault, and the vault's bucket."""
    access = next(its for its in estate.local.cells.values() if its.plan.region == region)
    client = boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        region_name=region,
    )
    return client, access.plan.vault


def every_byte(estate: TestEstate, tenant: str, region: str = FIRST) -> dict[str, int]:
    """Read every complete backup of a tenant through, with its key; the number of its streams by backup.

    Fails with what is wrong if one could not be restored.
    """
    found = {}
    with vaults_of(estate) as (vaults, sealing):
        vault = vaults.vault(region)
        for one in vault.shelf(TenantId(tenant)).complete:
            seen = sealing.verify(vault, one, tenant=TenantId(tenant))
            assert seen.problems == (), seen.problems
            assert seen.whole
            assert seen.opened
            found[str(one.id)] = seen.streams_checked
    return found


def contents(
    estate: TestEstate, tenant: str, backup: str, region: str = FIRST
) -> dict[tuple[StoreName, str], bytes]:
    """All bytes of a backup's streams, by store and collection: base first, then what was taken again."""
    found: dict[tuple[StoreName, str], bytes] = {}
    with vaults_of(estate) as (vaults, sealing):
        vault = vaults.vault(region)
        reader = sealing.open(
            vault, _of(vault.shelf(TenantId(tenant)).complete, backup), tenant=TenantId(tenant)
        )
        try:
            for stream in reader.streams():
                name = (stream.store, stream.collection)
                found[name] = found.get(name, b"") + b"".join(reader.read(stream))
        finally:
            reader.close()
    return found


def facts(
    estate: TestEstate, tenant: str, backup: str, region: str = FIRST
) -> dict[tuple[str, str], tuple[int, str | None]]:
    """Items and digest of every collection, as the stores said at the point."""
    with vaults_of(estate) as (vaults, sealing):
        vault = vaults.vault(region)
        reader = sealing.open(
            vault, _of(vault.shelf(TenantId(tenant)).complete, backup), tenant=TenantId(tenant)
        )
        try:
            return {(c.store, c.collection): (c.items, c.digest) for c in reader.collections()}
        finally:
            reader.close()


def _of(complete: tuple[Backup, ...], backup: str) -> Backup:
    return next(one for one in complete if one.id == backup)
