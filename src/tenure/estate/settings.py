"""The settings of `tenure.yaml`: what may be written, and what each means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field

from tenure.catalogue.words import CellKey
from tenure.document import Settings, Version, read_only, setting
from tenure.estate.secret_ref import SecretRef, SecretSetting
from tenure.estate.settings_analytics import AnalyticsSettings
from tenure.estate.settings_approval import ApprovableKinds, ApprovalSettings, Targets
from tenure.estate.settings_backups import BackupsSettings
from tenure.estate.settings_capacity import Capacity
from tenure.estate.settings_fleet import Fleet
from tenure.estate.settings_pinecone import PineconeSettings
from tenure.estate.settings_retention import TierBackup
from tenure.estate.settings_telemetry import LogsSettings, MetricsSettings, PrometheusSettings
from tenure.estate.settings_vault import VaultSettings
from tenure.estate.values import (
    AnyName,
    BucketName,
    Currency,
    DatabaseTemplate,
    Domain,
    HeaderName,
    Moment,
    ProbePath,
    Region,
    RelativePath,
    Server,
    SessionHeader,
    StoreKey,
    Target,
    Text,
    Url,
    UrlPath,
    growing,
    unique,
)
from tenure.model.names import CellName, TenantId


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


class ProbeSettings(Settings):
    """A request by which Tenure finds out which cell really answers a tenant's users."""

    title: ClassVar[str] = "gateway.probe"
    path: ProbePath = setting("What it gets from the app; it must be cheap, and the same in every cell.")
    header: HeaderName = setting("The response header in which the app names its cell.")


class DnsSettings(Settings):
    """The zone of the tenants' hosts: the way around a gateway that cannot be mended in time."""

    title: ClassVar[str] = "gateway.dns"
    server: Server = setting("The zone's primary name server, port 53 by default. It is spoken to by TCP.")
    zone: Domain = setting("The zone that the tenants' hosts are in.")
    key: Domain = setting("The name of the TSIG key that may update the zone.")
    secret: SecretSetting = setting("The key's secret, in base64.")
    algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = setting(
        "The key's algorithm.", default="hmac-sha256"
    )
    record: Literal["A", "AAAA", "CNAME"] = setting("The type of the hosts' records.", default="A")
    ttl_s: Annotated[int, Field(ge=1, le=86_400)] = setting(
        "How long resolvers may keep a record that Tenure writes.", default=30, unit="s"
    )
    gateway: Target = setting(
        "What a host points to in ordinary times: the gateway's address, or with `CNAME` its name."
    )
    cells: Annotated[Mapping[CellKey, Url], AfterValidator(read_only)] = setting(
        "For every cell the endpoint at which users reach its app without the gateway. A host that is led past the "
        "gateway points to this address or name; users keep the port."
    )

    def target(self, cell: CellName) -> str:
        """What a host points to that is led straight to the cell."""
        return str(urlsplit(self.cells[cell]).hostname)


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
    read_paths: Annotated[tuple[UrlPath, ...], AfterValidator(unique)] = setting(
        "Paths at and below which requests only read, whatever their method, such as a search by POST. Requests "
        "by GET, HEAD and OPTIONS always count as reads.",
        default=(),
    )
    session_header: SessionHeader | None = setting(
        "In a canary, requests with the same value of this header (such as `authorization`) go to the same cell. A "
        "share is then one of sessions: one that makes half of the requests takes half of them along. Requests "
        "without it are shared out one by one, exactly.",
        default=None,
    )
    apply_timeout_s: Annotated[float, Field(gt=0, le=300)] = setting(
        "How long every Envoy may take to load new routes.", default=15, unit="s"
    )
    probe: ProbeSettings | None = setting(
        "How to find out which cell really answers. Without it only the gateway itself is asked.",
        default=None,
    )
    dns: DnsSettings | None = setting(
        "How to lead a tenant past a gateway that is out of step. Without it a rollback waits for the gateway.",
        default=None,
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


class Throttle(Settings):
    """Slowing a tenant's writes down at the gateway when nothing else lets the copies keep pace. None is refused."""

    title: ClassVar[str] = "sync.throttle"
    writes_per_s: Annotated[float, Field(gt=0, le=100_000)] = setting(
        "How many of the tenant's writing requests the gateway lets through while it is throttled.",
        unit="per second",
    )
    longest_delay_ms: Annotated[int, Field(gt=0, le=5_000)] = setting(
        "The longest one request is delayed: users who send more than that admits get through all the same.",
        default=1000,
        unit="ms",
    )

    @property
    def longest_delay_s(self) -> float:
        return self.longest_delay_ms / 1000


class Sync(Settings):
    """What is done when a tenant writes faster than its copies follow: more workers, then more time, then a throttle,
    then the move is aborted and nothing has changed."""

    title: ClassVar[str] = "sync"
    window_s: Annotated[float, Field(gt=0, le=86_400)] = setting(
        "How long the copies may be behind, with all their workers, before the window is extended.",
        default=600,
        unit="s",
    )
    longest_window_s: Annotated[float, Field(gt=0, le=604_800)] = setting(
        "To what it is extended; at least `window_s`, and equal to it for no extension. Once throttled, the copies get "
        "as much time again.",
        default=3600,
        unit="s",
    )
    most_workers: Annotated[int, Field(ge=1, le=64)] = setting(
        "How many workers may follow in a store that can use more than one (Redis, S3; PostgreSQL applies in order).",
        default=8,
    )
    throttle: Throttle | None = setting(
        "Slow the tenant's writes down in the end. Without it, they are never delayed.", default=None
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
    grace_h: Annotated[float, Field(ge=0, le=720)] = setting(
        "How long after its end `tenure soak check` leaves the link to whoever completes or rolls back the move.",
        default=1,
        unit="h",
    )
    most_wal_bytes: Annotated[int, Field(ge=1024 * 1024)] = setting(
        "How much WAL a link may make a PostgreSQL server keep. Over it, `tenure soak check` ends the soak: the copy "
        "follows no longer and there is no way back. Set `max_slot_wal_keep_size` to it as well.",
        default=10 * 1024**3,
        unit="bytes",
    )


class PostgresSettings(Settings):
    """A PostgreSQL database of a cell."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: postgresql)"
    kind: Literal["postgresql"] = setting("PostgreSQL 16 or newer.")
    dsn: SecretSetting = setting(
        "How Tenure reaches the database, as a libpq connection string. Where each tenant has a database of its "
        "own: how it reaches some other database of that server, such as `postgres`."
    )
    database: DatabaseTemplate | None = setting(
        "The name of a tenant's own database on that server, with `{tenant}` in it, where the catalogue says "
        "`isolation: database`; only there.",
        default=None,
    )
    dsn_from_cells: SecretSetting | None = setting(
        "How the servers of the other cells reach it for replication, where that differs from `dsn`.",
        default=None,
    )

    scratch_dsn: SecretSetting | None = setting(
        "How Tenure reaches a server on which it may make and drop scratch databases for restores, as a role with "
        "CREATEDB: any of its databases, in the version and with the extensions of this store's server. Not set: the "
        "server of `dsn`.",
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
    url: SecretSetting = setting(
        "How Tenure reaches it: redis:// or rediss://, with user and password. Of a cluster, any of its servers."
    )


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
    trust_etags: bool = setting(
        "Whether two objects whose ETags are equal count as equal. If not, every comparison reads every object on both "
        "sides. Where ETags differ and at least one is no MD5 sum (uploads in parts, encryption), it does anyway.",
        default=True,
    )


StoreSettings = Annotated[
    PostgresSettings
    | PgvectorSettings
    | RedisSettings
    | S3Settings
    | PineconeSettings
    | AnalyticsSettings
    | LogsSettings
    | MetricsSettings
    | PrometheusSettings
    | VaultSettings,
    Discriminator("kind"),
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


class Canary(Settings):
    """Before a switch, a growing share of the reads goes to the target. Its reads trail the writes by the replication
    lag: a user may not see at once what he has just written."""

    title: ClassVar[str] = "tiers.NAME.canary"
    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], AfterValidator(growing)] = setting(
        "The shares of the reads, one after the other; each more than the one before.",
        default=(10, 25, 50, 75, 100),
        unit="percent",
    )
    soak_s: Annotated[float, Field(gt=0, le=86_400)] = setting(
        "How long each share lasts. The source alone is measured for as long before the first one.",
        default=120,
        unit="s",
    )


class Bounds(Settings):
    """What the users of a tenant must get from its target, in a canary and in the soak after the switch.

    A bound counts as left when chance does not explain what was seen.
    """

    title: ClassVar[str] = "tiers.NAME.bounds"
    error_rate: Annotated[float, Field(ge=0, le=1)] = setting(
        "How much higher than the source's the share of failed requests may be (5xx, no answer, too late).",
        default=0.01,
        unit="share",
    )
    latency_ratio: Annotated[float, Field(ge=1, le=1000)] = setting(
        "How many times the source's the 99th percentile of the latency may be.", default=2, unit="times"
    )
    latency_margin_ms: Annotated[float, Field(ge=0, le=600_000)] = setting(
        "It may always be this much higher than the source's, whatever `latency_ratio` says.",
        default=50,
        unit="ms",
    )
    latency_p99_ms: Annotated[float, Field(gt=0, le=600_000)] | None = setting(
        "The highest 99th percentile allowed, whatever the source's is.", default=None, unit="ms"
    )
    min_requests: Annotated[int, Field(ge=1, le=100_000)] = setting(
        "With fewer answers than this, nothing is called healthy and nothing is compared with them. A share with too "
        "few requests is passed and says so.",
        default=50,
        unit="requests",
    )


class Tier(Settings):
    """A service level."""

    title: ClassVar[str] = "tiers.NAME"
    rank: Annotated[int, Field(ge=1, le=1000)] = setting("1 is the highest: its tenants go first.")
    soak_h: Annotated[float, Field(gt=0, le=720)] | None = setting(
        "How long its tenants soak at most, instead of `soak.ttl_h`.", default=None, unit="h"
    )
    approval: ApprovableKinds = setting(
        "The operations on its tenants that need the approval of a second person.", default=()
    )
    throttle: bool = setting(
        "Whether the writes of its tenants may be slowed down, where `sync.throttle` says how.", default=True
    )
    canary: Canary | None = setting(
        "Send reads to the target before the switch. Without it only where `tenure migrate --canary` asks for it.",
        default=None,
    )
    bounds: Bounds = setting("What its tenants' users must get.", default=Bounds())
    backup: TierBackup | None = setting(
        "Scheduled backups of its tenants, and how long they are kept. Without it a backup is made only when somebody "
        "asks for one, and none is ever pruned.",
        default=None,
    )
    cooling_off_h: Annotated[float, Field(ge=0, le=720)] = setting(
        "How long an erasure of one of its tenants waits before anything is closed or deleted, and can be cancelled. "
        "Nothing else is done with the tenant meanwhile.",
        default=0,
        unit="h",
    )
    rollback_on_regression: bool = setting(
        "Whether `tenure watch` rolls a tenant back by itself when its cell leaves the bounds in the soak. The source "
        "is measured before the switch for that, canary or not.",
        default=False,
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
    sync: Sync = setting("What is done when writes outpace the copies.", default=Sync())
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
    fleet: Fleet = setting(
        "The processes that carry operations on without anybody at a terminal: workers, scheduler, locks.",
        default=Fleet(),
    )
    capacity: Capacity = setting("How much may be under way at once.", default={}, validate_default=True)
    backups: BackupsSettings | None = setting(
        "How backups are sealed and signed. Without it none are made.", default=None
    )
    prices: Prices | None = setting("The price list. Without it plans predict no costs.", default=None)
    approval: ApprovalSettings = setting("Which operations need a second person.", default=ApprovalSettings())
    targets: Targets = setting("What operations are measured against.", default=Targets())
