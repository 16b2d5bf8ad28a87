"""The data map: where each store holds tenants' data, and the privacy class of every column and key."""

from tenure.catalogue.catalogue import (
    Catalogue,
    Isolation,
    LogPlace,
    LogsMap,
    MetricPlace,
    MetricsMap,
    PgvectorMap,
    PostgresMap,
    PrometheusMap,
    RedisMap,
    S3Map,
    StoreKind,
    StoreMap,
    Table,
    TableMap,
)
from tenure.catalogue.classes import DataClass
from tenure.catalogue.loading import load_catalogue
from tenure.catalogue.patterns import KeyPattern, NamePattern, Template
from tenure.catalogue.qualified_name import QualifiedName

__all__ = [
    "Catalogue",
    "DataClass",
    "Isolation",
    "KeyPattern",
    "LogPlace",
    "LogsMap",
    "MetricPlace",
    "MetricsMap",
    "NamePattern",
    "PgvectorMap",
    "PostgresMap",
    "PrometheusMap",
    "QualifiedName",
    "RedisMap",
    "S3Map",
    "StoreKind",
    "StoreMap",
    "Table",
    "TableMap",
    "Template",
    "load_catalogue",
]
