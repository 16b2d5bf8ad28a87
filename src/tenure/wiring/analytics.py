"""Makes the stores of analytics, their engines and their copies. A part of `tenure.wiring`."""

from __future__ import annotations

from tenure.catalogue import AnalyticsMap, StoreMap
from tenure.errors import ConfigurationError
from tenure.estate.config import AnalyticsSettings, Estate, StoreSettings
from tenure.model.names import CellName, TenantId
from tenure.stores.analytics import AnalyticsCopy, AnalyticsStore
from tenure.stores.analytics import Engine as AnalyticsEngine
from tenure.stores.contract import LiveCopy, Store
from tenure.wiring.ports import Anchor, Journals


def make(
    estate: Estate,  # noqa: ARG001 - as every part has it
    cell: CellName,
    where: StoreMap,
    settings: StoreSettings,
    anchor: Anchor,
) -> Store | None:
    if not isinstance(settings, AnalyticsSettings) or not isinstance(where, AnalyticsMap):
        return None
    return AnalyticsStore(
        name=where.name,
        cell=cell,
        where=where,
        engine=open_engine(settings, f"{where.name} of {cell}"),
        anchor=anchor(cell, where.journal),
    )


def copy(link: str, tenant: TenantId, source: Store, target: Store, journals: Journals) -> LiveCopy | None:
    if not isinstance(source, AnalyticsStore) or not isinstance(target, AnalyticsStore):
        return None
    assert journals[0] is not None
    assert journals[1] is not None
    return AnalyticsCopy(
        link=link,
        tenant=tenant,
        source=source,
        target=target,
        source_journal=journals[0],
        target_journal=journals[1],
    )


def open_engine(settings: AnalyticsSettings, where: str) -> AnalyticsEngine:
    """The engine of one cell's analytics. Connects to nothing yet."""
    match settings.engine:
        case "duckdb":
            from tenure.stores.analytics.duckdb_file import DuckDbFile

            assert settings.path is not None
            key = settings.key.resolve() if settings.key is not None else None
            return DuckDbFile(path=settings.path, where=where, key=key, wait_s=settings.wait_s)
        case "clickhouse":
            try:
                from tenure.stores.analytics.clickhouse_server import ClickHouseServer
            except ImportError as error:
                raise ConfigurationError(
                    f"{where}: ClickHouse needs the package clickhouse-connect",
                    hint="install tenure[clickhouse]",
                ) from error
            assert settings.url is not None
            return ClickHouseServer(
                url=settings.url,
                user=settings.user or "default",
                password=settings.password.resolve() if settings.password is not None else None,
                where=where,
            )
        case "sql":
            from tenure.stores.analytics.sql_warehouse import SqlWarehouse

            assert settings.dsn is not None
            return SqlWarehouse(url=settings.dsn.resolve(), where=where)
