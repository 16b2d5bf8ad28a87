"""The settings of a cell's analytics: which engine it is, and how it is reached."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from tenure.document import Settings, setting
from tenure.estate.secret_ref import SecretSetting
from tenure.estate.values import RelativePath, Text, Url

OF_ENGINE: Final = {
    "duckdb": ("path", "key"),
    "clickhouse": ("url", "user", "password"),
    "sql": ("dsn",),
}
"""The settings of each engine; the first one is needed, and says where the data is."""


class AnalyticsSettings(Settings):
    """The analytics of a cell. Cells may use different engines."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: analytics)"
    kind: Literal["analytics"] = setting(
        "A DuckDB file, a ClickHouse server, or a warehouse that speaks SQL."
    )
    engine: Literal["duckdb", "clickhouse", "sql"] = setting(
        "`duckdb`: a file, with `path` and perhaps `key`. `clickhouse`: a server, with `url`, `user` and `password`. "
        "`sql`: whatever SQLAlchemy has a driver for (Snowflake, BigQuery, Redshift, PostgreSQL), with `dsn`."
    )
    path: RelativePath | None = setting(
        "The DuckDB file; no two cells may share one. The app must open it only while it works with it, since DuckDB "
        "lets one process write at a time.",
        default=None,
    )
    key: SecretSetting | None = setting(
        "The key that the DuckDB file is encrypted with, if it is.", default=None
    )
    wait_s: Annotated[float, Field(gt=0, le=600)] = setting(
        "How long to wait for other processes to close the DuckDB file.", default=15, unit="s"
    )
    url: Url | None = setting(
        "Where ClickHouse answers HTTP, such as `https://clickhouse.internal:8443`.", default=None
    )
    user: Text | None = setting("The user for ClickHouse; without it, ClickHouse's `default`.", default=None)
    password: SecretSetting | None = setting("The password for ClickHouse.", default=None)
    dsn: SecretSetting | None = setting(
        "The URL of the warehouse as SQLAlchemy has it, password included; its driver must be installed.",
        default=None,
    )
