"""PostgreSQL, and pgvector tables riding with it: tenants' rows in shared tables, or in a schema or database of each
tenant's own, moved by logical replication."""

from tenure.stores.postgres.cell_schema import install_cell
from tenure.stores.postgres.journal import PostgresJournal
from tenure.stores.postgres.live_copy import PostgresLiveCopy
from tenure.stores.postgres.store import PostgresStore
from tenure.stores.postgres.tables import TenantTable
from tenure.stores.postgres.tenant_fence import PostgresTenantFence
from tenure.stores.postgres.vectors import PgVectorLiveCopy, PgVectorStore

__all__ = [
    "PgVectorLiveCopy",
    "PgVectorStore",
    "PostgresJournal",
    "PostgresLiveCopy",
    "PostgresStore",
    "PostgresTenantFence",
    "TenantTable",
    "install_cell",
]
