"""Warehouses as stores: DuckDB, ClickHouse, and what SQLAlchemy reaches, moved partition by partition.

The engines are in `duckdb_file`, `clickhouse_server` and `sql_warehouse`, each of which needs its own driver.
"""

from tenure.stores.analytics.engine import Engine
from tenure.stores.analytics.live import AnalyticsCopy
from tenure.stores.analytics.store import AnalyticsStore

__all__ = ["AnalyticsCopy", "AnalyticsStore", "Engine"]
