"""Objects as they go into a backup and come back: what `JournaledCapture` and `JournaledRestoring` need to know.

A record's key is the object's, its body the object's. The head has its `size`, its `headers` (content type, cache
control and the like), `metadata` and `tags`, each as pairs, and `md5` of the body unless that is long and its ETag is
another one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from tenure.errors import StoreUnavailable
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.journaled import STAMP, Packed, Place
from tenure.stores.journaled.backup_ports import Changed
from tenure.stores.s3.errors import ABSENT, code_of, translated
from tenure.stores.s3.objects import (
    ARCHIVES,
    CHANGED,
    PART_BYTES,
    Attributes,
    attributes_of,
    is_md5,
)

if TYPE_CHECKING:
    from tenure.stores.s3.store import S3Store

OTHER: Final = "*"
AHEAD: Final = 6
"""Small objects that are read, or written, at once."""
BLOCK_BYTES: Final = 1024 * 1024
HEADS: Final = 20
"""So few objects are asked for one by one; more are looked up in the listing."""
RESUMED: Final = 5
"""How often a body goes on where the connection broke."""
FRESH_S: Final = 2.0
"""Times of objects are whole seconds: one that is younger may change and look the same."""
_LITERAL: Final = re.compile(r"[^*?{\[]*")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """An object as it was at one moment. `contents` None: it is long, and to be asked for again when its turn comes."""

    key: str
    attributes: Attributes
    stamp: str
    contents: bytes | None


class ObjectItems:
    """Implements `Packing`: one tenant's current objects in one bucket, in the order of their keys."""

    form: Final = "s3-objects/1"

    def __init__(self, store: S3Store, tenant: TenantId) -> None:
        self._store: Final = store
        self._tenant: Final = tenant
        self._prefix: Final = store.prefix(tenant)
        self._listed: dict[str, str] = {}
        """Stamps of the keys that were given last."""

    def fresh(self) -> None:
        """Buckets show what was acknowledged."""

    def collections(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self._store.collections, OTHER)))

    def keys(self, collection: str) -> Iterator[Sequence[str]]:
        literal = _LITERAL.match(collection)
        begin = self._prefix + (literal[0] if literal else "")
        for page in self._pages(begin):
            found = [o for o in page if self._store.collection(self._tenant, o["Key"]) == collection]
            self._listed = {o["Key"]: _stamp(o["ETag"], o["LastModified"], o["Size"]) for o in found}
            yield list(self._listed)

    def _pages(self, prefix: str, after: str = "") -> Iterator[list[dict[str, Any]]]:
        with translated(self._store.where):
            yield from self._store.objects.pages(prefix, after)

    def stamps(self, collection: str, keys: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
        """From the listing that is under way where it shows these keys, and else from a new look."""
        found = {key: self._listed.pop(key) for key in keys if key in self._listed}
        missing = [key for key in keys if key not in found]
        if len(missing) > HEADS:
            found |= self._looked_up(missing)
        else:
            found |= {key: stamp for key in missing if (stamp := self._head(key)) is not None}
        return found

    def _head(self, key: str) -> str | None:
        with translated(f"{self._store.where}, {key!r}"):
            try:
                head = self._store.client.head_object(Bucket=self._store.bucket, Key=key)
            except ClientError as error:
                if code_of(error) in ABSENT:
                    return None
                raise
        return _stamp(head["ETag"], head["LastModified"], head["ContentLength"])

    def _looked_up(self, keys: Sequence[str]) -> dict[str, str]:
        first, *wanted = sorted(keys)
        stamp = self._head(first)
        found = {} if stamp is None else {first: stamp}
        left = set(wanted)
        for page in self._pages(self._prefix, first):
            found |= {
                o["Key"]: _stamp(o["ETag"], o["LastModified"], o["Size"]) for o in page if o["Key"] in left
            }
            if page and page[-1]["Key"] >= wanted[-1]:
                break
        return found

    def named(self, key: str) -> Iterable[Place]:
        if key.startswith(self._prefix):
            yield Place(self._store.collection(self._tenant, key), key)

    def suspects(self) -> Iterable[Place]:
        return ()

    # -- reading -----------------------------------------------------------------------------------------------------

    def pack(self, collection: str, keys: Sequence[str]) -> Iterator[Packed]:  # noqa: ARG002
        """Small objects some ahead; a long one is read when it is its turn."""
        waiting: deque[Future[Fetched | None]] = deque()
        try:
            for key in keys:
                waiting.append(self._store.pool.submit(self._fetch, key))
                if len(waiting) > AHEAD:
                    yield from self._packed(waiting.popleft().result())
            while waiting:
                yield from self._packed(waiting.popleft().result())
        finally:
            for left in waiting:
                left.cancel()

    def _fetch(self, key: str) -> Fetched | None:
        with translated(f"{self._store.where}, {key!r}"):
            opened = self._opened(key)
            if opened is None:
                return None
            fetched, body = opened
            try:
                long = fetched.attributes.size > PART_BYTES
                contents = None if long else body.read()
            finally:
                body.close()
        return Fetched(key=key, attributes=fetched.attributes, stamp=fetched.stamp, contents=contents)

    def _opened(self, key: str) -> tuple[Fetched, Any] | None:
        """The object, with its body still to be read; None if it is not there."""
        try:
            answer = self._store.client.get_object(Bucket=self._store.bucket, Key=key)
            tags = self._store.objects.tags(key, answer, thorough=self._store.endpoint is not None)
        except ClientError as error:
            if code_of(error) in ABSENT:
                return None
            raise
        stamp = _stamp(answer["ETag"], answer["LastModified"], answer["ContentLength"])
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).replace(tzinfo=UTC)
        if (now - answer["LastModified"]).total_seconds() < FRESH_S:
            stamp += " fresh"
        attributes = attributes_of(answer, tags)
        return Fetched(key=key, attributes=attributes, stamp=stamp, contents=None), answer["Body"]

    def _packed(self, found: Fetched | None) -> Iterator[Packed]:
        if found is None:
            return
        if found.contents is not None:
            known = self._trusted(found) or hashlib.md5(found.contents, usedforsecurity=False).hexdigest()
            yield _made(found, found.contents, known)
            return
        with translated(f"{self._store.where}, {found.key!r}"):
            opened = self._opened(found.key)
        if opened is not None:
            yield _made(opened[0], self._body(*opened), self._trusted(opened[0]))

    def _trusted(self, found: Fetched) -> str:
        etag = found.attributes.etag
        return etag if self._store.trust_etags and is_md5(etag) else ""

    def _body(self, found: Fetched, body: Any) -> Iterator[bytes]:
        """A long body, taken up again where the connection broke. Raises `Changed` if it is another object by then."""
        at, broken = 0, 0
        while True:
            try:
                for block in body.iter_chunks(BLOCK_BYTES):
                    at += len(block)
                    yield block
            except BotoCoreError as error:
                broken += 1
                if broken > RESUMED:
                    raise StoreUnavailable(
                        f"{self._store.where}: {found.key!r} cannot be read to its end: {error}",
                        hint="try again",
                    ) from error
            finally:
                body.close()
            if at >= found.attributes.size:
                return
            body = self._resumed(found, at)

    def _resumed(self, found: Fetched, at: int) -> Any:
        with translated(f"{self._store.where}, {found.key!r}"):
            try:
                return self._store.client.get_object(
                    Bucket=self._store.bucket,
                    Key=found.key,
                    Range=f"bytes={at}-",
                    IfMatch=f'"{found.attributes.etag}"',
                )["Body"]
            except ClientError as error:
                if code_of(error) in CHANGED | ABSENT:
                    raise Changed(found.key) from error
                raise

    # -- about the whole ---------------------------------------------------------------------------------------------

    def fingerprint(self, collection: str) -> str | None:  # noqa: ARG002
        return None

    def facts(self) -> Mapping[str, Any]:
        return {"prefix": self._prefix}

    def findings(self) -> Sequence[Finding]:
        """Current objects are backed up, with what they are besides their contents; not their older versions."""
        archived = [
            o["Key"] for page in self._pages(self._prefix) for o in page if o.get("StorageClass") in ARCHIVES
        ]
        frozen = [key for key in archived if not self._restored(key)]
        if not frozen:
            return ()
        return (
            Finding(
                severity=Severity.REFUSAL,
                code="archived",
                where=self._store.where,
                message=f"{len(frozen)} objects are archived and cannot be read, such as {frozen[0]!r}",
                fix="restore them (RestoreObject) for as long as the backup takes, or move them to another class",
            ),
        )

    def _restored(self, key: str) -> bool:
        with translated(f"{self._store.where}, {key!r}"):
            return self._store.objects.restored(key)

    def amount(self) -> tuple[int, int]:
        items = size = 0
        for page in self._pages(self._prefix):
            items += len(page)
            size += sum(o["Size"] for o in page)
        return items, size


def _stamp(etag: str, modified: Any, size: int) -> str:
    return f"{etag.strip(chr(34))} {int(modified.timestamp())} {size}"


def _made(found: Fetched, body: bytes | Iterator[bytes], md5: str) -> Packed:
    about = found.attributes
    head: dict[str, Any] = {
        STAMP: found.stamp,
        "size": about.size,
        "headers": about.headers,
        "metadata": about.metadata,
        "tags": about.tags,
    }
    if md5:
        head["md5"] = md5
        return _counted(found, head, body, _item(found.key, about.size, md5))
    summed = _Summed(body)
    return Packed(
        key=found.key,
        head=head,
        body=summed,
        items=1,
        size_bytes=about.size,
        digest=lambda: _item(found.key, about.size, summed.md5.hexdigest()),
    )


def _counted(found: Fetched, head: Mapping[str, Any], body: bytes | Iterator[bytes], item: int) -> Packed:
    return Packed(key=found.key, head=head, body=body, items=1, size_bytes=found.attributes.size, digest=item)


class _Summed:
    """A body whose MD5 is known once it was read."""

    def __init__(self, body: bytes | Iterator[bytes]) -> None:
        self._body = iter((body,)) if isinstance(body, bytes) else body
        self.md5 = hashlib.md5(usedforsecurity=False)

    def __iter__(self) -> Iterator[bytes]:
        for block in self._body:
            self.md5.update(block)
            yield block


def _item(key: str, size: int, md5: str) -> int:
    """What an object adds to `Store.inventory`."""
    content = json.dumps([key, size, md5]).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")
