"""Where one tenant's rows are in one cell: a database, and tables by the names that they have there.

Everything that filters, fences, publishes, compares, repairs or erases works on such a home. Whether tenants share
tables, have a schema each or a database each shows in two things only: in what the names are, and in whether a table
has a tenant column, which makes a condition on its rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

from tenure.catalogue.patterns import PLACEHOLDER, Template
from tenure.catalogue.qualified_name import check_identifier
from tenure.errors import StoreRefused, UsageError
from tenure.model.names import TENANT_ID, CellName, TenantId
from tenure.model.secret import Secret
from tenure.stores.postgres.connect import Pool, to_database
from tenure.stores.postgres.tables import TenantTable

_RESERVED_SCHEMAS: Final = ("public", "tenure", "information_schema")
_RESERVED_DATABASES: Final = ("postgres", "template0", "template1")


@dataclass(frozen=True, kw_only=True)
class Home:
    """One tenant's tables in one database of a cell. `tables` are the store's own; `carried` those of stores that ride
    with it; `ignored` hold no tenant's data. `dsn_from_cells` is how other servers reach the database."""

    cell: CellName
    pool: Pool
    dsn_from_cells: Secret
    tables: tuple[TenantTable, ...]
    carried: tuple[TenantTable, ...]
    ignored: tuple[TenantTable, ...]
    database: str | None = None
    """The database, where it is the tenant's own."""
    schemas: frozenset[str] = field(default=frozenset())
    """The schemas that are the tenant's own."""
    schema_patterns: frozenset[str] = field(default=frozenset())
    """Regular expressions of what every tenant's own schemas are called."""

    @property
    def all_tables(self) -> tuple[TenantTable, ...]:
        """What a link fences and publishes."""
        return self.tables + self.carried

    @property
    def known(self) -> frozenset[str]:
        """The collections that the catalogue knows here: `all_tables` and `ignored`."""
        return frozenset(t.collection for t in (*self.all_tables, *self.ignored))

    @property
    def own_names(self) -> bool:
        """Whether some names here are this tenant's own."""
        return self.database is not None or bool(self.schemas)


def home_of(home: Home, tenant: TenantId, *, server: str, database: Template | None) -> Home:
    """The home of that tenant, from one whose names may be templates. `server` says in messages where it is.

    Raises `StoreRefused` where the names that follow from the tenant's id cannot be its own.
    """
    tables, carried, ignored = (
        tuple(t.of(tenant) for t in given) for given in (home.tables, home.carried, home.ignored)
    )
    templates = {Template.name(t.schema) for t in home.all_tables if t.own_schema}
    shared = {t.schema for t in (*home.all_tables, *home.ignored) if not t.own_schema}
    settled = replace(
        home,
        tables=tables,
        carried=carried,
        ignored=ignored,
        schemas=frozenset(template.expand(tenant) for template in templates),
        schema_patterns=frozenset(map(_pattern, templates)),
    )
    for schema in sorted(settled.schemas):
        _require_free("schema", schema, server, schema in shared or schema in _RESERVED_SCHEMAS)
    if database is None:
        return settled
    name = database.expand(tenant)
    _require_free("database", name, server, name in {*_RESERVED_DATABASES, home.pool.database})
    return replace(
        settled,
        pool=home.pool.beside(name),
        dsn_from_cells=to_database(home.dsn_from_cells, name),
        database=name,
    )


def _pattern(template: Template) -> str:
    before, after = (re.escape(part) for part in template.text.split(PLACEHOLDER))
    return f"^{before}{TENANT_ID.pattern}{after}$"


def _require_free(what: str, name: str, server: str, taken: bool) -> None:
    problem = "is not the tenant's alone" if taken or name.startswith("pg_") else ""
    try:
        check_identifier(name)
    except UsageError as error:
        problem = error.message
    if problem:
        raise StoreRefused(
            f"{server}: the {what} {name} of this tenant {problem}",
            hint=f"give the {what} another name by template, with something in front of the tenant's id; or give the"
            " tenant another id",
        )
