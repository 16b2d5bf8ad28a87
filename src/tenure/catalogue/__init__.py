"""The data map: where each store holds tenants' data, and the privacy class of every column and key."""

from tenure.catalogue.catalogue import (
    Catalogue,
    Isolation,
    PgvectorMap,
    PostgresMap,
    RedisMap,
    S3Map,
    StoreKind,
    StoreMap,
    Table,
    TableMap,
    VaultMap,
)
from tenure.catalogue.classes import DataClass
from tenure.catalogue.loading import load_catalogue
from tenure.catalogue.patterns import KeyPattern, Template
from tenure.catalogue.qualified_name import QualifiedName

__all__ = [
    "Catalogue",
    "DataClass",
    "Isolation",
    "KeyPattern",
    "PgvectorMap",
    "PostgresMap",
    "QualifiedName",
    "RedisMap",
    "S3Map",
    "StoreKind",
    "StoreMap",
    "Table",
    "TableMap",
    "Template",
    "VaultMap",
    "load_catalogue",
]
