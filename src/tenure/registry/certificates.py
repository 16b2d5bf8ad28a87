"""Certificates of erasure in the control database: issued once, never changed, sometimes revoked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from tenure.errors import UnknownName
from tenure.model.names import TenantId
from tenure.model.operation import Lease
from tenure.registry import events
from tenure.registry.database import Database, DictRow, dict_row
from tenure.registry.leases import held

_SELECT = """
    select c.id, c.request, c.operation, c.tenant, c.supersedes, c.envelope, c.sha256, c.final, c.lapses_at,
           c.issued_at, r.because, r.at as revoked_at
    from registry.certificates c left join registry.certificate_revocations r on r.certificate = c.id
"""


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate that was issued; `revoked` says why it counts no more."""

    id: str
    request: str
    operation: str
    tenant: TenantId
    supersedes: str | None
    envelope: str
    sha256: str
    final: bool
    lapses_at: datetime | None
    issued_at: datetime
    revoked: str | None
    revoked_at: datetime | None


class Certificates:
    """Keeps certificates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def issue(
        self,
        lease: Lease,
        *,
        id: str,
        request: str,
        tenant: TenantId,
        envelope: str,
        lapses_at: datetime | None,
        actor: str,
        supersedes: str | None = None,
    ) -> Issued:
        """Keep the certificate of the lease's operation, journaled. Repeated, it gives back the one that was kept."""
        with held(self._database, lease) as connection:
            row = connection.execute(
                """
                insert into registry.certificates
                    (id, request, operation, tenant, supersedes, envelope, sha256, final, lapses_at)
                values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
                on conflict (operation) do nothing returning sha256
                """,
                (
                    id,
                    request,
                    lease.operation,
                    tenant,
                    supersedes,
                    envelope,
                    hashlib.sha256(envelope.encode()).hexdigest(),
                    lapses_at is None,
                    lapses_at,
                ),
            ).fetchone()
            if row is not None:
                events.append(
                    connection,
                    "certificate_issued",
                    actor=actor,
                    operation=lease.operation,
                    tenant=tenant,
                    data={
                        "certificate": id,
                        "request": request,
                        "sha256": row[0],
                        "final": lapses_at is None,
                    },
                )
        (kept,) = self._list("where c.operation = %s", lease.operation)
        return kept

    def get(self, id: str) -> Issued:
        """The certificate of that id, or the newest one of that request. Raises `UnknownName`."""
        found = self._list("where c.id = %s or c.request = %s", id, id)
        if not found:
            raise UnknownName(
                f"there is no certificate {id!r:.80}, and none for a request of that name",
                hint="`tenure erase status` lists the requests",
            )
        return found[-1]

    def list(self, *, request: str | None = None) -> tuple[Issued, ...]:
        """All certificates, or those of a request, in the order in which they were issued."""
        return self._list("") if request is None else self._list("where c.request = %s", request)

    def of_operation(self, operation: str) -> Issued | None:
        found = self._list("where c.operation = %s", operation)
        return found[-1] if found else None

    def head(self) -> str | None:
        """The SHA-256 of the newest certificate: what the next one names."""
        found = self._list("where c.number = (select max(number) from registry.certificates)")
        return found[0].sha256 if found else None

    def revoke(self, id: str, *, because: str, actor: str) -> Issued:
        """Have it count no more. Repeated, the first reason stays. Journaled."""
        certificate = self.get(id)
        with self._database.transaction() as connection:
            row = connection.execute(
                """
                insert into registry.certificate_revocations (certificate, because, actor) values (%s, %s, %s)
                on conflict (certificate) do nothing returning certificate
                """,
                (certificate.id, because, actor),
            ).fetchone()
            if row is not None:
                events.append(
                    connection,
                    "certificate_revoked",
                    actor=actor,
                    operation=certificate.operation,
                    tenant=certificate.tenant,
                    data={"certificate": certificate.id, "because": because},
                )
        return self.get(certificate.id)

    def _list(self, where: str, *values: object) -> tuple[Issued, ...]:
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(f"{_SELECT} {where} order by c.number", values or None)
            return tuple(_issued(row) for row in rows)


def _issued(row: DictRow) -> Issued:
    return Issued(
        id=row["id"],
        request=row["request"],
        operation=row["operation"],
        tenant=TenantId(row["tenant"]),
        supersedes=row["supersedes"],
        envelope=row["envelope"],
        sha256=row["sha256"],
        final=row["final"],
        lapses_at=row["lapses_at"],
        issued_at=row["issued_at"],
        revoked=row["because"],
        revoked_at=row["revoked_at"],
    )
