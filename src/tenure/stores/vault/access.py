"""The requests that a vault makes of its bucket: conditional writes whose answers may be lost, reads of any version,
and locks that only grow."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

from botocore.exceptions import ClientError

from tenure.errors import StoreUnavailable
from tenure.stores.buckets.errors import ABSENT, code_of
from tenure.stores.buckets.listing import Version, version_pages
from tenure.stores.vault.contract import Lock, LockMode

T = TypeVar("T")
R = TypeVar("R")

ALWAYS: Final[Mapping[str, str]] = {}
ABSENT_NOW: Final[Mapping[str, str]] = {"IfNoneMatch": "*"}
IN_FLIGHT: Final = 64
"""How many requests `each` keeps ahead of what was taken."""
_FAILED: Final = frozenset({"PreconditionFailed", "412", *ABSENT})
_CONFLICT: Final = frozenset({"ConditionalRequestConflict", "409", "OperationAborted"})
_CONFLICT_PAUSES_S: Final = (0.05, 0.2, 0.8)
_NO_LOCKS: Final = frozenset(
    {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "NotImplemented", *ABSENT}
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object that was read. `now` is the server's clock at that time."""

    body: bytes
    etag: str
    modified: datetime
    now: datetime
    lock: Lock | None
    legal_hold: bool


class Access:
    """One bucket as one client sees it. Thread-safe. Raises what boto raises."""

    def __init__(self, client: Any, bucket: str, pool: ThreadPoolExecutor) -> None:
        self.client = client
        self.bucket = bucket
        self._pool = pool

    def read(self, key: str, version: str | None = None) -> Found | None:
        """None where there is no such object."""
        which = {} if version is None else {"VersionId": version}
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key, **which)
        except ClientError as error:
            if code_of(error) in {*ABSENT, "MethodNotAllowed"}:  # the latter: a delete marker
                return None
            raise
        return Found(
            body=answer["Body"].read(),
            etag=str(answer["ETag"]),
            modified=answer["LastModified"],
            now=_clock(answer),
            lock=_lock(answer),
            legal_hold=answer.get("ObjectLockLegalHoldStatus") == "ON",
        )

    def beginning(self, key: str, version: str | None, limit: int) -> tuple[bytes, Mapping[str, str]] | None:
        """The first bytes of an object and its metadata; None where there is no such object."""
        which = {} if version is None else {"VersionId": version}
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key, **which)
        except ClientError as error:
            if code_of(error) in {*ABSENT, "MethodNotAllowed"}:
                return None
            raise
        with answer["Body"] as body:
            return body.read(limit), answer.get("Metadata", {})

    def tags(self, key: str, version: str | None) -> Mapping[str, str]:
        """An object's tags; none where there is no such object."""
        which = {} if version is None else {"VersionId": version}
        try:
            answer = self.client.get_object_tagging(Bucket=self.bucket, Key=key, **which)
        except ClientError as error:
            if code_of(error) in {*ABSENT, "MethodNotAllowed"}:
                return {}
            raise
        return {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", [])}

    def put(
        self, key: str, body: bytes, condition: Mapping[str, str] = ALWAYS, *, lock: Lock | None = None
    ) -> str | None:
        """Write it; return its ETag, or None if the condition does not hold."""
        for pause_s in (*_CONFLICT_PAUSES_S, None):
            try:
                answer = self.client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=body,
                    # A bucket with locks wants it, and a server that checks it stores no damaged bytes.
                    ContentMD5=base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
                    **condition,
                    **_locked(lock),
                )
                return str(answer["ETag"])
            except ClientError as error:
                if condition and code_of(error) in _FAILED:
                    return None
                if not condition or code_of(error) not in _CONFLICT:
                    raise
            if pause_s is not None:
                time.sleep(pause_s)
        raise StoreUnavailable(f"{key!r} is being written by others all the time", hint="try again")

    def swap(
        self, key: str, body: bytes, condition: Mapping[str, str], *, lock: Lock | None = None
    ) -> str | None:
        """As `put`, with a body that nobody else writes: if it stands there already, a repeated request whose first
        answer was lost has put it there, and that counts as done."""
        etag = self.put(key, body, condition, lock=lock)
        if etag is None:
            found = self.read(key)
            etag = found.etag if found is not None and found.body == body else None
        return etag

    def delete_if(self, key: str, etag: str) -> bool:
        """Delete what has this ETag; False if it is another by now, or gone."""
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key, IfMatch=etag)
        except ClientError as error:
            if code_of(error) in {*_FAILED, *_CONFLICT}:
                return False
            raise
        return True

    def versions(self, prefix: str) -> Iterator[Version]:
        for page in version_pages(self.client, self.bucket, prefix):
            yield from page

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`work` of each, in their order, several at a time. The first error is raised in its place."""
        ahead = []
        for item in items:
            ahead.append(self._pool.submit(work, item))
            if len(ahead) >= IN_FLIGHT:
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()

    # -- locks -------------------------------------------------------------------------------------------------------

    def locks(self) -> Mapping[str, Any] | None:
        """The bucket's configuration of object lock; None where it has none."""
        try:
            answer = self.client.get_object_lock_configuration(Bucket=self.bucket)
        except ClientError as error:
            if code_of(error) in _NO_LOCKS:
                return None
            raise
        found: Mapping[str, Any] = answer.get("ObjectLockConfiguration", {})
        return found if found.get("ObjectLockEnabled") == "Enabled" else None

    def extend(self, key: str, lock: Lock) -> None:
        """Have the object locked at least that long and that strictly; a longer or stricter lock stays."""
        try:
            self._retain(key, lock)
        except ClientError as error:
            if code_of(error) not in ("AccessDenied", "403", "InvalidRequest"):
                raise
            there = self.lock_of(key)[0]
            if there is None or (there.mode, lock.mode) == (LockMode.GOVERNANCE, LockMode.COMPLIANCE):
                raise
            if there.until < lock.until:
                self._retain(key, Lock(mode=there.mode, until=lock.until))

    def _retain(self, key: str, lock: Lock) -> None:
        self.client.put_object_retention(
            Bucket=self.bucket, Key=key, Retention={"Mode": lock.mode.value, "RetainUntilDate": lock.until}
        )

    def lock_of(self, key: str, version: str | None = None) -> tuple[Lock | None, bool]:
        """The object's lock and whether it is on legal hold; `(None, False)` also where there is none."""
        which = {} if version is None else {"VersionId": version}
        try:
            head = self.client.head_object(Bucket=self.bucket, Key=key, **which)
        except ClientError as error:
            if code_of(error) in ABSENT:
                return None, False
            raise
        return _lock(head), head.get("ObjectLockLegalHoldStatus") == "ON"

    def now(self) -> datetime:
        """The server's clock."""
        return _clock(self.client.list_objects_v2(Bucket=self.bucket, Prefix=".tenure/", MaxKeys=1))


def _clock(answer: Mapping[str, Any]) -> datetime:
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])


def _lock(answer: Mapping[str, Any]) -> Lock | None:
    mode, until = answer.get("ObjectLockMode"), answer.get("ObjectLockRetainUntilDate")
    return Lock(mode=LockMode(mode), until=until) if mode and until else None


def _locked(lock: Lock | None) -> dict[str, Any]:
    if lock is None:
        return {}
    return {"ObjectLockMode": lock.mode.value, "ObjectLockRetainUntilDate": lock.until}
