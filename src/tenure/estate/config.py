"""Reads `tenure.yaml` and the catalogue it names into an `Estate`, or says everything that is wrong with
both."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tenure.catalogue.catalogue import Catalogue
from tenure.catalogue.loading import catalogue_of
from tenure.document import Document, Problem, raise_problems, read_document, validate
from tenure.document.reading import block_at, text_at
from tenure.errors import ConfigurationError, UnknownName
from tenure.estate.checks import check_estate
from tenure.estate.secret_ref import SecretRef
from tenure.estate.settings import (
    Cell,
    Control,
    DnsSettings,
    EstateSettings,
    Freeze,
    Gate,
    Gateway,
    Hold,
    PgvectorSettings,
    PostgresSettings,
    Prices,
    RedisSettings,
    ResidencyRule,
    S3Settings,
    Soak,
    StoreSettings,
    Sync,
    Throttle,
    Tier,
    Verify,
)
from tenure.estate.settings_analytics import AnalyticsSettings
from tenure.estate.settings_approval import ApprovalSettings, Targets
from tenure.estate.settings_backups import BackupsSettings
from tenure.estate.settings_capacity import Capacity
from tenure.estate.settings_fleet import Fleet, Scheduler
from tenure.estate.settings_pinecone import PineconeSettings
from tenure.estate.settings_telemetry import LogsSettings, MetricsSettings, PrometheusSettings
from tenure.estate.settings_vault import VaultSettings
from tenure.model.names import CellName

__all__ = [
    "AnalyticsSettings",
    "ApprovalSettings",
    "BackupsSettings",
    "Capacity",
    "Cell",
    "Control",
    "DnsSettings",
    "Estate",
    "Fleet",
    "Gate",
    "Gateway",
    "Hold",
    "LogsSettings",
    "MetricsSettings",
    "PgvectorSettings",
    "PineconeSettings",
    "PostgresSettings",
    "Prices",
    "PrometheusSettings",
    "RedisSettings",
    "ResidencyRule",
    "S3Settings",
    "Scheduler",
    "SecretRef",
    "Soak",
    "StoreSettings",
    "Sync",
    "Targets",
    "Throttle",
    "Tier",
    "VaultSettings",
    "Verify",
    "load_estate",
]


@dataclass(frozen=True, kw_only=True)
class Estate:
    """Everything `tenure.yaml` and its catalogue say, checked. Paths are absolute; secrets are read when
    asked for."""

    path: pathlib.Path
    catalogue: Catalogue
    control: Control
    gateway: Gateway
    hold: Hold
    verify: Verify
    sync: Sync
    soak: Soak
    capacity: Capacity
    cells: Mapping[CellName, Cell]
    tiers: Mapping[str, Tier]
    residency: Mapping[str, ResidencyRule]
    freeze: Mapping[str, Freeze]
    backups: BackupsSettings | None
    prices: Prices | None
    fleet: Fleet
    approval: ApprovalSettings
    targets: Targets

    @property
    def root(self) -> pathlib.Path:
        """The folder of `tenure.yaml`."""
        return self.path.parent

    def cell(self, name: str) -> Cell:
        """The cell of that name. Raises `UnknownName`."""
        found = self.cells.get(CellName(name))
        if found is None:
            raise UnknownName(f"there is no cell {name!r:.60}", hint=f"the cells are {', '.join(self.cells)}")
        return found

    def check_secrets(self) -> None:
        """Read every secret once. Raises `ConfigurationError` with every one that is missing, and where
        two cells' references turn out to be the same address: a move between them would copy a tenant onto
        itself."""
        problems: list[str] = []
        homes: dict[tuple[str, str], SecretRef] = {}
        for kind, reference in self._secrets():
            try:
                value = reference.resolve().reveal()
            except ConfigurationError as error:
                problems.extend(error.problems)
                continue
            if kind is not None and homes.setdefault((kind, value), reference) is not reference:
                first = homes[kind, value]
                problems.append(
                    f"{reference.where}: holds the same address as {first.where}: no two cells may share one"
                )
        if problems:
            raise ConfigurationError(
                f"{len(problems)} of the secrets of {self.path} cannot be used",
                problems=tuple(problems),
                hint="write the secrets where the file says they are",
            )

    def _secrets(self) -> Iterator[tuple[str | None, SecretRef]]:
        """Every reference; with the kind of store where the secret is a store's own address."""
        yield None, self.control.dsn
        yield None, self.gateway.gate.token
        yield from ((None, secret) for secret in (self.fleet.broker, self.fleet.locks) if secret is not None)
        if self.backups is not None:
            yield from ((None, secret) for secret in self.backups.secrets)
        if self.gateway.dns is not None:
            yield None, self.gateway.dns.secret
        for cell in self.cells.values():
            for store in cell.stores.values():
                yield from _secrets_of(store)


def _secrets_of(store: StoreSettings) -> Iterator[tuple[str | None, SecretRef]]:
    match store:
        case PostgresSettings():
            yield store.kind, store.dsn
            if store.dsn_from_cells:
                yield None, store.dsn_from_cells
        case RedisSettings():
            yield store.kind, store.url
        case S3Settings() | VaultSettings() | LogsSettings() | MetricsSettings():
            yield from ((None, key) for key in (store.access_key, store.secret_key) if key)
        case PineconeSettings():
            yield None, store.api_key
            if store.limiter is not None:
                yield None, store.limiter
        case AnalyticsSettings():
            if store.dsn is not None:
                yield store.kind, store.dsn
            yield from ((None, key) for key in (store.key, store.password) if key)
        case PrometheusSettings():
            yield from ((None, key) for key in (store.password, store.token) if key)
        case PgvectorSettings():
            pass


def load_estate(path: pathlib.Path) -> Estate:
    """The estate of that file. Raises `ConfigurationError` with every problem of it and of its catalogue,
    each with its place. Reads no secret."""
    document = read_document(path)
    settings = validate(EstateSettings, document)
    catalogue, catalogue_document = _catalogue(document)
    check_estate(document, catalogue_document)
    problems: list[Problem] = [
        *document.problems,
        *(catalogue_document.problems if catalogue_document else ()),
    ]
    raise_problems(problems)
    assert settings is not None
    assert catalogue is not None
    return Estate(
        path=path.absolute(),
        catalogue=catalogue,
        control=settings.control,
        gateway=settings.gateway,
        hold=settings.hold,
        verify=settings.verify,
        sync=settings.sync,
        soak=settings.soak,
        capacity=settings.capacity,
        cells=settings.cells,
        tiers=settings.tiers,
        residency=settings.residency,
        freeze=settings.freeze,
        backups=settings.backups,
        prices=settings.prices,
        fleet=settings.fleet,
        approval=settings.approval,
        targets=settings.targets,
    )


def _catalogue(document: Document) -> tuple[Catalogue | None, Document | None]:
    """The catalogue that the document names, and its file; a file that cannot be read is the document's
    problem."""
    named = text_at(block_at(document.root).get("catalogue"))
    if not named or "\0" in named:
        return None, None
    try:
        read = read_document(document.file.parent / pathlib.Path(named))
    except ConfigurationError as error:
        document.report(("catalogue",), error.message)
        return None, None
    return catalogue_of(read), read
