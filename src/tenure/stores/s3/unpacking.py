"""Objects out of a backup: what `JournaledRestoring` needs to know. How records are made is `backup`'s."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from tenure.backups.contract import Source
from tenure.errors import StoreRefused
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.journaled import Place
from tenure.stores.journaled.backup_ports import Allowed
from tenure.stores.records import Record, digest
from tenure.stores.s3.backup import AHEAD, ObjectItems
from tenure.stores.s3.errors import ABSENT, translated
from tenure.stores.s3.objects import MAX_PARTS, PART_BYTES, Attributes, Upload, is_md5

if TYPE_CHECKING:
    from tenure.stores.s3.store import S3Store

_DELETED_AT_ONCE: Final = 1000


class ObjectUnpacking(ObjectItems):
    """Implements `Unpacking`. Objects are the same if their contents, headers, metadata and tags are."""

    removes: Final = True

    def __init__(self, store: S3Store, tenant: TenantId, origin: TenantId) -> None:
        super().__init__(store, tenant)
        self._origin = store.prefix(origin)

    def about(self, source: Source) -> None:
        """What the objects' keys began with where they were."""
        self._origin = str(source.facts(self._store.name).get("prefix", self._origin))

    def here(self, place: Place) -> Place:
        if not place.key.startswith(self._origin):
            return place
        key = self._prefix + place.key.removeprefix(self._origin)
        return Place(self._store.collection(self._tenant, key), key)

    def takes(self, place: Place) -> bool:  # noqa: ARG002
        return True

    def stamps(self, collection: str, keys: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
        found = zip(keys, self._store.pool.map(self._contents, keys), strict=True)
        return {key: stamp for key, stamp in found if stamp is not None}

    def _contents(self, key: str) -> str | None:
        with translated(f"{self._store.where}, {key!r}"):
            about = self._store.objects.attributes(key)
            if about is None:
                return None
            trusted = self._store.trust_etags and is_md5(about.etag)
            md5 = about.etag if trusted else self._store.objects.md5(key)
        return _same(about.size, md5, about.headers, about.metadata, about.tags)

    def stamp(self, record: Record) -> str:
        head = record.head
        md5 = head.get("md5")
        if md5 is None:
            state = hashlib.md5(usedforsecurity=False)
            for block in record.body:
                state.update(block)
            md5 = state.hexdigest()
        return _same(head["size"], md5, head["headers"], head["metadata"], head["tags"])

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, records: Iterator[tuple[Place, Record]], allowed: Allowed) -> Iterator[tuple[int, int]]:
        """Some small objects are under way at once; a long one goes up in parts, one after the other."""
        under_way: deque[Future[int]] = deque()
        try:
            for place, record in records:
                self._require_own(place.key)
                about = _attributes(record.head)
                if about.size > PART_BYTES:
                    yield 1, self._in_parts(place.key, about, record.body, allowed)
                    continue
                contents = record.whole()
                under_way.append(self._store.pool.submit(self._put, place.key, about, contents, allowed))
                if len(under_way) > AHEAD:
                    yield 1, under_way.popleft().result()
            while under_way:
                yield 1, under_way.popleft().result()
        finally:
            for left in under_way:
                left.cancel()

    def _require_own(self, key: str) -> None:
        if not key.startswith(self._prefix):
            raise StoreRefused(
                f"{self._store.where}: the backup has {key!r}, which is nothing of {self._tenant}"
            )

    def _put(self, key: str, about: Attributes, contents: bytes, allowed: Allowed) -> int:
        allowed()
        with translated(f"{self._store.where}, {key!r}"):
            self._store.client.put_object(
                Bucket=self._store.bucket, Key=key, Body=contents, **about.as_arguments()
            )
        return about.size

    def _in_parts(self, key: str, about: Attributes, body: Iterator[bytes], allowed: Allowed) -> int:
        part_bytes = max(PART_BYTES, -(-about.size // MAX_PARTS))
        with (
            translated(f"{self._store.where}, {key!r}"),
            Upload(self._store.objects, key, about, {}, lambda _within_s: allowed()) as upload,
        ):
            for n, part in enumerate(_parts(body, part_bytes), 1):
                answer = self._store.client.upload_part(**upload.arguments, PartNumber=n, Body=part)
                upload.parts.append(str(answer["ETag"]))
        return about.size

    def remove(self, collection: str, keys: Sequence[str], allowed: Allowed) -> None:  # noqa: ARG002
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            some = keys[start : start + _DELETED_AT_ONCE]
            for key in some:
                self._require_own(key)
            allowed()
            with translated(self._store.where):
                answer = self._store.client.delete_objects(
                    Bucket=self._store.bucket,
                    Delete={"Objects": [{"Key": key} for key in some], "Quiet": True},
                )
            kept = [e for e in answer.get("Errors", []) if e.get("Code") not in ABSENT]
            if kept:
                first = f"{kept[0]['Key']}: {kept[0].get('Code')}"
                raise StoreRefused(f"{self._store.where} kept {len(kept)} objects, the first one {first}")

    def backup_findings(self, source: Source) -> Sequence[Finding]:  # noqa: ARG002
        with translated(self._store.where):
            link = self._store.fencing(self._tenant).read()[0].link
        if not link:
            return ()
        return (
            Finding(
                severity=Severity.REFUSAL,
                code="linked",
                where=self._store.where,
                message=f"a link of {self._tenant} is there: it would carry, or lose, what is restored",
                fix="complete or roll back the move first",
            ),
        )


def _attributes(head: Mapping[str, Any]) -> Attributes:
    def pairs(of: str) -> tuple[tuple[str, str], ...]:
        return tuple((str(name), str(value)) for name, value in head[of])

    return Attributes(
        size=int(head["size"]),
        etag="",
        headers=pairs("headers"),
        metadata=pairs("metadata"),
        tags=pairs("tags"),
        plain=False,
    )


def _same(size: int, md5: str, *about: Sequence[Sequence[str]]) -> str:
    content = json.dumps([size, md5, *(sorted(map(list, pairs)) for pairs in about)]).encode()
    return digest(content).hex()


def _parts(body: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The body in parts of at least that size, but for the last."""
    blocks: list[bytes] = []
    length = 0
    for block in body:
        blocks.append(block)
        length += len(block)
        if length >= size:
            part = b"".join(blocks)
            blocks.clear()
            length = 0
            yield part
            del part
    if blocks:
        yield b"".join(blocks)
