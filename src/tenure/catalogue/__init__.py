"""The data map: where each store holds tenants' data, and the privacy class of every column and key."""

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
    "AnalyticsMap",
    "AnalyticsTable",
    "Catalogue",
    "DataClass",
    "Isolation",
    "KeyPattern",
    "LogPlace",
    "LogsMap",
    "MetricPlace",
    "MetricsMap",
    "NamePattern",
    "Partition",
    "PartitionBy",
    "PgvectorMap",
    "PineconeMap",
    "PostgresMap",
    "PrometheusMap",
    "QualifiedName",
    "RedisMap",
    "Retention",
    "S3Map",
    "StoreKind",
    "StoreMap",
    "Table",
    "TableMap",
    "Template",
    "load_catalogue",
]
