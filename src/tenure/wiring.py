"""The composition root: makes the adapters that `tenure.yaml` describes and puts the service together."""

from __future__ import annotations

import getpass
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final, Protocol

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
from tenure.engine.context import StepContext
from tenure.engine.engine import Around, Engine
from tenure.engine.heartbeat import never
from tenure.engine.holder import is_gone, this_process
from tenure.errors import ConfigurationError
from tenure.estate.config import (
    Estate,
    PgvectorSettings,
    PostgresSettings,
    RedisSettings,
    S3Settings,
    StoreSettings,
    VaultSettings,
    load_estate,
)
from tenure.estate.values import server_address
from tenure.locks import RedisTenantLocks
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.operations.capacity import Capacity
from tenure.operations.deps import Deps, Dispatcher, TenantLocks
from tenure.operations.session import Sessions
from tenure.registry.database import Database
from tenure.registry.registry import Registry
from tenure.routing.dns import NameServer
from tenure.routing.envoy import EnvoyOptions, EnvoyRouter, GateEndpoint
from tenure.routing.probe import HttpProbe
from tenure.service import Service
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
from tenure.wiring_ports import Anchor, Journals

TURN_S: Final = 0.0005
"""How long one thread may keep the others of this process from running Python. In a hold several threads speak with one
store each; with CPython's 5 ms they wait for one another longer than for the stores (`make bench` shows it)."""


LOOK_TIMEOUT_S: Final = 5.0
"""How long the name server, or an app that is probed, may take to answer."""
DNS_PORT: Final = 53


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
            mutex=self._mutex,
            collections=tuple(k.pattern for k in where.keys),
            ignore=tuple(k.pattern for k in where.ignore),
            others=partial(self._others, cell, where.name),
            trust_etags=settings.trust_etags,
        )

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
            from tenure import wiring_pinecone

            return wiring_pinecone
        case AnalyticsMap():
            from tenure import wiring_analytics

            return wiring_analytics
        case LogsMap() | MetricsMap() | PrometheusMap():
            from tenure import wiring_telemetry

            return wiring_telemetry
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
    return store.bucket if isinstance(store, S3Store) else None


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


def open_registry(estate: Estate) -> Registry:
    """The control database, reachable but not checked."""
    return Registry(Database(estate.control.dsn.resolve()))


def open_router(estate: Estate) -> EnvoyRouter:
    gateway = estate.gateway
    return EnvoyRouter(
        config_dir=gateway.config_dir,
        admin=gateway.admin,
        listen=gateway.listen,
        gate=GateEndpoint(
            check=gateway.gate.check, control=gateway.gate.control, token=gateway.gate.token.resolve()
        ),
        cells={name: cell.app for name, cell in estate.cells.items()},
        options=EnvoyOptions(
            tenant_header=gateway.tenant_header,
            read_paths=gateway.read_paths,
            session_header=gateway.session_header,
            apply_timeout_s=gateway.apply_timeout_s,
            hold_max_s=max(EnvoyOptions().hold_max_s, estate.hold.budget_s),
        ),
    )


def open_names(estate: Estate) -> NameServer | None:
    settings = estate.gateway.dns
    if settings is None:
        return None
    return NameServer(
        server=server_address(settings.server, default_port=DNS_PORT),
        zone=settings.zone,
        key=settings.key,
        secret=settings.secret.resolve(),
        algorithm=settings.algorithm,
        record=settings.record,
        ttl_s=settings.ttl_s,
        timeout_s=LOOK_TIMEOUT_S,
    )


def open_probe(estate: Estate) -> HttpProbe | None:
    settings = estate.gateway.probe
    if settings is None:
        return None
    return HttpProbe(path=settings.path, header=settings.header, timeout_s=LOOK_TIMEOUT_S)


def open_dispatcher(estate: Estate, registry: Registry) -> Dispatcher | None:
    """What wakes the estate's workers; None where it has no broker."""
    if estate.fleet.broker is None:
        return None
    # Here, because Celery takes longer to load than most commands to run.
    from tenure.worker.dispatcher import CeleryDispatcher

    return CeleryDispatcher(estate, registry)


def open_locks(estate: Estate) -> RedisTenantLocks | None:
    settings = estate.fleet.locks
    if settings is None:
        return None
    return RedisTenantLocks(settings.resolve(), holder=this_process, is_gone=is_gone)


def held_around(locks: TenantLocks | None) -> Around:
    """Every attempt of a step of a tenant's operation with the tenant's lock around it."""

    def around(context: StepContext) -> AbstractContextManager[object]:
        tenant = context.operation.tenant
        if locks is None or tenant is None:
            return nullcontext()
        return locks.hold(tenant, context.token, renewed_while=lambda: context.heard)

    return around


def open_service(path: Path, *, stopping: Callable[[], bool] = never) -> Service:
    """The service for the estate that this `tenure.yaml` describes. Checks the control database's schema version.

    Once `stopping` says so, what runs is given back (`Engine`).
    """
    estate = load_estate(path)
    registry = open_registry(estate)
    registry.check()
    return service_of(estate, registry, stopping=stopping)


def service_of(estate: Estate, registry: Registry, *, stopping: Callable[[], bool] = never) -> Service:
    """The service over this registry. Shortens the turns of this process's threads (`TURN_S`)."""
    sys.setswitchinterval(TURN_S)
    stores, locks = Stores(estate, registry.mutex), open_locks(estate)
    deps = Deps(
        estate=estate,
        registry=registry,
        router=open_router(estate),
        factory=stores,
        sessions=Sessions(stores),
        names=open_names(estate),
        probe=open_probe(estate),
        dispatcher=open_dispatcher(estate, registry),
        locks=locks,
    )
    actor = f"{getpass.getuser()}@{socket.gethostname()}"
    engine = Engine(
        registry,
        actor=actor,
        stopping=stopping,
        around=held_around(locks),
        admission=Capacity(deps, actor=actor).admit,
    )
    return Service(deps, engine)
