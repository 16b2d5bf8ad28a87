"""What exists in an index against the catalogue: its namespaces, and the metadata fields of their records."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from tenure.catalogue.guesses import class_of
from tenure.catalogue.patterns import PLACEHOLDER
from tenure.model.names import TenantId
from tenure.model.search import Gone, Place, PlaceKind, Skipped, Survey, Surveyed
from tenure.stores.contract import Pace
from tenure.stores.pinecone.client import all_namespaces
from tenure.stores.pinecone.find import pattern, proposed
from tenure.stores.pinecone.listing import listed

if TYPE_CHECKING:
    from tenure.stores.pinecone.store import PineconeStore

TYPE: Final = "text"
"""What a metadata field may hold, whatever it holds now."""


def surveyed(store: PineconeStore, tenants: Collection[TenantId], pace: Pace) -> Survey:
    """See `Store.survey`. Every record of the tenants' namespaces is read: fields are in records and nowhere else."""
    owned = {store.namespace(tenant) for tenant in tenants}
    strays: dict[str, int] = {}
    ignored: dict[str, int] = {}
    records = 0
    fields: dict[str, int] = dict.fromkeys(store.fields, 0)
    for page in all_namespaces(store.client):
        pace(items=len(page), size_bytes=sum(map(len, page)))
        for namespace, count in page.items():
            if namespace not in owned:
                which = ignored if store.ignores(namespace) else strays
                name = pattern(namespace, tenants)
                which[name] = which.get(name, 0) + count
                continue
            records += _count_fields(store, namespace, fields, pace)
    places = [
        Surveyed(
            place=Place(kind=PlaceKind.NAMESPACE, name=store.template.text), classified=True, items=records
        ),
        *(
            Surveyed(place=Place(kind=PlaceKind.NAMESPACE, name=name), classified=True, items=count)
            for name, count in sorted(ignored.items())
        ),
        *(_stray(store, name, count) for name, count in sorted(strays.items())),
        *(_field(store, field, count) for field, count in sorted(fields.items()) if count),
    ]
    gone = [
        Gone(place=_place(store, field), where=f"fields.{field}")
        for field, count in fields.items()
        if not count and records
    ]
    skipped = (
        ()
        if records
        else (
            Skipped(
                place=Place(kind=PlaceKind.RECORD_METADATA, name="*"), reason="no tenant has records here"
            ),
        )
    )
    return Survey(store=store.name, cell=store.cell, places=tuple(places), gone=tuple(gone), skipped=skipped)


def _count_fields(store: PineconeStore, namespace: str, fields: dict[str, int], pace: Pace) -> int:
    """Count the records of the namespace, and of each field those that have it."""
    records = 0
    for page in listed(store.client, namespace):
        found = store.client.fetch(namespace, page)
        records += len(found)
        for record in found.values():
            for field in record.metadata:
                fields[field] = fields.get(field, 0) + 1
        pace(items=len(found), size_bytes=sum(record.size_bytes for record in found.values()))
    return records


def _stray(store: PineconeStore, name: str, count: int) -> Surveyed:
    return Surveyed(
        place=Place(kind=PlaceKind.NAMESPACE, name=name),
        classified=False,
        items=count,
        entry=proposed(f"{store.name}-more", name)
        if PLACEHOLDER in name
        else {store.name: {"ignore": [name]}},
        remark="no tenant's namespace by the catalogue's template",
    )


def _field(store: PineconeStore, field: str, count: int) -> Surveyed:
    classified = field in store.fields
    return Surveyed(
        place=_place(store, field),
        classified=classified,
        items=count,
        entry=None if classified else {store.name: {"fields": {field: class_of(field, TYPE)}}},
    )


def _place(store: PineconeStore, field: str) -> Place:
    return Place(kind=PlaceKind.RECORD_METADATA, name=f"{store.template.text}.{field}")
