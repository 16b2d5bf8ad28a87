"""The ledger of erasures: who was erased, when, and on whose request. Every restore consults it; nothing leaves it.

It names nobody. Whoever asks brings digests under a key that lies elsewhere (`model.erasure.Names`): so the ledger
itself holds nothing that an erasure should have removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tenure.model.erasure import Digest, Erasure, Scope
from tenure.model.operation import Lease
from tenure.registry.database import Database
from tenure.registry.leases import held


class Erasures:
    """Keeps the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(
        self,
        lease: Lease | None,
        *,
        request: str,
        key_id: str,
        tenant: Digest,
        persons: Sequence[Digest] = (),
    ) -> None:
        """Write down that a tenant was erased, or these persons of it. Idempotent by the request."""
        scope = Scope.PERSON if persons else Scope.TENANT
        with held(self._database, lease) as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into registry.erasures (request, operation, scope, key_id, tenant, person)
                values (%s, %s, %s, %s, %s, %s)
                on conflict (request, scope, key_id, tenant, person) do nothing
                """,
                [
                    (request, lease.operation if lease is not None else None, scope, key_id, tenant, person)
                    for person in (persons or (None,))
                ],
            )

    def of(self, tenant: Digest, *, after: datetime) -> tuple[Erasure, ...]:
        """Everything that was erased of that tenant, itself included, after that instant: the point of a backup."""
        with self._database.connection() as connection:
            rows = connection.execute(
                """
                select request, scope, key_id, tenant, person, erased_at from registry.erasures
                where tenant = %s and erased_at > %s order by erased_at, id
                """,
                (tenant, after),
            ).fetchall()
        return tuple(
            Erasure(
                request=row[0],
                scope=Scope(row[1]),
                key_id=row[2],
                tenant=Digest(bytes(row[3])),
                person=None if row[4] is None else Digest(bytes(row[4])),
                erased_at=row[5],
            )
            for row in rows
        )

    def keys(self) -> frozenset[str]:
        """The keys under which the ledger was written. Whoever lacks one of them cannot know who was erased."""
        with self._database.connection() as connection:
            rows = connection.execute("select distinct key_id from registry.erasures").fetchall()
        return frozenset(str(row[0]) for row in rows)
