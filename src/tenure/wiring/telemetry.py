"""Makes the stores of what an app says about itself: logs and metrics. A part of `tenure.wiring`."""

from __future__ import annotations

from tenure.catalogue import LogsMap, MetricsMap, PrometheusMap, StoreMap
from tenure.estate.config import Estate, LogsSettings, MetricsSettings, PrometheusSettings, StoreSettings
from tenure.estate.secret_ref import SecretRef
from tenure.model.names import CellName, TenantId
from tenure.model.secret import Secret
from tenure.stores.cloudwatch import Account, FolderSink, LogsCopy, LogsStore, MetricsStore
from tenure.stores.contract import LiveCopy, Store
from tenure.stores.prometheus import PrometheusStore
from tenure.wiring.ports import Anchor, Journals


def make(
    estate: Estate, cell: CellName, where: StoreMap, settings: StoreSettings, anchor: Anchor
) -> Store | None:
    if isinstance(settings, LogsSettings) and isinstance(where, LogsMap):
        return LogsStore(
            name=where.name,
            cell=cell,
            account=_account(settings),
            places=where.groups,
            ignore=where.ignore,
            prefix=settings.group_prefix or "",
            anchor=anchor(cell, where.journal) if where.journal is not None else None,
            export=FolderSink(settings.export) if settings.export is not None else None,
            elsewhere=_elsewhere(estate, cell, where, settings),
        )
    if isinstance(settings, MetricsSettings) and isinstance(where, MetricsMap):
        return MetricsStore(
            name=where.name,
            cell=cell,
            account=_account(settings),
            places=where.namespaces,
            ignore=where.ignore,
        )
    if isinstance(settings, PrometheusSettings) and isinstance(where, PrometheusMap):
        return PrometheusStore(
            name=where.name,
            cell=cell,
            url=settings.url,
            label=where.label,
            metrics=tuple(k.pattern for k in where.metrics),
            ignore=tuple(k.pattern for k in where.ignore),
            user=settings.user,
            password=settings.password.resolve() if settings.password is not None else None,
            token=settings.token.resolve() if settings.token is not None else None,
            anchor=anchor(cell, where.fenced_with) if where.fenced_with is not None else None,
        )
    return None


def copy(link: str, tenant: TenantId, source: Store, target: Store, journals: Journals) -> LiveCopy | None:
    """Metrics have none: they stay where they are."""
    if not isinstance(source, LogsStore) or not isinstance(target, LogsStore):
        return None
    return LogsCopy(
        link=link,
        tenant=tenant,
        source=source,
        target=target,
        source_journal=journals[0],
        target_journal=journals[1],
    )


def _account(settings: LogsSettings | MetricsSettings) -> Account:
    return Account(
        region=settings.region,
        endpoint=settings.endpoint,
        access_key=_secret(settings.access_key),
        secret_key=_secret(settings.secret_key),
    )


def _secret(reference: SecretRef | None) -> Secret:
    return reference.resolve() if reference is not None else Secret("")


def _elsewhere(estate: Estate, cell: CellName, where: LogsMap, settings: LogsSettings) -> tuple[str, ...]:
    """The prefixes of other cells' groups in the same region of what may be the same account."""
    others = (
        other.stores[where.name]
        for name, other in estate.cells.items()
        if name != cell and where.name in other.stores
    )
    return tuple(
        other.group_prefix
        for other in others
        if isinstance(other, LogsSettings)
        and other.group_prefix is not None
        and (other.region, other.endpoint) == (settings.region, settings.endpoint)
    )
