"""The settings of `tenure.yaml`: what may be written, and what each means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field

from tenure.catalogue.schema import CellKey
from tenure.document import Settings, Version, read_only, setting
from tenure.estate.secret_ref import SecretRef, SecretSetting
from tenure.estate.values import (
    AnyName,
    BucketName,
    Currency,
    Domain,
    HeaderName,
    Moment,
    Region,
    RelativePath,
    StoreKey,
    Text,
    Url,
)
from tenure.model.names import TenantId


class Control(Settings):
    """The control database: tenants, placements, and the journal of every operation."""

    title: ClassVar[str] = "control"
    dsn: SecretSetting = setting("How Tenure reaches the control database, as a libpq connection string.")


class Gate(Settings):
    """The gate: the small process in which a tenant's requests wait during a switch."""

    title: ClassVar[str] = "gateway.gate"
    check: Url = setting("Where Envoy asks the gate about a request.")
    control: Url = setting("Where Tenure tells the gate to hold and to release.")
    token: SecretSetting = setting("What Tenure shows the gate to be let in.")


class Gateway(Settings):
    """The gateway: where the users' requests arrive, and how they reach the cell that serves their tenant."""

    title: ClassVar[str] = "gateway"
    kind: Literal["envoy"] = setting("The kind of gateway.")
    listen: Url = setting("Where the users reach it.")
    admin: Annotated[tuple[Url, ...], Field(min_length=1)] = setting(
        "The admin address of every Envoy of the fleet: a change of routes counts once all of them show it."
    )
    config_dir: RelativePath = setting(
        "The folder with Envoy's dynamic configuration (rds.json, cds.json, routes.json), which Tenure "
        "writes."
    )
    gate: Gate = setting("The gate beside the gateway.")
    tenant_header: HeaderName = setting(
        "The request header that names the tenant on the shared host.", default="x-tenant-id"
    )
    domain: Domain = setting(
        "The parent of the tenants' hosts: a tenant without a host of its own gets its id below it, in "
        "lower case and with `-` for `_`."
    )

    def host_for(self, tenant: TenantId) -> str:
        """The tenant's default host. Ids that differ only in case or in `_` and `-` get the same one."""
        return f"{tenant.replace('_', '-').lower()}.{self.domain}"


class Hold(Settings):
    """How long users may wait during a switch."""

    title: ClassVar[str] = "hold"
    budget_ms: Annotated[int, Field(gt=0, le=600_000)] = setting(
        "The longest a tenant's requests may wait. A switch that is not over by then is aborted and "
        "nothing is lost.",
        default=2000,
        unit="ms",
    )
    drain_ms: Annotated[int, Field(gt=0, le=600_000)] = setting(
        "The part of the budget in which requests and transactions under way may end; less than `budget_ms`.",
        default=1000,
        unit="ms",
    )

    @property
    def budget_s(self) -> float:
        return self.budget_ms / 1000

    @property
    def drain_s(self) -> float:
        return self.drain_ms / 1000


class Verify(Settings):
    """How source and target are compared before a switch."""

    title: ClassVar[str] = "verify"
    resync_above: Annotated[float, Field(gt=0, le=1)] = setting(
        "When more than this share of the items differs, everything is copied again instead of repairing "
        "single items.",
        default=0.05,
        unit="share",
    )
    evidence_ttl_s: Annotated[int, Field(gt=0, le=86_400)] = setting(
        "How long a comparison counts as evidence; after that, a switch compares again first.",
        default=300,
        unit="s",
    )


class Soak(Settings):
    """The time after a switch in which the source follows the target, so that rolling back loses nothing."""

    title: ClassVar[str] = "soak"
    ttl_h: Annotated[float, Field(gt=0, le=720)] = setting(
        "How long it lasts at most. Then the link ends by itself: a reverse feed that nobody ends would "
        "fill the disk.",
        default=24,
        unit="h",
    )


class PostgresSettings(Settings):
    """A PostgreSQL database of a cell."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: postgresql)"
    kind: Literal["postgresql"] = setting("PostgreSQL 16 or newer.")
    dsn: SecretSetting = setting("How Tenure reaches the database, as a libpq connection string.")
    dsn_from_cells: SecretSetting | None = setting(
        "How the servers of the other cells reach it for replication, where that differs from `dsn`.",
        default=None,
    )

    @property
    def replication_dsn(self) -> SecretRef:
        """How the other cells' servers reach it."""
        return self.dsn_from_cells or self.dsn


class PgvectorSettings(Settings):
    """Vectors in the database of a PostgreSQL store of the same cell."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: pgvector)"
    kind: Literal["pgvector"] = setting("PostgreSQL with the extension pgvector.")
    rides_with: StoreKey = setting(
        "The store of kind `postgresql` whose database it is; as in the catalogue."
    )


class RedisSettings(Settings):
    """A Redis or Valkey of a cell."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: redis)"
    kind: Literal["redis"] = setting("Redis 7 or Valkey 7.2, or newer.")
    url: SecretSetting = setting("How Tenure reaches it: redis:// or rediss://, with user and password.")


class S3Settings(Settings):
    """A bucket of a cell."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: s3)"
    kind: Literal["s3"] = setting("Amazon S3, or a store with its protocol.")
    endpoint: Url | None = setting("Where a store other than Amazon S3 is reached.", default=None)
    bucket: BucketName = setting("The bucket; no two cells may share one.")
    region: Region = setting("The bucket's region, for signing requests.")
    access_key: SecretSetting | None = setting(
        "The access key. Without it and `secret_key`, the AWS SDK's own chain (profile, role) gives the "
        "credentials.",
        default=None,
    )
    secret_key: SecretSetting | None = setting(
        "The secret key; with `access_key` or not at all.", default=None
    )


StoreSettings = Annotated[
    PostgresSettings | PgvectorSettings | RedisSettings | S3Settings, Discriminator("kind")
]


class Cell(Settings):
    """One full deployment of the SaaS: its app and its stores."""

    title: ClassVar[str] = "cells.NAME"
    region: Region = setting("Where it runs: residency rules and the price of moved data go by it.")
    infrastructure: Text = setting(
        'The version of the infrastructure it runs on, such as "v1": shown in plans.'
    )
    app: Url = setting("Where the gateway reaches the cell's app.")
    stores: Annotated[Mapping[StoreKey, StoreSettings], Field(min_length=1), AfterValidator(read_only)] = (
        setting(
            "How to reach each store of the catalogue in this cell, by the same name and of the same kind."
        )
    )


class Tier(Settings):
    """A service level."""

    title: ClassVar[str] = "tiers.NAME"
    rank: Annotated[int, Field(ge=1, le=1000)] = setting("1 is the highest: its tenants go first.")
    soak_h: Annotated[float, Field(gt=0, le=720)] | None = setting(
        "How long its tenants soak at most, instead of `soak.ttl_h`.", default=None, unit="h"
    )


class ResidencyRule(Settings):
    """Where the data of the tenants under this rule may be."""

    title: ClassVar[str] = "residency.NAME"
    regions: Annotated[tuple[Region, ...], Field(min_length=1)] = setting(
        "The regions allowed; each is the region of some cell."
    )
    reason: Text = setting("Why: shown when an operation is refused because of it.")


class Freeze(Settings):
    """A time in which no tenant is moved. What was moved before can still be rolled back."""

    title: ClassVar[str] = "freeze.NAME"
    begins: Moment = setting("From then on.")
    ends: Moment = setting("Until then.")
    reason: Text = setting("Why: shown when an operation is refused because of it.")


class Prices(Settings):
    """What things cost, so that plans can predict it."""

    title: ClassVar[str] = "prices"
    currency: Currency = setting("The currency of all of these, as an ISO 4217 code.")
    cell_hour: Annotated[Mapping[CellKey, Annotated[float, Field(ge=0)]], AfterValidator(read_only)] = (
        setting("Running a cell, for every cell.", unit="currency per hour")
    )
    gb_moved: Annotated[float, Field(ge=0)] = setting("Moving data within a region.", unit="currency per GB")
    cross_region_gb_moved: Annotated[float, Field(ge=0)] = setting(
        "Moving data from one region to another.", unit="currency per GB"
    )
    operator_hour: Annotated[float, Field(ge=0)] = setting("An operator's time.", unit="currency per hour")


class EstateSettings(Settings):
    """The estate: everything that Tenure knows about the systems it works on."""

    title: ClassVar[str] = "tenure.yaml"
    version: Version = setting("The version of this file's format.")
    catalogue: RelativePath = setting("The catalogue: where in the stores tenants' data is.")
    control: Control = setting("The control database.")
    gateway: Gateway = setting("The gateway.")
    hold: Hold = setting("How long users may wait during a switch.", default=Hold())
    verify: Verify = setting("How source and target are compared.", default=Verify())
    soak: Soak = setting("How long the way back stays open.", default=Soak())
    cells: Annotated[Mapping[CellKey, Cell], Field(min_length=1), AfterValidator(read_only)] = setting(
        "Every cell, by name."
    )
    tiers: Annotated[Mapping[AnyName, Tier], Field(min_length=1), AfterValidator(read_only)] = setting(
        "The service levels, by name."
    )
    residency: Annotated[Mapping[AnyName, ResidencyRule], AfterValidator(read_only)] = setting(
        "Residency rules, by name.", default={}, validate_default=True
    )
    freeze: Annotated[Mapping[AnyName, Freeze], AfterValidator(read_only)] = setting(
        "Times in which no tenant is moved, by name.", default={}, validate_default=True
    )
    prices: Prices | None = setting("The price list. Without it plans predict no costs.", default=None)
