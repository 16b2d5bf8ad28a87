"""What goes wrong in a cell on an ordinary day: a faulty job deletes and overwrites what is a tenant's, in every store
that it reaches. And what a tenant has there, read straight from the servers, to tell whether it is all back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
import redis
from psycopg import sql

from rag_app.objects import s3_client
from rag_app.settings import CellSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TABLES: Final = {"documents": "id", "chunks": "id", "embeddings": "chunk_id"}
_GONE, _SPOILT = 5, 7
"""One of so many is deleted, one of so many overwritten."""

Contents = Mapping[tuple[str, str], str]
"""A digest of each item: (documents, 17), (keys, t:acme:queue:1), (files, tenants/acme/files/17.txt)."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """How many items were deleted and overwritten, what hangs on them not counted."""

    rows: int
    keys: int
    files: int


@dataclass(frozen=True, kw_only=True)
class _Opened:
    rows: psycopg.Connection[Any]
    keys: redis.Redis
    files: S3Client
    bucket: str
    tenant: str

    def key_names(self) -> list[bytes]:
        """Without the list of recent documents, which goes on with what users write."""
        found = self.keys.scan_iter(match=f"t:{self.tenant}:*", count=1000)
        return sorted(key for key in found if not key.endswith(b":recent"))

    def file_names(self) -> list[tuple[str, str]]:
        """Each with what the server calls its version."""
        pages = self.files.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"tenants/{self.tenant}/files/"
        )
        return sorted((one["Key"], one["ETag"]) for page in pages for one in page.get("Contents", ()))


def spoil(settings: CellSettings, tenant: str) -> Damage:
    """Delete and overwrite some of everything."""
    with _opened(settings, tenant) as cell:
        deleted = cell.rows.execute(
            "delete from documents where tenant_id = %s and id %% %s = 0", (tenant, _GONE)
        ).rowcount
        changed = cell.rows.execute(
            "update documents set body = '' where tenant_id = %s and id %% %s = 1", (tenant, _SPOILT)
        ).rowcount
        keys = cell.key_names()
        for key in keys[::_GONE]:
            cell.keys.unlink(key)
        for key in keys[1::_SPOILT]:
            cell.keys.set(key, "?")
        files = [name for name, _ in cell.file_names()]
        for name in files[::_GONE]:
            cell.files.delete_object(Bucket=cell.bucket, Key=name)
        for name in files[1::_SPOILT]:
            cell.files.put_object(Bucket=cell.bucket, Key=name, Body=b"?")
        return Damage(
            rows=deleted + changed,
            keys=len({*keys[::_GONE], *keys[1::_SPOILT]}),
            files=len({*files[::_GONE], *files[1::_SPOILT]}),
        )


def contents(settings: CellSettings, tenant: str) -> Contents:
    """Everything that `spoil` may have touched, and what hangs on it. Keys that expire within an hour are left out."""
    found: dict[tuple[str, str], str] = {}
    with _opened(settings, tenant) as cell:
        for table, key in TABLES.items():
            query = sql.SQL("select {key}::text, md5(t::text) from {table} t where tenant_id = %s").format(
                key=sql.Identifier(key), table=sql.Identifier("public", table)
            )
            found |= {(table, name): digest for name, digest in cell.rows.execute(query, (tenant,))}
        soon = (time.time() + 3600) * 1000
        for name in cell.key_names():
            value, expires = _value(cell.keys, name), int(str(cell.keys.pexpiretime(name.decode())))
            if value is not None and (expires < 0 or expires > soon):
                found["keys", name.decode()] = hashlib.sha256(repr((value, expires)).encode()).hexdigest()
        found |= {("files", name): version for name, version in cell.file_names()}
    return found


def _value(keys: redis.Redis, name: bytes) -> object:
    """What a key holds, in an order that does not hang on how it was written (DUMP's does, of a hash or a set); None if
    it has expired."""
    match keys.type(name):
        case b"hash":
            return sorted(dict(keys.hgetall(name)).items()) or None
        case b"set":
            return sorted(set(keys.smembers(name))) or None
        case _:
            return keys.dump(name)


@contextmanager
def _opened(settings: CellSettings, tenant: str) -> Iterator[_Opened]:
    with (
        psycopg.connect(settings.postgres_dsn, autocommit=True) as rows,
        redis.Redis.from_url(settings.redis_url) as keys,
    ):
        files = s3_client(settings.objects)
        try:
            yield _Opened(rows=rows, keys=keys, files=files, bucket=settings.objects.bucket, tenant=tenant)
        finally:
            files.close()
