"""Makes the stores of an estate, and their live copies, from `tenure.yaml` and the catalogue."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from tenure.catalogue import (
    AnalyticsMap,
    LogsMap,
    MetricsMap,
    PgvectorMap,
    PineconeMap,
    PostgresMap,
    PrometheusMap,
    QualifiedName,
    RedisMap,
    S3Map,
    StoreMap,
    TableMap,
    VaultMap,
)
from tenure.errors import ConfigurationError
from tenure.estate.config import (
    Estate,
    PgvectorSettings,
    PostgresSettings,
    RedisSettings,
    S3Settings,
    StoreSettings,
    VaultSettings,
)
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.registry.locks import AdvisoryMutex
from tenure.stores.buckets.client import Bucket
from tenure.stores.contract import LiveCopy, Mutex, Store
from tenure.stores.postgres import (
    PgVectorLiveCopy,
    PgVectorStore,
    PostgresJournal,
    PostgresLiveCopy,
    PostgresStore,
    PostgresTenantFence,
    TenantTable,
)
from tenure.stores.redis import RedisCopy, RedisStore
from tenure.stores.s3 import S3Copy, S3Store
from tenure.stores.vault import VaultStore
from tenure.wiring.ports import Anchor, Journals


class Stores:
    """The stores of an estate, made when first asked for and kept; implements `StoreFactory`."""

    def __init__(self, estate: Estate, mutex: Mutex) -> None:
        self._estate = estate
        self._mutex = mutex
        self._made: dict[tuple[CellName, StoreName], Store] = {}
        self._lock = threading.RLock()

    def names(self) -> Sequence[StoreName]:
        return tuple(self._estate.catalogue.stores)

    def moving(self) -> Sequence[StoreName]:
        """A store is of the same kind in every cell, so any cell's says whether it moves."""
        return tuple(name for name in self.names() if self._any(name).capabilities.stays is None)

    def _any(self, name: StoreName) -> Store:
        """The store in some cell: one that is made already, if there is any."""
        with self._lock:
            made = next((store for (_, made), store in self._made.items() if made == name), None)
            return made if made is not None else self.store(next(iter(self._estate.cells)), name)

    def store(self, cell: CellName, name: StoreName) -> Store:
        with self._lock:
            made = self._made.get((cell, name))
            if made is None:
                made = self._made[(cell, name)] = self._make(cell, name)
            return made

    def copy(
        self, link: str, name: StoreName, tenant: TenantId, source: CellName, target: CellName
    ) -> LiveCopy:
        one, other = self.store(source, name), self.store(target, name)
        if isinstance(one, PostgresStore) and isinstance(other, PostgresStore):
            return PostgresLiveCopy(link=link, source=one, target=other, tenant=tenant)
        if isinstance(one, PgVectorStore) and isinstance(other, PgVectorStore):
            return PgVectorLiveCopy(link=link, source=one, target=other, tenant=tenant)
        if isinstance(one, RedisStore) and isinstance(other, RedisStore):
            return RedisCopy(link=link, tenant=tenant, source=one, target=other)
        where = self._estate.catalogue.store(name)
        if isinstance(one, S3Store) and isinstance(other, S3Store) and isinstance(where, S3Map):
            return S3Copy(
                link=link,
                tenant=tenant,
                source=one,
                target=other,
                source_journal=self._journal(source, where.journal),
                target_journal=self._journal(target, where.journal),
            )
        part = _part(where)
        if part is not None:
            holder = _journal_of(where)
            journals = self._journal(source, holder), self._journal(target, holder)
            copy = part.copy(link, tenant, one, other, journals)
            if copy is not None:
                return copy
        raise ConfigurationError(f"{name} is not of the same kind in {source} and {target}")

    def close(self) -> None:
        with self._lock:
            for store in self._made.values():
                store.close()
            self._made.clear()

    # -- making ------------------------------------------------------------------------------------------------------

    def _make(self, cell: CellName, name: StoreName) -> Store:
        settings = self._estate.cell(cell).stores[name]
        where = self._estate.catalogue.store(name)
        if isinstance(settings, PostgresSettings) and isinstance(where, PostgresMap):
            return self._postgres(cell, where, settings)
        if isinstance(settings, PgvectorSettings) and isinstance(where, PgvectorMap):
            carrier = self.store(cell, where.rides_with)
            if isinstance(carrier, PostgresStore):
                return PgVectorStore(name=name, cell=cell, carrier=carrier, tables=_tables(where, cell))
        if isinstance(settings, RedisSettings) and isinstance(where, RedisMap):
            return RedisStore(
                name=name,
                cell=cell,
                url=settings.url.resolve(),
                prefix=where.prefix,
                acl_user=where.acl_user,
                collections=tuple(k.pattern for k in where.keys),
                ignore=tuple(k.pattern for k in where.ignore),
                others=partial(self._others, cell, name),
            )
        if isinstance(settings, S3Settings) and isinstance(where, S3Map):
            return self._s3(cell, where, settings)
        if isinstance(settings, VaultSettings) and isinstance(where, VaultMap):
            return self._vault(cell, where, settings)
        part = _part(where)
        made = None if part is None else part.make(self._estate, cell, where, settings, self._anchor)
        if made is not None:
            return made
        raise ConfigurationError(f"{name} of {cell} is a {settings.kind}, the catalogue says {where.kind}")

    def _postgres(self, cell: CellName, where: PostgresMap, settings: PostgresSettings) -> PostgresStore:
        riders = self._estate.catalogue.riders(where.name)
        carried = [table for rider in riders for table in _tables(rider, cell)]
        return PostgresStore(
            name=where.name,
            cell=cell,
            dsn=settings.dsn.resolve(),
            tables=_tables(where, cell),
            carried=carried,
            ignore=tuple(TenantTable(schema=t.schema, name=t.name) for t in self._ignored(where)),
            dsn_from_cells=settings.replication_dsn.resolve(),
            most_wal_bytes=self._estate.soak.most_wal_bytes,
            database=settings.database,
            columns={k: v for rider in riders for k, v in _columns(rider, cell).items()}
            | _columns(where, cell),
            others=partial(self._others, cell, where.name),
            riders={table: rider.name for rider in riders for table in _tables(rider, cell)},
            migrations=where.migrations,
        )

    def _others(self, cell: CellName, name: StoreName) -> frozenset[str]:
        """What other stores of the same kind have on the server of this one: databases, buckets."""
        mine = self.store(cell, name)
        found = set()
        for other in ((c, n) for c in self._estate.cells for n in self.names() if (c, n) != (cell, name)):
            its = self.store(*other)
            if its.server == mine.server:
                found |= {home for home in (_home(its),) if home is not None}
        return frozenset(found)

    def _ignored(self, where: PostgresMap) -> frozenset[QualifiedName]:
        """What the store and those that ride with it name as holding no tenant's data."""
        return where.ignore.union(*(rider.ignore for rider in self._estate.catalogue.riders(where.name)))

    def _s3(self, cell: CellName, where: S3Map, settings: S3Settings) -> S3Store:
        return S3Store(
            name=where.name,
            cell=cell,
            endpoint=settings.endpoint,
            bucket=settings.bucket,
            region=settings.region,
            access_key=settings.access_key.resolve() if settings.access_key is not None else Secret(""),
            secret_key=settings.secret_key.resolve() if settings.secret_key is not None else Secret(""),
            prefix=where.prefix.text,
            principal=where.principal,
            mutex=self._policy_mutex(cell, where),
            collections=tuple(k.pattern for k in where.keys),
            ignore=tuple(k.pattern for k in where.ignore),
            others=partial(self._others, cell, where.name),
            trust_etags=settings.trust_etags,
            journal=self._journal(cell, where.journal),
        )

    def _policy_mutex(self, cell: CellName, where: S3Map) -> Mutex:
        """Keeps changes of a bucket's policy in order. No two cells share a bucket, so the cell's own PostgreSQL can:
        then nothing inside a hold waits for the control database but the change of the placement."""
        return self._mutex if where.journal is None else AdvisoryMutex(self._beside(cell, where.journal).pool)

    def _vault(self, cell: CellName, where: VaultMap, settings: VaultSettings) -> VaultStore:
        bucket = Bucket(
            endpoint=settings.endpoint,
            name=settings.bucket,
            region=settings.region,
            access_key=settings.access_key.resolve() if settings.access_key is not None else Secret(""),
            secret_key=settings.secret_key.resolve() if settings.secret_key is not None else Secret(""),
        )
        return VaultStore(name=where.name, cell=cell, bucket=bucket, prefix=where.prefix)

    def _journal(self, cell: CellName, holder: StoreName | None) -> PostgresJournal | None:
        """Where the app says what it changes in stores without a change feed."""
        return None if holder is None else PostgresJournal(self._beside(cell, holder))

    def _anchor(self, cell: CellName, holder: StoreName) -> PostgresTenantFence:
        """The fence of stores that have none of their own: it is where their journal is."""
        return PostgresTenantFence(self._beside(cell, holder))

    def _beside(self, cell: CellName, holder: StoreName) -> PostgresStore:
        found = self.store(cell, holder)
        if not isinstance(found, PostgresStore):
            raise ConfigurationError(f"a journal is to lie in {holder} of {cell}, which is not PostgreSQL")
        return found


class _Part(Protocol):
    """A module that makes the stores of some kinds, and their copies; None for settings or stores of other kinds."""

    def make(
        self, estate: Estate, cell: CellName, where: StoreMap, settings: StoreSettings, anchor: Anchor
    ) -> Store | None: ...

    def copy(
        self, link: str, tenant: TenantId, source: Store, target: Store, journals: Journals
    ) -> LiveCopy | None: ...


def _part(where: StoreMap) -> _Part | None:
    """Loaded here, because the vendors' libraries take longer to load than most commands to run."""
    match where:
        case PineconeMap():
            from tenure.wiring import pinecone

            return pinecone
        case AnalyticsMap():
            from tenure.wiring import analytics

            return analytics
        case LogsMap() | MetricsMap() | PrometheusMap():
            from tenure.wiring import telemetry

            return telemetry
        case _:
            return None


def _journal_of(where: StoreMap) -> StoreName | None:
    """The store in which the app notes what it changes in that one."""
    match where:
        case S3Map() | PineconeMap() | AnalyticsMap() | LogsMap():
            return where.journal
        case _:
            return None


def _home(store: Store) -> str | None:
    """What a store has of its server: a database or a bucket."""
    if isinstance(store, PostgresStore):
        return str(store.pool.database)
    if isinstance(store, RedisStore):
        return str(store.nodes.database)
    return store.bucket if isinstance(store, S3Store | VaultStore) else None


def _tables(where: TableMap, cell: CellName) -> tuple[TenantTable, ...]:
    return tuple(_columns(where, cell))


def _columns(where: TableMap, cell: CellName) -> dict[TenantTable, frozenset[str]]:
    """The tables that the catalogue has in that cell, with the columns it names."""
    return {
        TenantTable(schema=t.name.schema, name=t.name.name, tenant_column=t.tenant_column): frozenset(
            t.columns
        )
        for t in where.tables.values()
        if t.is_in(cell)
    }
