"""The small library that the SaaS's own app uses: permits (the epoch check), the journal, and jobs that
follow a tenant.

Every write for a tenant happens while a transaction is open that holds the tenant's permit: also the writes
to Redis and to the object store, which is what lets the fence in PostgreSQL wait for them. Needs psycopg
and nothing else.
"""

from tenure.client.jobs import Placement, run_in_cell
from tenure.client.permits import Fenced, apermit, atouch, install, permit, touch, translating

__all__ = [
    "Fenced",
    "Placement",
    "apermit",
    "atouch",
    "install",
    "permit",
    "run_in_cell",
    "touch",
    "translating",
]
