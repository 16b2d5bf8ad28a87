"""A search through the buckets that a login can list, and a survey of the keys of one. Every version of every object is
looked at: key, body, metadata, headers and tags. A cursor is a bucket and a place in the listing of its versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from botocore.exceptions import ClientError

from tenure.catalogue.patterns import PLACEHOLDER
from tenure.catalogue.shapes import shape
from tenure.errors import StoreRefused
from tenure.model.matching import Match
from tenure.model.names import CellName, TenantId
from tenure.model.search import TENANT_KIND, Coverage, FindPage, Place, PlaceKind, Search, Survey
from tenure.stores import bodies
from tenure.stores.contract import Pace
from tenure.stores.finds import resumed
from tenure.stores.keyed import Counts, KeyMap
from tenure.stores.s3.errors import ABSENT, code_of
from tenure.stores.s3.objects import ARCHIVES, HEADERS, text_of

T = TypeVar("T")
VERSIONS_AT_ONCE: Final = 200
COUNTING_REQUESTS: Final = 50
"""Requests that are spent on learning how much there is; in larger buckets the total stays unknown."""
VERSIONS, UPLOADS = "versions", "uploads"
PARTS: Final = "the parts of an unfinished upload cannot be read"
_DENIED: Final = frozenset({"AccessDenied", "403", "AllAccessDisabled", "PermanentRedirect"})
_UNREADABLE: Final = {
    "InvalidObjectState": "archived: restore it to look into it",
    "AccessDenied": "the login may not read it",
    "403": "the login may not read it",
}
_ENCRYPTED: Final = "encrypted with a key of the app's own"
_CONFIGURED: Final = (
    ("get_bucket_policy", "policy"),
    ("get_bucket_tagging", "tags"),
    ("get_bucket_lifecycle_configuration", "lifecycle"),
)
_TENURES_SID: Final = "tenure"


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a store gives its search: its bucket and what the catalogue says of it."""

    cell: CellName
    client: Any
    bucket: str
    keymap: KeyMap
    pool: ThreadPoolExecutor
    others: frozenset[str]
    """Buckets of other stores, which search them themselves."""
    heads_show_tags: bool
    """A head counts the object's tags, so that those of an object without any need not be asked for."""
    translated: Callable[[], AbstractContextManager[None]]


def survey(where: Where, tenants: Collection[TenantId], pace: Pace) -> Survey:
    """See `Store.survey`: the patterns of the keys in the store's own bucket."""
    counts = Counts(where.keymap, tenants)
    with where.translated():
        for page in where.client.get_paginator("list_objects_v2").paginate(Bucket=where.bucket):
            found = page.get("Contents", [])
            for listed in found:
                counts.add(listed["Key"])
            pace(items=len(found), size_bytes=sum(len(o["Key"]) for o in found))
    return Survey(
        store=where.keymap.store,
        cell=where.cell,
        places=where.keymap.surveyed(PlaceKind.OBJECT_KEY, counts.named, counts.unnamed),
        gone=where.keymap.gone(PlaceKind.OBJECT_KEY, counts.named),
    )


def find(where: Where, search: Search, cursor: str | None, pace: Pace) -> Iterator[FindPage]:
    """See `Store.find`: bucket by bucket, the store's own first; in each its settings, versions, unfinished uploads."""
    return _Search(where, search, cursor, pace).pages()


@dataclass(frozen=True, kw_only=True)
class Version:
    """One entry of a bucket's listing. `id` is None for the version that is current."""

    bucket: str
    key: str
    id: str | None
    size: int
    marker: bool
    archived: bool


@dataclass(kw_only=True)
class Look:
    """What one version shows. `unseen` are reasons why something was not looked at."""

    found: dict[PlaceKind, frozenset[Match]] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()
    read_bytes: int = 0

    def unread(self, version: Version) -> int:
        """So many bytes of the body."""
        return version.size - self.read_bytes

    def note(self, kind: PlaceKind, matches: frozenset[Match]) -> None:
        self.found[kind] = self.found.get(kind, frozenset()) | matches


class _Search:
    def __init__(self, where: Where, search: Search, cursor: str | None, pace: Pace) -> None:
        self._where = where
        self._tally, self._at = resumed(search, cursor)
        self._pace = pace
        self._tenants = search.known | search.tenants
        self._hidden = tuple(i.value for i in search.identifiers if i.kind != TENANT_KIND)
        self._prefix = "" if search.everywhere else where.keymap.prefix.text.partition(PLACEHOLDER)[0]

    def pages(self) -> Iterator[FindPage]:
        with self._where.translated():
            buckets = self._buckets()
            self._count(buckets)
        resumes = self._at.get("bucket") in buckets
        for n, bucket in enumerate(buckets):
            if resumes and n < buckets.index(self._at["bucket"]):
                continue
            begun = self._at if resumes and self._at["bucket"] == bucket else {}
            yield from self._bucket(bucket, begun)
            last = n == len(buckets) - 1
            yield self._tally.page(None if last else {"bucket": buckets[n + 1]})

    def _buckets(self) -> list[str]:
        own = self._where.bucket
        if not self._tally.search.everywhere:
            return [own]
        try:
            listed = self._where.client.list_buckets().get("Buckets", [])
        except ClientError as error:
            if code_of(error) not in _DENIED:
                raise
            self._tally.skip(
                Place(kind=PlaceKind.BUCKET, name="*"), "the login may not list buckets", items=0
            )
            return [own]
        return [own, *sorted({b["Name"] for b in listed} - {own} - self._where.others)]

    def _count(self, buckets: list[str]) -> None:
        """Learn how much there is, if that takes no more than some requests."""
        requests = items = size = 0
        for bucket in buckets:
            marker: dict[str, str] = {}
            while True:
                requests += 1
                try:
                    page = self._listing(bucket, marker, 1000)
                except ClientError as error:
                    if bucket == self._where.bucket or code_of(error) not in _DENIED | ABSENT | {
                        "NoSuchBucket"
                    }:
                        raise
                    break
                versions = page.get("Versions", [])
                items += len(versions) + len(page.get("DeleteMarkers", []))
                size += sum(min(v["Size"], self._tally.search.body_limit_bytes) for v in versions)
                if not page.get("IsTruncated"):
                    break
                marker = _next(page)
                if requests >= COUNTING_REQUESTS:
                    return
        self._tally.items_total, self._tally.bytes_total = items, size

    def _listing(self, bucket: str, marker: Mapping[str, str], most: int) -> Any:
        return self._where.client.list_object_versions(
            Bucket=bucket, Prefix=self._prefix, MaxKeys=most, **marker
        )

    def _bucket(self, bucket: str, begun: Mapping[str, Any]) -> Iterator[FindPage]:
        tally = self._tally
        if not begun and tally.search.everywhere:
            self._allowed(bucket, partial(self._settings, bucket))
        if begun.get("step", VERSIONS) == VERSIONS:
            marker: dict[str, str] | None = dict(begun.get("marker", {}))
            while marker is not None:
                marker = self._allowed(bucket, partial(self._versions, bucket, marker))
                if marker is not None:
                    yield tally.page({"bucket": bucket, "step": VERSIONS, "marker": marker})
            yield tally.page({"bucket": bucket, "step": UPLOADS})
        self._allowed(bucket, partial(self._uploads, bucket))

    def _allowed(self, bucket: str, work: Callable[[], T]) -> T | None:
        """Do this; if the login may not, in a bucket that is not the store's own, say so instead."""
        try:
            with self._where.translated():
                return work()
        except StoreRefused:
            if bucket == self._where.bucket:
                raise
            self._tally.skip(Place(kind=PlaceKind.BUCKET, name=bucket), "the login may not look into it")
            return None

    def _settings(self, bucket: str) -> None:
        """The bucket's name, policy, tags and rules. What a server does not know is not there."""
        own, tally = bucket == self._where.bucket, self._tally
        place = Place(kind=PlaceKind.BUCKET, name=tally.clean(bucket))
        tally.add(tally.matcher.in_text(bucket), place, _undocumented)
        for operation, what in _CONFIGURED:
            try:
                answer = getattr(self._where.client, operation)(Bucket=bucket)
            except ClientError as error:
                if code_of(error) in _DENIED:
                    tally.skip(
                        Place(kind=PlaceKind.BUCKET, name=f"{place.name}: {what}"),
                        "the login may not read it",
                    )
                continue
            answer.pop("ResponseMetadata", None)
            for part, tenures in _statements(answer):
                tally.add(
                    tally.matcher.in_text(part),
                    Place(kind=PlaceKind.BUCKET, name=f"{place.name}: {what}"),
                    _tenures if own and tenures else _undocumented,
                )

    def _versions(self, bucket: str, marker: Mapping[str, str]) -> dict[str, str] | None:
        """Look at a page of versions; give the marker of the next one."""
        page = self._listing(bucket, marker, VERSIONS_AT_ONCE)
        found = [v for v in _listed(bucket, page) if self._tally.chosen(v.key)]
        if not self._tally.search.everywhere:
            found = [v for v in found if self._where.keymap.is_owned(v.key)]
        for version, look in zip(found, self._where.pool.map(self._look, found), strict=True):
            for kind, matches in look.found.items():
                self._add(matches, kind, bucket, version.key)
            for reason in look.unseen:
                self._tally.skip(
                    self._place(PlaceKind.OBJECT_BODY, bucket, version.key),
                    reason,
                    size_bytes=look.unread(version),
                )
            self._tally.looked(1, look.read_bytes)
        return _next(page) if page.get("IsTruncated") else None

    def _look(self, version: Version) -> Look:
        """Everything that one version shows, in threads."""
        matcher, look = self._tally.matcher, Look()
        if version.marker:
            look.found[PlaceKind.DELETE_MARKER] = matcher.in_text(version.key)
            self._pace(items=1, size_bytes=0)
            return look
        old = PlaceKind.OLD_VERSION if version.id is not None else None
        look.found[old or PlaceKind.OBJECT_KEY] = matcher.in_text(version.key)
        try:
            self._contents(version, look, old)
        except ClientError as error:
            code = code_of(error)
            if code in ABSENT:
                return look
            if code not in _UNREADABLE and code not in {"400", "InvalidRequest", "InvalidArgument"}:
                raise
            look.unseen = (*look.unseen, _UNREADABLE.get(code, _ENCRYPTED))
        self._pace(items=1, size_bytes=look.read_bytes)
        return look

    def _contents(self, version: Version, look: Look, old: PlaceKind | None) -> None:
        matcher, limit = self._tally.matcher, self._tally.search.body_limit_bytes
        which = {"Bucket": version.bucket, "Key": version.key}
        if version.id is not None:
            which["VersionId"] = version.id
        client = self._where.client
        if version.size and not version.archived:
            answer = client.get_object(**which, Range=f"bytes=0-{limit - 1}")
            body = answer["Body"].read()
            look.read_bytes = len(body)
            reading = bodies.read(matcher, body, size=version.size, limit=limit)
            look.unseen = reading.unseen
            look.note(old or PlaceKind.OBJECT_BODY, reading.matches)
        else:
            answer = client.head_object(**which)
            if version.archived:
                look.unseen = (_UNREADABLE["InvalidObjectState"],)
        lines = [f"{name}: {text_of(value)}" for name, value in answer.get("Metadata", {}).items()]
        lines += [text_of(str(answer[name])) for name in HEADERS if answer.get(name)]
        look.note(old or PlaceKind.OBJECT_METADATA, matcher.in_text("\n".join(lines)))
        if answer.get("TagCount") or not self._where.heads_show_tags:
            tags = client.get_object_tagging(**which)["TagSet"]
            text = "\n".join(f"{tag['Key']}: {tag['Value']}" for tag in tags)
            look.note(old or PlaceKind.OBJECT_TAGS, matcher.in_text(text))

    def _uploads(self, bucket: str) -> None:
        """The keys of unfinished uploads. Neither their parts nor their metadata can be read."""
        pages = self._where.client.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket, Prefix=self._prefix):
            uploads = page.get("Uploads", [])
            for upload in uploads:
                key = upload["Key"]
                self._add(self._tally.matcher.in_text(key), PlaceKind.UPLOAD, bucket, key)
                self._tally.skip(self._place(PlaceKind.UPLOAD, bucket, key), PARTS)
            self._tally.looked(len(uploads), 0)
            self._pace(items=len(uploads), size_bytes=0)

    def _add(self, matches: Collection[Match], kind: PlaceKind, bucket: str, key: str) -> None:
        if not matches:
            return
        own, place = bucket == self._where.bucket, self._place(kind, bucket, key)
        pattern = shape(key, self._tenants, self._hidden)
        entry = (
            self._where.keymap.entry(place.name)
            if own
            else self._where.keymap.entry(pattern, elsewhere=bucket)
        )
        coverage = partial(self._where.keymap.coverage, key) if own else _undocumented
        self._tally.add(matches, place, coverage, item=key, entry=entry)

    def _place(self, kind: PlaceKind, bucket: str, key: str) -> Place:
        if bucket == self._where.bucket:
            return Place(kind=kind, name=self._where.keymap.pattern(key, self._tenants, self._hidden)[0])
        return Place(
            kind=kind, name=f"{self._tally.clean(bucket)}: {shape(key, self._tenants, self._hidden)}"
        )


def _listed(bucket: str, page: Mapping[str, Any]) -> Iterator[Version]:
    for version in page.get("Versions", []):
        yield Version(
            bucket=bucket,
            key=version["Key"],
            id=None if version.get("IsLatest", True) else version["VersionId"],
            size=version["Size"],
            marker=False,
            archived=version.get("StorageClass") in ARCHIVES,
        )
    for marker in page.get("DeleteMarkers", []):
        yield Version(
            bucket=bucket, key=marker["Key"], id=marker["VersionId"], size=0, marker=True, archived=False
        )


def _next(page: Mapping[str, Any]) -> dict[str, str]:
    marker = {"KeyMarker": page["NextKeyMarker"]}
    if page.get("NextVersionIdMarker"):
        marker["VersionIdMarker"] = page["NextVersionIdMarker"]
    return marker


def _statements(answer: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The texts of a bucket's settings, each with whether it is a statement that Tenure made."""
    if "Policy" not in answer:
        yield json.dumps(answer, default=str, ensure_ascii=False), False
        return
    for statement in json.loads(answer["Policy"]).get("Statement", []):
        text = json.dumps(statement, ensure_ascii=False)
        yield text, str(statement.get("Sid", "")).lower().startswith(_TENURES_SID)


def _undocumented(_: TenantId) -> Coverage:
    return Coverage.UNDOCUMENTED


def _tenures(_: TenantId) -> Coverage:
    return Coverage.TENURE
