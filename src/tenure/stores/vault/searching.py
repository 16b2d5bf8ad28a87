"""Where identifiers appear in a vault's bucket, and what lies there that is no backup. Ciphertext is not looked into,
and said not to be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

from tenure.catalogue import Template
from tenure.catalogue.patterns import PLACEHOLDER
from tenure.catalogue.shapes import shape
from tenure.model.matching import Match
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import (
    Coverage,
    FindPage,
    Gone,
    Place,
    PlaceKind,
    Search,
    Survey,
    Surveyed,
)
from tenure.stores.bodies import read
from tenure.stores.buckets.listing import Version, upload_pages, version_pages
from tenure.stores.contract import Pace
from tenure.stores.finds import Tally, resumed
from tenure.stores.vault.access import Access
from tenure.stores.vault.holder import RESERVED
from tenure.stores.vault.writing import version_id

PAGE_ITEMS: Final = 500
PAGE_BYTES: Final = 16 * 1024 * 1024
CIPHERTEXT: Final = "encrypted with the tenant's data key: only its name was looked at"


class _Parts:
    """Whose part of the bucket a key is in, and what sort of thing it is."""

    def __init__(self, prefix: Template) -> None:
        self._text = prefix.text
        self._above, self._after = prefix.text.split(PLACEHOLDER)

    def owner(self, key: str) -> str | None:
        """The tenant in whose part it is; None outside all parts."""
        if not key.startswith(self._above):
            return None
        tenant, found, _ = key.removeprefix(self._above).partition(self._after)
        # The delimiter that follows is in no tenant's id, so what stands before it is a whole one, or none.
        return tenant if found and tenant and not set(tenant) & set(":/") else None

    def rest(self, key: str, owner: str) -> str:
        return key.removeprefix(self._text.replace(PLACEHOLDER, owner))

    def place(self, key: str, tenants: Collection[str]) -> Place:
        """Where it is, as the catalogue would say it."""
        owner = self.owner(key)
        if owner is None:
            return Place(kind=PlaceKind.OBJECT_KEY, name=shape(key, tenants))
        part = self.rest(key, owner).partition("/")[0]
        return Place(kind=PlaceKind.VAULT_ENTRY, name=f"{self._text}{part}/*")

    def encrypted(self, key: str) -> bool:
        owner = self.owner(key)
        return owner is not None and self.rest(key, owner).startswith("chunks/")

    def coverage(self, key: str, tenant: TenantId) -> Coverage:
        if key.startswith(RESERVED):
            return Coverage.TENURE
        owner = self.owner(key)
        if owner is None:
            return Coverage.UNDOCUMENTED
        return Coverage.OWN if owner == tenant else Coverage.NEIGHBOUR


def survey(
    access: Access,
    prefix: Template,
    tenants: Collection[TenantId],
    *,
    store: StoreName,
    cell: CellName,
    pace: Pace,
) -> Survey:
    """See `Store.survey`."""
    parts, counts, known = _Parts(prefix), dict[tuple[Place, bool], int](), frozenset(tenants)
    for page in version_pages(access.client, access.bucket, ""):
        pace(items=len(page), size_bytes=0)
        for version in page:
            if version.key.startswith(RESERVED):
                continue
            owner = parts.owner(version.key)
            place = (
                Place(kind=PlaceKind.VAULT_ENTRY, name=prefix.text)
                if owner in known
                else Place(kind=PlaceKind.OBJECT_KEY, name=shape(version.key, known))
            )
            counted = (place, owner in known)
            counts[counted] = counts.get(counted, 0) + 1
    places = tuple(
        Surveyed(
            place=place,
            classified=classified,
            items=items,
            remark=""
            if classified
            else "no backup of a tenant that there is: it does not belong into a vault",
        )
        for (place, classified), items in sorted(counts.items())
    )
    own = Place(kind=PlaceKind.VAULT_ENTRY, name=prefix.text)
    gone = () if any(p.place == own for p in places) else (Gone(place=own, where="prefix", empty=True),)
    return Survey(store=store, cell=cell, places=places, gone=gone)


def find(
    access: Access, prefix: Template, search: Search, *, cursor: str | None, pace: Pace
) -> Iterator[FindPage]:
    """See `Store.find`."""
    tally, at = resumed(search, cursor)
    looker = _Looker(access, _Parts(prefix), tally, pace)
    size = 0
    if at.get("part") != "uploads":
        pages = version_pages(access.client, access.bucket, "", str(at.get("after", "")))
        versions = (version for page in pages for version in page)
        for n, (key, group) in enumerate(groupby(versions, key=lambda v: v.key), 1):
            if looker.wanted(key):
                size += looker.look(key, list(group))
            if n % PAGE_ITEMS == 0 or size >= PAGE_BYTES:
                yield tally.page({"part": "objects", "after": key})
                size = 0
        yield tally.page({"part": "uploads"})
    for page in upload_pages(access.client, access.bucket, ""):
        for upload in page:
            if looker.wanted(upload["Key"]):
                looker.name(upload["Key"], PlaceKind.UPLOAD)
    yield tally.page(None)


class _Looker:
    def __init__(self, access: Access, parts: _Parts, tally: Tally, pace: Pace) -> None:
        self._access = access
        self._parts = parts
        self._tally = tally
        self._pace = pace
        self._tenants = tally.search.known | tally.search.tenants

    def wanted(self, key: str) -> bool:
        documented = key.startswith(RESERVED) or self._parts.owner(key) is not None
        return (documented or self._tally.search.everywhere) and self._tally.chosen(key)

    def name(self, key: str, kind: PlaceKind | None = None) -> Place:
        """Look at the key itself."""
        place = self._parts.place(key, self._tenants)
        if kind is not None:
            place = replace(place, kind=kind)
        self._add(self._tally.matcher.in_bytes(key.encode("utf-8", "surrogateescape")), place, key)
        self._tally.looked(1, 0)
        return place

    def look(self, key: str, versions: Sequence[Version]) -> int:
        """Look at the key, and at every version of what is in the clear; return how many bytes were read."""
        place = self.name(key)
        stored = [v for v in versions if not v.marker]
        if self._parts.encrypted(key):
            self._tally.skip(
                place, CIPHERTEXT, items=len(stored), size_bytes=sum(version.size for version in stored)
            )
            return 0
        return sum(self._version(key, version, place) for version in stored)

    def _version(self, key: str, version: Version, place: Place) -> int:
        limit, which = self._tally.search.body_limit_bytes, version_id(version.version)
        answer = self._access.beginning(key, which, limit)
        if answer is None:
            return 0
        body, metadata = answer
        kinds = _KINDS if place.kind is PlaceKind.OBJECT_KEY else {}
        where = replace(place, kind=kinds.get("body" if version.latest else "old", place.kind))
        reading = read(self._tally.matcher, body, size=version.size, limit=limit)
        self._add(reading.matches, where, key)
        for reason in reading.unseen:
            self._tally.skip(where, reason, size_bytes=max(version.size - len(body), 0))
        self._labels(metadata, replace(place, kind=kinds.get("metadata", place.kind)), key)
        if kinds:
            self._labels(self._access.tags(key, which), replace(place, kind=kinds["tags"]), key)
        self._tally.looked(0, len(body))
        self._pace(items=1, size_bytes=len(body))
        return len(body)

    def _labels(self, labels: Mapping[str, str], place: Place, key: str) -> None:
        for name, value in labels.items():
            self._add(self._tally.matcher.in_text(f"{name}={value}"), place, key)

    def _add(self, matches: frozenset[Match], place: Place, key: str) -> None:
        self._tally.add(matches, place, lambda tenant: self._parts.coverage(key, tenant), item=key)


_KINDS: Final = {
    "body": PlaceKind.OBJECT_BODY,
    "old": PlaceKind.OLD_VERSION,
    "metadata": PlaceKind.OBJECT_METADATA,
    "tags": PlaceKind.OBJECT_TAGS,
}
"""What is looked at of an object that is no part of a backup."""
