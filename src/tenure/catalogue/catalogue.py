"""The catalogue's values: one map per store, frozen and already checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Literal

from tenure.catalogue.classes import DataClass
from tenure.catalogue.evolution import Migrations
from tenure.catalogue.patterns import KeyPattern, NamePattern, Template
from tenure.catalogue.qualified_name import QualifiedName
from tenure.errors import UnknownName
from tenure.model.names import CellName, StoreName


class StoreKind(StrEnum):
    POSTGRESQL = "postgresql"
    PGVECTOR = "pgvector"
    REDIS = "redis"
    S3 = "s3"
    PINECONE = "pinecone"
    ANALYTICS = "analytics"
    CLOUDWATCH_LOGS = "cloudwatch_logs"
    CLOUDWATCH_METRICS = "cloudwatch_metrics"
    PROMETHEUS = "prometheus"
    VAULT = "vault"


class Isolation(StrEnum):
    """How a store keeps tenants apart: by a tenant column in shared tables; by a schema each, for the tables that
    are not shared; or by a database each."""

    SHARED = "shared"
    SCHEMA = "schema"
    DATABASE = "database"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with tenants' rows. `columns` names every column; `tenant_column` is the one that tells whose a row
    is, None where every row of the table is the tenant's own."""

    name: QualifiedName
    tenant_column: str | None
    columns: Mapping[str, DataClass]
    cells: frozenset[CellName] | None = None
    """The cells that have it; None for all."""

    def is_in(self, cell: CellName) -> bool:
        return self.cells is None or cell in self.cells

    def columns_of(self, data_class: DataClass) -> tuple[str, ...]:
        return tuple(name for name, its in self.columns.items() if its is data_class)


@dataclass(frozen=True, kw_only=True)
class PostgresMap:
    """The tables of a PostgreSQL store. `ignore` names tables that hold no tenant's data; `migrations` say which
    version its schema has and how the app changes it."""

    name: StoreName
    tables: Mapping[QualifiedName, Table]
    ignore: frozenset[QualifiedName] = frozenset()
    isolation: Isolation = Isolation.SHARED
    migrations: Migrations | None = None
    kind: Literal[StoreKind.POSTGRESQL] = field(default=StoreKind.POSTGRESQL, init=False)


@dataclass(frozen=True, kw_only=True)
class PgvectorMap:
    """The tables with vectors, in the database of the PostgreSQL store `rides_with`."""

    name: StoreName
    rides_with: StoreName
    tables: Mapping[QualifiedName, Table]
    ignore: frozenset[QualifiedName] = frozenset()
    kind: Literal[StoreKind.PGVECTOR] = field(default=StoreKind.PGVECTOR, init=False)


@dataclass(frozen=True, kw_only=True)
class RedisMap:
    """The keys of a Redis store. `acl_user` is the tenant's own user, where the app has one per tenant; `ignore` are
    patterns of whole keys that hold no tenant's data."""

    name: StoreName
    prefix: Template
    keys: tuple[KeyPattern, ...]
    acl_user: Template | None = None
    ignore: tuple[KeyPattern, ...] = ()
    kind: Literal[StoreKind.REDIS] = field(default=StoreKind.REDIS, init=False)

    def classify(self, key: str) -> DataClass | None:
        """The class of a key without its prefix: that of the first pattern that matches, None if none
        does."""
        return _classify(self.keys, key)


@dataclass(frozen=True, kw_only=True)
class S3Map:
    """The objects of an S3 store. `journal` is the PostgreSQL store in which the app notes what it touched;
    `principal` is the identity the app writes with, which the fence denies; `ignore` are patterns of whole keys that
    hold no tenant's data."""

    name: StoreName
    prefix: Template
    keys: tuple[KeyPattern, ...]
    journal: StoreName | None = None
    principal: str | None = None
    ignore: tuple[KeyPattern, ...] = ()
    kind: Literal[StoreKind.S3] = field(default=StoreKind.S3, init=False)

    def classify(self, key: str) -> DataClass | None:
        """The class of a key without its prefix: that of the first pattern that matches, None if none
        does."""
        return _classify(self.keys, key)


@dataclass(frozen=True, kw_only=True)
class PineconeMap:
    """The vectors of a Pinecone store. `journal` is the PostgreSQL store in which the app notes what it touched, and
    whose fence is this one's too; `person` are the fields that tell whose records they are, `ignore` patterns of
    namespaces that hold no tenant's data."""

    name: StoreName
    namespace: Template
    journal: StoreName
    fields: Mapping[str, DataClass]
    person: tuple[str, ...] = ()
    ignore: tuple[KeyPattern, ...] = ()
    kind: Literal[StoreKind.PINECONE] = field(default=StoreKind.PINECONE, init=False)


class PartitionBy(StrEnum):
    """How the partitions of a table of analytics follow from a column: one for each of its values, day or month."""

    VALUE = "value"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What the rows of a tenant in one table are journaled, copied and compared by. Days and months are UTC's."""

    column: str
    by: PartitionBy


@dataclass(frozen=True, kw_only=True)
class AnalyticsTable(Table):
    """A table of analytics; without `partition`, all of a tenant's rows are one unit."""

    partition: Partition | None = None


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long the engine, or who runs it, keeps what was deleted: first within the customer's reach, then within the
    vendor's alone."""

    time_travel_days: int = 0
    fail_safe_days: int = 0

    @property
    def lapses_after_days(self) -> int:
        """How many days after its deletion the last copy of a row is gone."""
        return self.time_travel_days + self.fail_safe_days


@dataclass(frozen=True, kw_only=True)
class AnalyticsMap:
    """The tables of a warehouse. `journal` is the PostgreSQL store in which the app notes what it touches, and whose
    fence is this store's too."""

    name: StoreName
    journal: StoreName
    tables: Mapping[QualifiedName, AnalyticsTable]
    ignore: frozenset[QualifiedName] = frozenset()
    retention: Retention = Retention()
    kind: Literal[StoreKind.ANALYTICS] = field(default=StoreKind.ANALYTICS, init=False)


@dataclass(frozen=True, kw_only=True)
class LogPlace:
    """Log groups, and where these are not each tenant's own, which of their streams are; `streams` None for all.

    If neither is the tenant's own, the streams hold events of several tenants.
    """

    group: NamePattern
    streams: NamePattern | None
    data_class: DataClass

    @property
    def shared(self) -> bool:
        return not self.group.own and not (self.streams is not None and self.streams.own)


@dataclass(frozen=True, kw_only=True)
class LogsMap:
    """Log groups of CloudWatch Logs. `journal` is the PostgreSQL store in which the app notes where it logs; `ignore`
    names groups without tenants' data."""

    name: StoreName
    groups: tuple[LogPlace, ...]
    ignore: tuple[NamePattern, ...] = ()
    journal: StoreName | None = None
    kind: Literal[StoreKind.CLOUDWATCH_LOGS] = field(default=StoreKind.CLOUDWATCH_LOGS, init=False)


@dataclass(frozen=True, kw_only=True)
class MetricPlace:
    """A namespace of metrics, in which a dimension tells the tenant."""

    namespace: str
    dimension: str
    data_class: DataClass


@dataclass(frozen=True, kw_only=True)
class MetricsMap:
    """Namespaces of CloudWatch metrics; `ignore` names those without tenants' data."""

    name: StoreName
    namespaces: tuple[MetricPlace, ...]
    ignore: tuple[NamePattern, ...] = ()
    kind: Literal[StoreKind.CLOUDWATCH_METRICS] = field(default=StoreKind.CLOUDWATCH_METRICS, init=False)


@dataclass(frozen=True, kw_only=True)
class PrometheusMap:
    """Series in Prometheus, in which a label tells the tenant; `ignore` are names of metrics without tenants' data.
    `fenced_with` is the PostgreSQL store whose fence is its own too."""

    name: StoreName
    label: str
    metrics: tuple[KeyPattern, ...]
    ignore: tuple[KeyPattern, ...] = ()
    fenced_with: StoreName | None = None
    kind: Literal[StoreKind.PROMETHEUS] = field(default=StoreKind.PROMETHEUS, init=False)


@dataclass(frozen=True, kw_only=True)
class VaultMap:
    """The vaults in which backups are kept: how a tenant's part begins in each."""

    name: StoreName
    prefix: Template
    kind: Literal[StoreKind.VAULT] = field(default=StoreKind.VAULT, init=False)


TableMap = PostgresMap | PgvectorMap
StoreMap = (
    PostgresMap
    | PgvectorMap
    | RedisMap
    | S3Map
    | PineconeMap
    | AnalyticsMap
    | LogsMap
    | MetricsMap
    | PrometheusMap
    | VaultMap
)


def _classify(patterns: tuple[KeyPattern, ...], key: str) -> DataClass | None:
    return next((p.data_class for p in patterns if p.matches(key)), None)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Every store that holds tenants' data, the same in every cell."""

    stores: Mapping[StoreName, StoreMap]

    def store(self, name: StoreName) -> StoreMap:
        """The map of that store. Raises `UnknownName`."""
        if name not in self.stores:
            raise UnknownName(
                f"the catalogue has no store {name!r:.60}",
                hint=f"its stores: {', '.join(sorted(self.stores))}",
            )
        return self.stores[name]

    def riders(self, name: StoreName) -> tuple[PgvectorMap, ...]:
        """The stores whose tables travel with that PostgreSQL store, by name."""
        found = [m for m in self.stores.values() if isinstance(m, PgvectorMap) and m.rides_with == name]
        return tuple(sorted(found, key=lambda m: m.name))

    @cached_property
    def digest(self) -> str:
        """`sha256:...` over the content: equal for equal maps, whatever the file's layout, comments and
        order.

        Only the order of key patterns counts, because the first that matches decides.
        """
        content = {"format": 1, "stores": {name: _content(its) for name, its in self.stores.items()}}
        text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _content(its: StoreMap) -> dict[str, object]:
    match its:
        case PostgresMap():
            return {"kind": its.kind, "isolation": its.isolation, **_tables(its)}
        case PgvectorMap():
            return {"kind": its.kind, "rides_with": its.rides_with, **_tables(its)}
        case RedisMap():
            user = its.acl_user.text if its.acl_user else None
            extra = {"acl_user": user, **_ignored(its.ignore)}
            return {"kind": its.kind, "prefix": its.prefix.text, **extra, "keys": _keys(its.keys)}
        case S3Map():
            extra = {"journal": its.journal, "principal": its.principal, **_ignored(its.ignore)}
            return {"kind": its.kind, "prefix": its.prefix.text, **extra, "keys": _keys(its.keys)}
        case PineconeMap():
            named = {"namespace": its.namespace.text, "journal": its.journal}
            held = {"fields": dict(its.fields), "person": sorted(its.person), **_ignored(its.ignore)}
            return {"kind": its.kind, **named, **held}
        case AnalyticsMap():
            kept = [its.retention.time_travel_days, its.retention.fail_safe_days]
            return {"kind": its.kind, "journal": its.journal, "retention": kept, **_tables(its)}
        case LogsMap():
            groups = {
                place.group.text: [place.streams.text if place.streams else None, place.data_class]
                for place in its.groups
            }
            return {
                "kind": its.kind,
                "journal": its.journal,
                "groups": groups,
                "ignore": sorted(p.text for p in its.ignore),
            }
        case MetricsMap():
            namespaces = {p.namespace: [p.dimension, p.data_class] for p in its.namespaces}
            ignored = sorted(p.text for p in its.ignore)
            return {"kind": its.kind, "namespaces": namespaces, "ignore": ignored}
        case PrometheusMap():
            ignored = sorted(p.pattern for p in its.ignore)
            return {
                "kind": its.kind,
                "label": its.label,
                "fenced_with": its.fenced_with,
                "metrics": _keys(its.metrics),
                "ignore": ignored,
            }
        case VaultMap():
            return {"kind": its.kind, "prefix": its.prefix.text}


def _tables(its: TableMap | AnalyticsMap) -> dict[str, object]:
    tables = {
        str(name): {
            "tenant_column": table.tenant_column,
            "columns": dict(table.columns),
            **({} if table.cells is None else {"cells": sorted(table.cells)}),
            **_partition(table),
        }
        for name, table in its.tables.items()
    }
    return {"tables": tables, "ignore": sorted(str(name) for name in its.ignore)}


def _ignored(patterns: tuple[KeyPattern, ...]) -> dict[str, object]:
    return {"ignore": sorted(p.pattern for p in patterns)} if patterns else {}


def _partition(table: Table) -> dict[str, object]:
    if not isinstance(table, AnalyticsTable) or table.partition is None:
        return {}
    return {"partition": [table.partition.column, table.partition.by]}


def _keys(patterns: tuple[KeyPattern, ...]) -> list[list[str]]:
    return [[p.pattern, p.data_class] for p in patterns]
