"""What stands in the way of a move between two warehouses, or should be known before it. Changes nothing in either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tenure.catalogue import AnalyticsTable
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.analytics.portable import portable
from tenure.stores.analytics.store import AnalyticsStore

LARGE_UNIT_ROWS: Final = 1_000_000
"""A unit of more rows is worth a warning: whatever changes in it is copied with all of them."""


def findings(
    tenant: TenantId, source: AnalyticsStore, target: AnalyticsStore, *, linked: bool
) -> Sequence[Finding]:
    """Everything at once, each with its fix. `linked`: rows on the target are there because a link has brought them."""
    found: list[Finding] = []
    if (source.engine.dialect, source.server) == (target.engine.dialect, target.server):
        found.append(
            _finding(
                Severity.REFUSAL,
                "analytics_same_place",
                f"{source.where}, {target.where}",
                "both cells use one warehouse with the same tables",
                "use one warehouse, or one database of it, per cell",
            )
        )
        return found
    for store in (source, target):
        found.append(_cooperates(store))
        found += _hazards(store)
        found += _unnamed(store)
    for table in source.tables:
        found += _pair(table, source, target)
    if not any(f.severity is Severity.REFUSAL for f in found):
        for table in source.tables:
            found += _rows(tenant, table, source, target, linked=linked)
    return sorted(found)


def _finding(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)


def _cooperates(store: AnalyticsStore) -> Finding:
    return _finding(
        Severity.WARNING,
        "fence_cooperates",
        store.where,
        "analytics do not refuse a fenced tenant's writes: only the gate and tenure.client keep them out",
        f"let every writer touch what it changes, and write, inside a transaction of {store.anchor.name}",
    )


def _hazards(store: AnalyticsStore) -> Iterator[Finding]:
    for table in store.tables:
        for hazard in store.engine.hazards(table):
            severity = Severity.REFUSAL if hazard.refuses else Severity.WARNING
            yield _finding(severity, hazard.code, f"{store.where}, {table.name}", hazard.message, hazard.fix)


def _unnamed(store: AnalyticsStore) -> Iterator[Finding]:
    """Tables with the tenants' column that the catalogue does not name: what they hold would be left behind."""
    where = store.map
    named = {*where.tables, *where.ignore}
    columns = {table.tenant_column for table in where.tables.values()}
    for name, its in sorted(
        store.engine.tables({n.schema for n in named}).items(), key=lambda one: str(one[0])
    ):
        tenants = sorted({c.name for c in its} & {c for c in columns if c is not None})
        if name not in named and tenants:
            yield _finding(
                Severity.REFUSAL,
                "analytics_table_unnamed",
                f"{store.where}, {name}",
                f"the catalogue names the table nowhere, and it has the column {tenants[0]}: the tenant's rows in it "
                "would stay behind",
                "name it under `tables` of the store, or under `ignore` if it holds no tenant's data",
            )


def _pair(table: AnalyticsTable, source: AnalyticsStore, target: AnalyticsStore) -> Iterator[Finding]:
    columns = {}
    for store in (source, target):
        found = {c.name: c.type for c in store.engine.columns(table.name) if not c.computed}
        if table.name not in store.units.tables or not found:
            yield _finding(
                Severity.REFUSAL,
                "analytics_table_missing",
                f"{store.where}, {table.name}",
                "the table is not there",
                "create it, with the same columns as in the other cell",
            )
            return
        columns[store.cell] = found
    ours, theirs = columns[source.cell], columns[target.cell]
    alike = source.engine.dialect == target.engine.dialect
    different = sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or (alike and ours[name] != theirs[name])
    )
    if different:
        yield _finding(
            Severity.REFUSAL,
            "analytics_columns_differ",
            f"{source.where}, {target.where}, {table.name}",
            f"the columns {', '.join(different)} are not the same on both sides",
            "bring both tables to the same columns and types",
        )
    if alike:
        return
    foreign = sorted(
        name for name in ours.keys() & theirs.keys() if not portable(ours[name]) or not portable(theirs[name])
    )
    if foreign:
        yield _finding(
            Severity.REFUSAL,
            "analytics_types_foreign",
            f"{source.where}, {target.where}, {table.name}",
            f"the columns {', '.join(foreign)} are of types that {source.engine.dialect} and "
            f"{target.engine.dialect} have no common form for",
            "use one engine in both cells, or types that both have",
        )


def _rows(
    tenant: TenantId, table: AnalyticsTable, source: AnalyticsStore, target: AnalyticsStore, *, linked: bool
) -> Iterator[Finding]:
    rows = 0 if linked else sum(target.engine.partitions(table, tenant).values())
    if rows:
        yield _finding(
            Severity.REFUSAL,
            "target_not_empty",
            f"{target.where}, {table.name}",
            f"{rows} rows of {tenant} are there already",
            "erase the tenant in that cell first, if nobody needs them",
        )
    largest = max(source.engine.partitions(table, tenant).values(), default=0)
    if largest > LARGE_UNIT_ROWS:
        yield _finding(
            Severity.WARNING,
            "analytics_large_unit",
            f"{source.where}, {table.name}",
            f"one partition holds {largest} rows of {tenant}: a change to one of them copies all of them, also while "
            "the tenant is held",
            "name a finer `partition` in the catalogue",
        )
