"""A schema with one table for every peculiarity, rows for it, and what an app does with them."""

from __future__ import annotations

from pathlib import Path

from tenure.model.names import TenantId
from tenure.stores.postgres import TenantTable

FOLDER = Path(__file__).parent
SCHEMA = (FOLDER / "schema.sql").read_text(encoding="utf-8")

TABLES = [
    *(
        TenantTable(schema="app", name=name, tenant_column="tenant_id")
        for name in (
            "types",
            "generated",
            "toasted",
            "parted",
            "by_id",
            "no_primary",
            "full_rows",
            "accounts",
            "orders",
            "drawn",
            "audited",
            "secured",
        )
    ),
    TenantTable(schema='Odd "schema".x', name='Table of, "quotes". and spaces', tenant_column='Tenant "Id"'),
    TenantTable(schema="a.b", name="c", tenant_column="tenant_id"),
    TenantTable(schema="a", name="b.c", tenant_column="tenant_id"),
]

PLANS = "insert into app.plans values ('gold', 'NaN'), ('free', 0.00);"


def rows(tenant: TenantId, n: int) -> str:
    """Statements that insert the tenant's rows; keys that are unique in a cell follow from `n`."""
    text = (FOLDER / "rows.sql").read_text(encoding="utf-8")
    return text.replace(":tenant", tenant).replace(":n", str(n))


def writes(n: int) -> list[str]:
    """Every kind of write to every table, for acme."""
    text = (FOLDER / "writes.sql").read_text(encoding="utf-8").replace(":n", str(n))
    return [statement for statement in text.split(";\n") if statement]
