"""What exists in an index against the catalogue: its namespaces, and the metadata fields of their records."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from tenure.catalogue.shapes import shape
from tenure.model.names import TenantId
from tenure.model.search import Gone, Place, PlaceKind, Skipped, Survey, Surveyed
from tenure.stores.contract import Pace
from tenure.stores.pinecone.client import all_namespaces
from tenure.stores.pinecone.find import proposed
from tenure.stores.pinecone.listing import listed

if TYPE_CHECKING:
    from tenure.stores.pinecone.store import PineconeStore

FIELD: Final = "personal"
"""The class that is proposed for a field: the careful one."""


def surveyed(store: PineconeStore, tenants: Collection[TenantId], pace: Pace) -> Survey:
    """See `Store.survey`. Every record of the tenants' namespaces is read: fields are in records and nowhere else."""
    owned = {store.namespace(tenant) for tenant in tenants}
    strays: dict[str, int] = {}
    records = 0
    fields: dict[str, int] = dict.fromkeys(store.fields, 0)
    for page in all_namespaces(store.client):
        pace(items=len(page), size_bytes=sum(map(len, page)))
        for namespace, count in page.items():
            if namespace not in owned:
                pattern = shape(namespace, tenants)
                strays[pattern] = strays.get(pattern, 0) + count
                continue
            records += _count_fields(store, namespace, fields, pace)
    places = [
        Surveyed(
            place=Place(kind=PlaceKind.NAMESPACE, name=store.template.text), classified=True, items=records
        ),
        *(_stray(store, pattern, count) for pattern, count in sorted(strays.items())),
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


def _stray(store: PineconeStore, pattern: str, count: int) -> Surveyed:
    return Surveyed(
        place=Place(kind=PlaceKind.NAMESPACE, name=pattern),
        classified=False,
        items=count,
        entry=proposed(f"{store.name}-more", pattern),
        remark="no tenant's namespace by the catalogue's template",
    )


def _field(store: PineconeStore, field: str, count: int) -> Surveyed:
    classified = field in store.fields
    return Surveyed(
        place=_place(store, field),
        classified=classified,
        items=count,
        entry=None if classified else {store.name: {"fields": {field: FIELD}}},
    )


def _place(store: PineconeStore, field: str) -> Place:
    return Place(kind=PlaceKind.RECORD_METADATA, name=f"{store.template.text}.{field}")
