"""Makes the stores of vectors in Pinecone, and their copies. A part of `tenure.wiring`."""

from __future__ import annotations

from tenure.catalogue import PineconeMap, StoreMap
from tenure.estate.config import Estate, PineconeSettings, StoreSettings
from tenure.model.names import CellName, TenantId
from tenure.stores.contract import LiveCopy, Store
from tenure.stores.pinecone import Limiter, Login, PineconeCopy, PineconeStore, Rates, RedisBuckets
from tenure.wiring.ports import Anchor, Journals


def make(
    estate: Estate, cell: CellName, where: StoreMap, settings: StoreSettings, anchor: Anchor
) -> Store | None:
    if not isinstance(settings, PineconeSettings) or not isinstance(where, PineconeMap):
        return None
    shared = None if settings.limiter is None else RedisBuckets(settings.limiter.resolve())
    stores = (other.stores.values() for name, other in estate.cells.items() if name != cell)
    beside = [s for its in stores for s in its if isinstance(s, PineconeSettings)]
    return PineconeStore(
        name=where.name,
        cell=cell,
        login=Login(
            host=settings.host,
            index=settings.index,
            control=settings.control,
            api_key=settings.api_key.resolve(),
        ),
        namespace=where.namespace,
        anchor=anchor(cell, where.journal),
        limiter=Limiter(
            Rates(per_second=settings.rates.scaled(settings.rate_share)),
            shared=shared,
            alone=settings.alone_share,
        ),
        fields=where.fields,
        person=where.person,
        ignore=where.ignore,
        handover_s=settings.handover_s,
        siblings=[known for s in beside for known in (s.host, s.index) if known is not None],
    )


def copy(link: str, tenant: TenantId, source: Store, target: Store, journals: Journals) -> LiveCopy | None:
    if not isinstance(source, PineconeStore) or not isinstance(target, PineconeStore):
        return None
    return PineconeCopy(
        link=link,
        tenant=tenant,
        source=source,
        target=target,
        source_journal=journals[0],
        target_journal=journals[1],
    )
