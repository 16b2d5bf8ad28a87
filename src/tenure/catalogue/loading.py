"""Reads `catalogue.yaml` into a `Catalogue`, or says everything that is wrong with it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from types import MappingProxyType

from tenure.catalogue.catalogue import (
    AnalyticsMap,
    AnalyticsTable,
    Catalogue,
    Isolation,
    LogPlace,
    LogsMap,
    MetricPlace,
    MetricsMap,
    Partition,
    PartitionBy,
    PgvectorMap,
    PineconeMap,
    PostgresMap,
    PrometheusMap,
    RedisMap,
    Retention,
    S3Map,
    StoreMap,
    Table,
    VaultMap,
)
from tenure.catalogue.checks import check_catalogue
from tenure.catalogue.classes import DataClass
from tenure.catalogue.patterns import KeyPattern, NamePattern, Template
from tenure.catalogue.qualified_name import QualifiedName
from tenure.catalogue.schema import (
    AnalyticsMapSettings,
    AnalyticsTableSettings,
    CatalogueSettings,
    PgvectorMapSettings,
    PineconeMapSettings,
    PostgresMapSettings,
    RedisMapSettings,
    S3MapSettings,
    StoreMapSettings,
    TableSettings,
    VaultMapSettings,
)
from tenure.catalogue.schema_telemetry import LogsMapSettings, MetricsMapSettings, PrometheusMapSettings
from tenure.document import Document, raise_problems, read_document, validate
from tenure.model.names import StoreName


def load_catalogue(path: pathlib.Path) -> Catalogue:
    """The catalogue of that file. Raises `ConfigurationError` with every problem of the file, each with
    its place."""
    document = read_document(path)
    catalogue = catalogue_of(document)
    raise_problems(document.problems)
    assert catalogue is not None
    return catalogue


def catalogue_of(document: Document) -> Catalogue | None:
    """The document's catalogue; None if something is wrong, and then `document.problems` says what."""
    settings = validate(CatalogueSettings, document)
    check_catalogue(document)
    if settings is None or document.problems:
        return None
    stores = {name: _store_map(name, its) for name, its in settings.stores.items()}
    return Catalogue(stores=MappingProxyType(stores))


def _store_map(name: StoreName, its: StoreMapSettings) -> StoreMap:
    match its:
        case PostgresMapSettings():
            return PostgresMap(
                name=name,
                tables=_tables(its.tables, its.tenant_column),
                ignore=_names(its.ignore),
                isolation=Isolation(its.isolation),
                migrations=None if its.migrations is None else its.migrations.value(),
            )
        case PgvectorMapSettings():
            return PgvectorMap(
                name=name,
                rides_with=its.rides_with,
                tables=_tables(its.tables, its.tenant_column),
                ignore=_names(its.ignore),
            )
        case RedisMapSettings():
            user = Template.name(its.acl_user) if its.acl_user else None
            return RedisMap(
                name=name,
                prefix=Template.prefix(its.prefix),
                acl_user=user,
                keys=_keys(its),
                ignore=_ignored(its.ignore),
            )
        case S3MapSettings():
            return S3Map(
                name=name,
                prefix=Template.prefix(its.prefix),
                journal=its.journal,
                principal=its.principal,
                keys=_keys(its),
                ignore=_ignored(its.ignore),
            )
        case PineconeMapSettings():
            return PineconeMap(
                name=name,
                namespace=Template.name(its.namespace),
                journal=its.journal,
                fields=its.fields,
                person=its.person,
                ignore=_ignored(its.ignore),
            )
        case AnalyticsMapSettings():
            return AnalyticsMap(
                name=name,
                journal=its.journal,
                tables=MappingProxyType(
                    {
                        table: _analytics_table(its.tables[text], table, its.tenant_column)
                        for text, table in ((text, QualifiedName.parse(text)) for text in its.tables)
                    }
                ),
                ignore=_names(its.ignore),
                retention=Retention(
                    time_travel_days=its.retention.time_travel_days,
                    fail_safe_days=its.retention.fail_safe_days,
                ),
            )
        case LogsMapSettings():
            return LogsMap(
                name=name,
                groups=tuple(
                    LogPlace(
                        group=NamePattern.parse(group),
                        streams=NamePattern.parse(place.streams) if place.streams else None,
                        data_class=place.holds,
                    )
                    for group, place in its.groups.items()
                ),
                ignore=tuple(NamePattern.parse(text) for text in its.ignore),
                journal=its.journal,
            )
        case MetricsMapSettings():
            return MetricsMap(
                name=name,
                namespaces=tuple(
                    MetricPlace(namespace=namespace, dimension=place.dimension, data_class=place.holds)
                    for namespace, place in its.namespaces.items()
                ),
                ignore=tuple(NamePattern.parse(text) for text in its.ignore),
            )
        case PrometheusMapSettings():
            return PrometheusMap(
                name=name,
                label=its.label,
                fenced_with=its.fenced_with,
                metrics=tuple(KeyPattern(pattern=p, data_class=held) for p, held in its.metrics.items()),
                ignore=_ignored(its.ignore),
            )
        case VaultMapSettings():
            return VaultMap(name=name, prefix=Template.prefix(its.prefix))


def _analytics_table(its: AnalyticsTableSettings, name: QualifiedName, default: str | None) -> AnalyticsTable:
    by = its.partition
    return AnalyticsTable(
        name=name,
        tenant_column=its.tenant_column or default,
        columns=its.columns,
        cells=None if its.cells is None else frozenset(its.cells),
        partition=None if by is None else Partition(column=by.column, by=PartitionBy(by.by)),
    )


def _tables(tables: Mapping[str, TableSettings], default: str | None) -> Mapping[QualifiedName, Table]:
    found = {}
    for text, its in tables.items():
        name = QualifiedName.parse(text)
        column = None if name.own_schema else its.tenant_column or default
        cells = None if its.cells is None else frozenset(its.cells)
        found[name] = Table(name=name, tenant_column=column, columns=its.columns, cells=cells)
    return MappingProxyType(found)


def _names(texts: tuple[str, ...]) -> frozenset[QualifiedName]:
    return frozenset(QualifiedName.parse(text) for text in texts)


def _keys(its: RedisMapSettings | S3MapSettings) -> tuple[KeyPattern, ...]:
    return tuple(KeyPattern(pattern=pattern, data_class=held) for pattern, held in its.keys.items())


def _ignored(patterns: tuple[str, ...]) -> tuple[KeyPattern, ...]:
    return tuple(KeyPattern(pattern=pattern, data_class=DataClass.PLAIN) for pattern in patterns)
