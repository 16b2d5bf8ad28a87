"""Where identifiers appear in an index: names of namespaces, ids and metadata of records; and in the project's other
indexes. Values of vectors are numbers and are not looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from tenure.catalogue.patterns import PLACEHOLDER
from tenure.catalogue.shapes import shape
from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.model.search import TENANT_KIND, Coverage, Entry, FindPage, Place, PlaceKind, Search
from tenure.stores.contract import Pace
from tenure.stores.finds import Tally, resumed
from tenure.stores.pinecone.client import IndexClient, all_namespaces
from tenure.stores.pinecone.listing import listed
from tenure.stores.pinecone.records import Record

if TYPE_CHECKING:
    from tenure.stores.pinecone.store import PineconeStore

BATCH: Final = 200
NO_PROJECT: Final = (
    "the project's other indexes are not known: give the store's `index` or `control` in tenure.yaml"
)
OWN: Final = ""
"""The store's own index, in cursors and names."""


def found(store: PineconeStore, search: Search, cursor: str | None, pace: Pace) -> Iterator[FindPage]:
    """See `Store.find`."""
    tally, at = resumed(search, cursor)
    yield from _Finding(store, tally, pace).pages(at)
    yield tally.page(None)


class _Finding:
    """One search, in one thread."""

    def __init__(self, store: PineconeStore, tally: Tally, pace: Pace) -> None:
        self._store = store
        self._tally = tally
        self._pace = pace
        self._tenants = tally.search.known | tally.search.tenants
        self._hidden = tuple(i.value for i in tally.search.identifiers if i.kind != TENANT_KIND)

    def pages(self, at: Mapping[str, Any]) -> Iterator[FindPage]:
        """All pages but the last, from that place on."""
        begin = str(at.get("index", OWN))
        others = self._others() if self._tally.search.everywhere else {}
        for index in (OWN, *sorted(others)):
            if index < begin:
                continue
            here = at if index == begin else {}
            if index == OWN:
                yield from self._index(self._store.client, index, here)
                continue
            if not here:
                self._look(
                    index, Place(kind=PlaceKind.INDEX, name=self._tally.clean(index)), self._elsewhere, index
                )
            try:
                with closing(self._store.client_at(others[index])) as client:
                    yield from self._index(client, index, here)
            except (StoreRefused, StoreUnavailable) as error:
                place = Place(kind=PlaceKind.INDEX, name=self._tally.clean(index))
                self._tally.skip(place, f"cannot be read: {error.code}")

    def _others(self) -> Mapping[str, str]:
        """The hosts of the project's other indexes, but for those that are stores of the estate themselves."""
        place = Place(kind=PlaceKind.INDEX, name="*")
        if not self._store.has_project:
            self._tally.skip(place, NO_PROJECT)
            return {}
        known = {self._store.client.host, *self._store.siblings}
        try:
            with closing(self._store.project()) as project:
                hosts = project.hosts()
        except (StoreRefused, StoreUnavailable) as error:
            self._tally.skip(place, f"the project's indexes cannot be listed: {error.code}")
            return {}
        return {name: host for name, host in hosts.items() if not {name, host} & known}

    def _index(self, client: IndexClient, index: str, at: Mapping[str, Any]) -> Iterator[FindPage]:
        counts: dict[str, int] = {}
        for page in all_namespaces(client):
            counts |= page
            self._pace(items=len(page), size_bytes=sum(map(len, page)))
        if not self._tally.search.everywhere:
            ours = {self._store.namespace(tenant) for tenant in self._tenants}
            counts = {name: n for name, n in counts.items() if name in ours}
        if index == OWN:
            self._tally.items_total = sum(counts.values())
        begin = str(at.get("namespace", ""))
        for namespace in sorted(name for name in counts if name >= begin):
            resumes = namespace == begin and "namespace" in at
            if not resumes and not self._owners(index, namespace):
                self._look(
                    namespace, self._place(PlaceKind.NAMESPACE, index, namespace), self._of(index, namespace)
                )
            yield from self._records(client, index, namespace, str(at.get("after", "")) if resumes else "")

    def _records(self, client: IndexClient, index: str, namespace: str, after: str) -> Iterator[FindPage]:
        coverage = self._of(index, namespace)
        for page in listed(client, namespace, after=after):
            chosen = [one for one in page if self._tally.chosen(one)]
            records = client.fetch(namespace, chosen) if chosen else {}
            size = 0
            for record in records.values():
                size += self._record(record, index, namespace, coverage)
            for owner in self._owners(index, namespace):
                self._tally.own(owner, self._place(PlaceKind.NAMESPACE, index, namespace), len(page))
            self._tally.looked(len(page), size)
            self._pace(items=len(page), size_bytes=size)
            yield self._tally.page({"index": index, "namespace": namespace, "after": page[-1]})

    def _record(
        self, record: Record, index: str, namespace: str, coverage: Callable[[TenantId], Coverage]
    ) -> int:
        """Look at one record; return how much was looked at."""
        self._look(record.id, self._place(PlaceKind.RECORD_ID, index, namespace), coverage, record.id)
        size = len(record.id)
        for field, value in record.metadata.items():
            place = self._place(PlaceKind.RECORD_METADATA, index, namespace, field)
            for text in (field, *texts(value)):
                size += len(text)
                limit = self._tally.search.body_limit_bytes
                if len(text) > limit:
                    self._tally.skip(place, "longer than the limit", size_bytes=len(text) - limit)
                self._look(text[:limit], place, coverage, record.id)
        return size

    def _look(
        self, text: str, place: Place, coverage: Callable[[TenantId], Coverage], item: str = ""
    ) -> None:
        matches = self._tally.matcher.in_text(text)
        if matches:
            self._tally.add(matches, place, coverage, item=item or text, entry=self._entry(place))

    def _of(self, index: str, namespace: str) -> Callable[[TenantId], Coverage]:
        """What the namespace is to a tenant."""
        if index != OWN:
            return self._elsewhere
        owners = self._owners(index, namespace)
        nobody = Coverage.IGNORED if self._store.ignores(namespace) else Coverage.UNDOCUMENTED

        def coverage(tenant: TenantId) -> Coverage:
            if tenant in owners:
                return Coverage.OWN
            return Coverage.NEIGHBOUR if owners else nobody

        return coverage

    def _owners(self, index: str, namespace: str) -> frozenset[TenantId]:
        """Whose the namespace is by the catalogue."""
        if index != OWN:
            return frozenset()
        return frozenset(t for t in self._tenants if self._store.namespace(t) == namespace)

    @staticmethod
    def _elsewhere(tenant: TenantId) -> Coverage:  # noqa: ARG004
        return Coverage.UNDOCUMENTED

    def _place(self, kind: PlaceKind, index: str, namespace: str, field: str = "") -> Place:
        name = self._pattern(namespace)
        if field:
            name = f"{name}.{field if not self._tally.matcher.in_text(field) else '*'}"
        return Place(kind=kind, name=f"{self._tally.clean(index)}: {name}" if index else name)

    def _pattern(self, name: str) -> str:
        return pattern(name, self._tenants, self._hidden)

    def _entry(self, place: Place) -> Mapping[str, Entry] | None:
        """Nothing where tenants share a namespace: what is one tenant's there, the catalogue cannot say."""
        index, _, rest = place.name.rpartition(": ")
        namespace = rest.split(".")[0]
        named = PLACEHOLDER in namespace
        return proposed(f"{self._store.name}-{index or 'more'}", namespace) if named else None


def pattern(name: str, tenants: Collection[str], hidden: Collection[str] = ()) -> str:
    """The pattern of names like this one, with `{tenant}` where a tenant's id stands by itself in it."""
    for tenant in sorted((t for t in tenants if t in name), key=len, reverse=True):
        alone = re.sub(rf"(?<![A-Za-z0-9]){re.escape(tenant)}(?![A-Za-z0-9])", PLACEHOLDER, name, count=1)
        if alone != name and not any(value in alone for value in hidden):
            return alone
    return shape(name, tenants, hidden)


def proposed(name: str, namespace: str) -> Mapping[str, Entry]:
    """What the catalogue could say of namespaces that it does not name, from the list of stores on."""
    known = "".join(one if one.isalnum() else "-" for one in name.lower())[:31].strip("-")
    return {known: {"kind": "pinecone", "namespace": namespace, "journal": "postgres", "fields": {}}}


def texts(value: object) -> tuple[str, ...]:
    """The texts in a metadata value."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(one for one in value if isinstance(one, str))
    return () if isinstance(value, bool) else (str(value),)
