"""The settings of `catalogue.yaml`: what may be written, and what each means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field

from tenure.catalogue.schema_evolution import MigrationsSettings
from tenure.catalogue.schema_telemetry import LogsMapSettings, MetricsMapSettings, PrometheusMapSettings
from tenure.catalogue.words import (
    CellKey,
    Class,
    Columns,
    FieldName,
    Identifier,
    Keys,
    Name,
    Pattern,
    Prefix,
    TableName,
    User,
)
from tenure.document import Settings, Version, read_only, setting


class TableSettings(Settings):
    """A table with tenants' rows."""

    title: ClassVar[str] = "stores.NAME.tables.SCHEMA.TABLE"
    tenant_column: Identifier | None = setting(
        "The column with the tenant's id, where it is not the store's. Only for shared tables.", default=None
    )
    columns: Columns = setting(
        "Every column of the table and its class. In a shared table the tenant column, and only it, is of "
        "class `tenant`."
    )
    cells: Annotated[tuple[CellKey, ...], Field(min_length=1)] | None = setting(
        "The cells that have the table, where others run an older version of the app that does not. Not set: all.",
        default=None,
    )


Tables = Annotated[Mapping[TableName, TableSettings], Field(min_length=1), AfterValidator(read_only)]


class PostgresMapSettings(Settings):
    """Tables in a PostgreSQL database."""

    title: ClassVar[str] = "stores.NAME (kind: postgresql)"
    kind: Literal["postgresql"] = setting("PostgreSQL 16 or newer.")
    isolation: Literal["shared", "schema", "database"] = setting(
        "How tenants are kept apart. `shared`: in the same tables, by a tenant column. `schema`: a table with "
        "`{tenant}` in its schema's name lies in a schema of each tenant's own, where every row is the "
        "tenant's; the others are shared. `database`: each tenant has a database of its own, which the "
        "store's `database` in `tenure.yaml` names; every row there is the tenant's.",
        default="shared",
    )
    tenant_column: Identifier | None = setting(
        "The column with the tenant's id, in every shared table that does not name its own.", default=None
    )
    tables: Tables = setting(
        "Every table with tenants' rows, as `schema.table`; quoted as in SQL where a name is no plain "
        "lower-case word. With `isolation: schema`, `{tenant}` in a schema's name stands for the tenant's id "
        "as it is: `t_{tenant}.documents`."
    )
    ignore: tuple[TableName, ...] = setting(
        "Tables that hold no tenant's data; `{tenant}` as in `tables`.", default=()
    )
    migrations: MigrationsSettings | None = setting(
        "Which version the schema has and how the app migrates it, so that older backups can be restored. Tables with "
        "vectors in the same database are part of that schema.",
        default=None,
    )


class PgvectorMapSettings(Settings):
    """Tables with vectors, in the database of a PostgreSQL store: its live copy carries them."""

    title: ClassVar[str] = "stores.NAME (kind: pgvector)"
    kind: Literal["pgvector"] = setting("PostgreSQL with the extension pgvector.")
    rides_with: Name = setting("The store of kind `postgresql` whose database holds these tables.")
    tenant_column: Identifier | None = setting(
        "The column with the tenant's id, in every table that does not name its own.", default=None
    )
    tables: Tables = setting(
        "Every table with tenants' vectors, written as for `postgresql`; kept apart as `rides_with` says."
    )
    ignore: tuple[TableName, ...] = setting("Tables that hold no tenant's data.", default=())


class RedisMapSettings(Settings):
    """Keys in Redis or Valkey."""

    title: ClassVar[str] = "stores.NAME (kind: redis)"
    kind: Literal["redis"] = setting("Redis 7 or Valkey 7.2, or newer.")
    prefix: Prefix = setting(
        "How a tenant's keys begin: `{tenant}` exactly once, with `:` or `/` right after it. Tenant ids "
        "contain neither, so one tenant's prefix can never match another's keys."
    )
    acl_user: User | None = setting(
        "The ACL user of a tenant, with `{tenant}` in it, where the app has one per tenant: the fence then "
        "takes its rights to write. Without it only the gate and `tenure.client` keep writes out.",
        default=None,
    )
    keys: Keys = setting(
        "Patterns of the keys below the prefix (`*`: any characters) and their class; the first that "
        "matches decides."
    )
    ignore: tuple[Pattern, ...] = setting(
        "Patterns of whole keys that hold no tenant's data (`*`: any characters).", default=()
    )


class S3MapSettings(Settings):
    """Objects in S3, or in a store that speaks its protocol."""

    title: ClassVar[str] = "stores.NAME (kind: s3)"
    kind: Literal["s3"] = setting("Amazon S3, or a store with its protocol.")
    prefix: Prefix = setting("How a tenant's object keys begin; the rule is that of `redis`.")
    journal: Name | None = setting(
        "The store of kind `postgresql` in which the app notes the objects it touches, through "
        "`tenure.client`. Without it a switch has to list everything while the tenant is held.",
        default=None,
    )
    principal: Annotated[str, Field(min_length=1)] | None = setting(
        "The identity with which the app writes: the fence denies it. Without it only the gate and "
        "`tenure.client` keep writes out.",
        default=None,
    )
    keys: Keys = setting(
        "Patterns of the keys below the prefix (`*`: any characters) and their class; the first that "
        "matches decides."
    )
    ignore: tuple[Pattern, ...] = setting(
        "Patterns of whole keys that hold no tenant's data (`*`: any characters).", default=()
    )


class PineconeMapSettings(Settings):
    """Vectors in Pinecone, in a namespace per tenant."""

    title: ClassVar[str] = "stores.NAME (kind: pinecone)"
    kind: Literal["pinecone"] = setting("A serverless index of Pinecone.")
    namespace: User = setting("The namespace of a tenant, with `{tenant}` in it.")
    journal: Name = setting(
        "The store of kind `postgresql` in which the app notes the ids of the records it touches, through "
        "`tenure.client`. Its fence is this store's too: Pinecone cannot refuse writes."
    )
    fields: Annotated[Mapping[FieldName, Class], AfterValidator(read_only)] = setting(
        "Every metadata field of the records and its class.", default={}, validate_default=True
    )
    person: tuple[FieldName, ...] = setting(
        "The metadata fields that tell whose records they are, for erasing one person; each one of `fields`.",
        default=(),
    )
    ignore: tuple[Pattern, ...] = setting(
        "Patterns of namespaces that hold no tenant's data (`*`: any characters).", default=()
    )


class PartitionSettings(Settings):
    """The column by which a table's rows are journaled, copied and compared piece by piece."""

    title: ClassVar[str] = "stores.NAME.tables.SCHEMA.TABLE.partition"
    column: Identifier = setting("The column; not the tenant column.")
    by: Literal["value", "day", "month"] = setting(
        "One partition for each value of the column, or for each day or month (in UTC) of a date or time.",
        default="value",
    )


class AnalyticsTableSettings(TableSettings):
    """A table of analytics with tenants' rows."""

    title: ClassVar[str] = "stores.NAME.tables.SCHEMA.TABLE (kind: analytics)"
    partition: PartitionSettings | None = setting(
        "What a table's rows are divided by: the app notes `schema.table/partition` in the journal, such as "
        "`main.usage/2026-11-23`, and a change copies that partition of the tenant anew. Without it, all of a "
        "tenant's rows are one piece.",
        default=None,
    )


class RetentionSettings(Settings):
    """How long deleted rows are kept where Tenure cannot reach them. A certificate of erasure says when it ends."""

    title: ClassVar[str] = "stores.NAME.retention"
    time_travel_days: Annotated[int, Field(ge=0, le=3650)] = setting(
        "For how many days the warehouse's time travel (Snowflake, BigQuery), snapshots or replicas keep them.",
        default=0,
        unit="days",
    )
    fail_safe_days: Annotated[int, Field(ge=0, le=3650)] = setting(
        "For how many days after that only the vendor has them (Snowflake's Fail-safe: 7).",
        default=0,
        unit="days",
    )


class AnalyticsMapSettings(Settings):
    """Tables in a warehouse: DuckDB, ClickHouse, or what SQLAlchemy reaches."""

    title: ClassVar[str] = "stores.NAME (kind: analytics)"
    kind: Literal["analytics"] = setting(
        "A DuckDB file, a ClickHouse server, or a warehouse that speaks SQL."
    )
    journal: Name = setting(
        "The store of kind `postgresql` in which the app notes, through `tenure.client`, the partitions it touches, "
        "and whose fence is this store's too."
    )
    tenant_column: Identifier | None = setting(
        "The column with the tenant's id, in every table that does not name its own.", default=None
    )
    tables: Annotated[
        Mapping[TableName, AnalyticsTableSettings], Field(min_length=1), AfterValidator(read_only)
    ] = setting(
        "Every table with tenants' rows, as `schema.table` (in ClickHouse `database.table`); quoted as in SQL "
        "where a name is no plain lower-case word."
    )
    ignore: tuple[TableName, ...] = setting("Tables that hold no tenant's data.", default=())
    retention: RetentionSettings = setting(
        "How long what was deleted is kept all the same.", default=RetentionSettings()
    )


class VaultMapSettings(Settings):
    """The vault in which tenants' backups are kept, one per region. A move leaves it where it is."""

    title: ClassVar[str] = "stores.NAME (kind: vault)"
    kind: Literal["vault"] = setting("A bucket in Amazon S3, or in a store with its protocol.")
    prefix: Prefix = setting(
        "How the keys of a tenant's backups begin in every vault; the rule is that of `redis`. Nothing else may lie in "
        "a vault's bucket.",
        default="backups/{tenant}/",
    )


StoreMapSettings = Annotated[
    PostgresMapSettings
    | PgvectorMapSettings
    | RedisMapSettings
    | S3MapSettings
    | PineconeMapSettings
    | AnalyticsMapSettings
    | LogsMapSettings
    | MetricsMapSettings
    | PrometheusMapSettings
    | VaultMapSettings,
    Discriminator("kind"),
]


class CatalogueSettings(Settings):
    """The data map: where each store holds tenants' data. The same for every cell."""

    title: ClassVar[str] = "catalogue.yaml"
    version: Version = setting("The version of this file's format.")
    stores: Annotated[Mapping[Name, StoreMapSettings], Field(min_length=1), AfterValidator(read_only)] = (
        setting("Every store that holds tenants' data, by the name it has in every cell.")
    )
