"""The names of what is a tenant's own are its alone, or there is no home for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tenure.errors import StoreRefused
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.postgres import PostgresStore, TenantTable
from tenure.stores.postgres.store import MOST_HOMES

SHARED = TenantTable(schema="billing", name="plans", tenant_column="tenant_id")


def store(
    *tables: TenantTable, database: str | None = None, carried: Sequence[TenantTable] = ()
) -> PostgresStore:
    return PostgresStore(
        name=StoreName("postgres"),
        cell=CellName("blue"),
        dsn=Secret("host=127.0.0.1 port=1 dbname=maintenance password=secret"),
        tables=tables,
        carried=carried,
        database=database,
    )


def test_a_home_has_the_tenants_own_names_and_shares_the_rest() -> None:
    own = TenantTable(schema="t_{tenant}", name="orders")
    vectors = TenantTable(schema="t_{tenant}", name="vectors")
    its = store(SHARED, own, carried=[vectors])
    home = its.home(TenantId("Acme.Co-1"))
    assert [t.collection for t in home.all_tables] == [
        "billing.plans",
        '"t_Acme.Co-1".orders',
        '"t_Acme.Co-1".vectors',
    ]
    assert home.schemas == {"t_Acme.Co-1"}
    assert home.pool is its.pool


def test_a_home_in_a_database_of_its_own_keeps_the_rest_of_the_connection_string() -> None:
    its = store(TenantTable(schema="public", name="orders"), database="app_{tenant}")
    home = its.home(TenantId("acme"))
    assert home.pool is not its.pool
    assert home.pool.where == "postgres in blue, database app_acme"
    assert "dbname=app_acme" in home.dsn_from_cells.reveal()
    assert "port=1" in home.dsn_from_cells.reveal()
    assert "secret" not in repr(home)


@pytest.mark.parametrize(
    ("template", "tenant", "said"),
    [
        ("{tenant}", "billing", "is not the tenant's alone"),  # where the shared table is
        ("{tenant}", "tenure", "is not the tenant's alone"),
        ("{tenant}", "public", "is not the tenant's alone"),
        ("{tenant}", "pg_temp", "is not the tenant's alone"),
        (
            "t_{tenant}",
            "a" * 62,
            "longer than the 63 bytes",
        ),  # the server would cut it off: like a neighbour's
    ],
)
def test_a_schema_that_is_not_the_tenants_alone_is_refused(template: str, tenant: str, said: str) -> None:
    its = store(SHARED, TenantTable(schema=template, name="orders"))
    with pytest.raises(StoreRefused, match=said) as refused:
        its.home(TenantId(tenant))
    assert tenant in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("tenant", ["postgres", "template1", "maintenance", "a" * 62 + "b"])
def test_a_database_that_is_not_the_tenants_alone_is_refused(tenant: str) -> None:
    template = "t_{tenant}" if len(tenant) > 60 else "{tenant}"
    with pytest.raises(StoreRefused, match="database"):
        store(TenantTable(schema="public", name="orders"), database=template).home(TenantId(tenant))


def test_only_so_many_homes_are_kept_and_the_oldest_go_first() -> None:
    its = store(TenantTable(schema="public", name="orders"), database="app_{tenant}")
    first, second = its.home(TenantId("first")), its.home(TenantId("second"))
    for n in range(MOST_HOMES - 2):
        its.home(TenantId(f"other{n}"))
    assert its.home(TenantId("first")) is first
    its.home(TenantId("one-more"))
    assert its.home(TenantId("first")) is first
    assert its.home(TenantId("second")) is not second
