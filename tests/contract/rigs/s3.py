"""Two buckets, of one SeaweedFS (`s3`: copies by the server) or of two (`s3-streamed`); the app writes with its own
key, and says in a journal what it writes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tenure.estate.local import S3Endpoint
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Place, PlaceKind
from tenure.model.secret import Secret
from tenure.stores.contract import Fence, Mutex
from tenure.stores.s3 import S3Copy, S3Store
from tests.contract.rigs.protocol import AppRefused, Rig, Side, Stray

KINDS = ("s3", "s3-streamed")
VARIANTS = ("s3-streamed",)
PREFIX = "tenants/{tenant}/"
PATTERN = "files/*"


def make(kind: str, request: pytest.FixtureRequest) -> Rig:
    fresh = request.getfixturevalue("fresh_bucket")
    other = "seaweed-b" if kind == "s3-streamed" else "seaweed-a"
    return S3Rig(kind, {Side.BLUE: fresh("seaweed-a"), Side.GREEN: fresh(other)})


class MemoryJournal:
    """A `tenure.stores.contract.Journal`; what is touched before `begin` is not recorded, as in the real one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._recording: set[TenantId] = set()
        self.readers: set[tuple[TenantId, StoreName, str]] = set()
        self.read_rows: dict[int, tuple[TenantId, StoreName, str, str]] = {}
        self.rows: dict[int, tuple[TenantId, StoreName, str]] = {}

    def touch(self, tenant: TenantId, store: StoreName, key: str) -> None:
        with self._lock:
            if tenant in self._recording:
                self.rows[next(self._ids)] = (tenant, store, key)
            for of, at, reader in self.readers:
                if (of, at) == (tenant, store):
                    self.read_rows[next(self._ids)] = (tenant, store, reader, key)

    def begin(self, tenant: TenantId, fence: Fence, *, deadline_s: float = 10.0) -> None:
        with self._lock:
            self._recording.add(tenant)

    def pending(self, tenant: TenantId, store: StoreName) -> Sequence[tuple[int, str]]:
        with self._lock:
            return [(n, key) for n, (t, s, key) in self.rows.items() if (t, s) == (tenant, store)]

    def settle(self, tenant: TenantId, ids: Sequence[int]) -> None:
        with self._lock:
            for n in ids:
                self.rows.pop(n, None)
                self.read_rows.pop(n, None)

    def subscribe(
        self, tenant: TenantId, store: StoreName, reader: str, fence: Fence, *, deadline_s: float = 10.0
    ) -> None:
        self.unsubscribe(tenant, store, reader, fence)
        with self._lock:
            self.readers.add((tenant, store, reader))

    def unread(
        self, tenant: TenantId, store: StoreName, reader: str, *, most: int
    ) -> Sequence[tuple[int, str]]:
        with self._lock:
            return [(n, key) for n, (*of, key) in self.read_rows.items() if of == [tenant, store, reader]][
                :most
            ]

    def unsubscribe(self, tenant: TenantId, store: StoreName, reader: str, fence: Fence) -> None:
        with self._lock:
            self.readers.discard((tenant, store, reader))
            self.read_rows = {n: r for n, r in self.read_rows.items() if r[:3] != (tenant, store, reader)}


class ProcessMutex:
    """`Mutex` for tests: one lock per name, which cannot be lost."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[], None]]:
        with self._locks.setdefault(name, threading.Lock()):
            yield lambda: None


class S3Rig:
    def __init__(
        self,
        kind: str,
        buckets: Mapping[Side, tuple[S3Endpoint, str]],
        *,
        journaled: bool = True,
        principal: str | None = "app",
    ) -> None:
        self.kind = kind
        self.buckets = buckets
        self.journals = {side: MemoryJournal() for side in Side} if journaled else None
        self.principal = principal
        self.trust_etags = True
        self.mutex: Mutex = ProcessMutex()
        self.admin = {side: client(s3, s3.access_key, s3.secret_key) for side, (s3, _) in buckets.items()}
        self.app = {
            side: client(s3, s3.app_access_key, s3.app_secret_key) for side, (s3, _) in buckets.items()
        }
        self._made: list[S3Store] = []
        self._copies: list[S3Copy] = []

    def store(self, side: Side, **changes: Any) -> S3Store:
        s3, bucket = self.buckets[side]
        options: dict[str, Any] = {
            "name": StoreName("objects"),
            "cell": CellName(side.value),
            "endpoint": s3.endpoint,
            "bucket": bucket,
            "region": s3.region,
            "access_key": s3.access_key,
            "secret_key": s3.secret_key,
            "prefix": PREFIX,
            "principal": self.principal,
            "mutex": self.mutex,
            "collections": (PATTERN,),
            "trust_etags": self.trust_etags,
            "journal": None if self.journals is None else self.journals[side],
        }
        store = S3Store(**{**options, **changes})
        self._made.append(store)
        return store

    def copy(self, tenant: TenantId, source: Side, target: Side) -> S3Copy:
        copy = S3Copy(
            link=f"link-{tenant}",
            tenant=tenant,
            source=self.store(source),
            target=self.store(target),
            source_journal=self.journals[source] if self.journals is not None else None,
            target_journal=self.journals[target] if self.journals is not None else None,
        )
        self._copies.append(copy)
        return copy

    def key(self, tenant: TenantId, item: str) -> str:
        return f"tenants/{tenant}/files/{item}"

    def touch(self, side: Side, tenant: TenantId, key: str) -> None:
        if self.journals is not None:
            self.journals[side].touch(tenant, StoreName("objects"), key)

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        key = self.key(tenant, item)
        with refusal():
            self.app[side].put_object(
                Bucket=self.buckets[side][1], Key=key, Body=value.encode(), Metadata={"item": item}
            )
        self.touch(side, tenant, key)

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        key = self.key(tenant, item)
        with refusal():
            self.app[side].delete_object(Bucket=self.buckets[side][1], Key=key)
        self.touch(side, tenant, key)

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        bucket, start = self.buckets[side][1], self.key(tenant, "")
        found = self.admin[side].list_objects_v2(Bucket=bucket, Prefix=start).get("Contents", [])
        return {
            o["Key"].removeprefix(start): self.admin[side]
            .get_object(Bucket=bucket, Key=o["Key"])["Body"]
            .read()
            .decode()
            for o in found
        }

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        bucket, key = self.buckets[side][1], self.key(tenant, item)
        if value is None:
            self.admin[side].delete_object(Bucket=bucket, Key=key)
        else:
            self.admin[side].put_object(Bucket=bucket, Key=key, Body=value.encode())

    def stray(self, side: Side, text: str) -> Stray:
        key = f"exports/{secrets.token_hex(4)}.csv"
        self.admin[side].put_object(Bucket=self.buckets[side][1], Key=key, Body=text.encode())
        return Stray(
            place=Place(kind=PlaceKind.OBJECT_BODY, name="exports/*"),
            coverage=Coverage.UNDOCUMENTED,
            surveyed=Place(kind=PlaceKind.OBJECT_KEY, name="exports/*"),
        )

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        return PATTERN, json.dumps(self.key(tenant, item))

    def leftovers(self, side: Side) -> Sequence[str]:
        bucket = self.buckets[side][1]
        keys = [
            o["Key"]
            for o in self.admin[side].list_objects_v2(Bucket=bucket, Prefix=".tenure/").get("Contents", [])
        ]
        rows = [str(row) for row in self.journals[side].rows.values()] if self.journals is not None else []
        if self.journals is not None:
            rows += [
                str(kept) for kept in (*self.journals[side].readers, *self.journals[side].read_rows.values())
            ]
        with contextlib.suppress(ClientError):
            keys.append(self.admin[side].get_bucket_policy(Bucket=bucket)["Policy"])
        uploads = self.admin[side].list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return [*keys, *rows, *(u["Key"] for u in uploads)]

    def unreachable(self) -> S3Store:
        return self.store(Side.BLUE, endpoint="http://127.0.0.1:1")

    def wrong_password(self) -> S3Store:
        return self.store(Side.BLUE, secret_key=Secret("wrong-password"))

    def close(self) -> None:
        copies = list(self._copies)
        while copies:
            copy = copies.pop()
            copies += copy.armed_reverse()
            copy.detach()
        for store in self._made:
            store.close()


@functools.cache
def client(s3: S3Endpoint, access_key: Secret, secret_key: Secret) -> Any:
    """One client per server and user for all tests: making one takes longer than most tests."""
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=access_key.reveal(),
        aws_secret_access_key=secret_key.reveal(),
    )


@contextlib.contextmanager
def refusal() -> Iterator[None]:
    """Turns the server's refusal into `AppRefused`."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        raise AppRefused from error
