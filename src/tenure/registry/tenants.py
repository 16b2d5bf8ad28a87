"""The tenants of the estate."""

from __future__ import annotations

from psycopg import errors

from tenure.errors import UnknownName, UsageError
from tenure.model.names import CellName, TenantId
from tenure.model.tenancy import Placement, Tenant, TenantState
from tenure.registry import events
from tenure.registry.database import Connection, Database, DictRow, TupleRow, dict_row
from tenure.registry.placements import place


class Tenants:
    """Adds, finds and changes tenants. Every change is journaled with who made it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, tenant: Tenant, cell: CellName, *, actor: str) -> Placement:
        """Add a tenant, served by `cell`, and return its first placement.

        Its epoch is 1, or above every epoch a former tenant of that id ever had. Raises `UsageError` if the
        id or the host is taken; nothing is changed then.
        """
        with self._database.transaction() as connection:
            try:
                connection.execute(
                    """
                    insert into registry.tenants (id, tier, host, residency, state, legal_hold)
                    values (%s, %s, %s, %s, %s, %s)
                    """,
                    (
                        tenant.id,
                        tenant.tier,
                        tenant.host,
                        tenant.residency,
                        tenant.state.value,
                        tenant.legal_hold,
                    ),
                )
            except errors.UniqueViolation as error:
                if error.diag.constraint_name == "tenants_host_key":
                    raise UsageError(
                        f"the host {tenant.host} is another tenant's already",
                        hint="give it another with `--host`",
                    ) from error
                raise UsageError(
                    f"there is a tenant {tenant.id} already", hint=f"`tenure tenant show {tenant.id}`"
                ) from error
            placement = place(connection, tenant.id, cell)
            events.append(
                connection,
                "tenant_added",
                actor=actor,
                tenant=tenant.id,
                data={"tier": tenant.tier, "host": tenant.host, "cell": cell, "epoch": placement.epoch},
            )
            return placement

    def get(self, tenant: TenantId) -> Tenant:
        """Give the tenant; `UnknownName` if there is none of that id."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute("select * from registry.tenants where id = %s", (tenant,)).fetchone()
        if row is None:
            raise _unknown(tenant)
        return _tenant(row)

    def list(self) -> tuple[Tenant, ...]:
        """List all tenants by their ids."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return tuple(_tenant(row) for row in cursor.execute("select * from registry.tenants order by id"))

    def set_tier(self, tenant: TenantId, tier: str, *, actor: str) -> Tenant:
        """Give the tenant another service level."""
        with self._database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("update registry.tenants set tier = %s where id = %s returning *", (tier, tenant))
            return _changed(
                connection, cursor.fetchone(), tenant, "tenant_tier_changed", actor=actor, data={"tier": tier}
            )

    def set_residency(self, tenant: TenantId, residency: str | None, *, actor: str) -> Tenant:
        """Bind the tenant to a residency rule, or to none."""
        with self._database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "update registry.tenants set residency = %s where id = %s returning *", (residency, tenant)
            )
            return _changed(
                connection,
                cursor.fetchone(),
                tenant,
                "tenant_residency_changed",
                actor=actor,
                data={"residency": residency},
            )

    def set_state(self, tenant: TenantId, state: TenantState, *, actor: str) -> Tenant:
        """Note that the tenant is suspended, or active again."""
        action = "tenant_suspended" if state is TenantState.SUSPENDED else "tenant_resumed"
        with self._database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "update registry.tenants set state = %s where id = %s returning *", (state.value, tenant)
            )
            return _changed(connection, cursor.fetchone(), tenant, action, actor=actor, data={})

    def set_legal_hold(self, tenant: TenantId, reason: str | None, *, actor: str) -> Tenant:
        """Put the tenant on legal hold for a reason, or lift the hold."""
        action = "legal_hold_lifted" if reason is None else "legal_hold_placed"
        with self._database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "update registry.tenants set legal_hold = %s where id = %s returning *", (reason, tenant)
            )
            return _changed(
                connection, cursor.fetchone(), tenant, action, actor=actor, data={"reason": reason}
            )

    def remove(self, tenant: TenantId, *, actor: str) -> None:
        """Forget the tenant and its placement; the history of its placements and the journal stay. Idempotent."""
        with self._database.transaction() as connection:
            connection.execute("delete from registry.placements where tenant = %s", (tenant,))
            gone = connection.execute("delete from registry.tenants where id = %s", (tenant,))
            if gone.rowcount:
                events.append(connection, "tenant_removed", actor=actor, tenant=tenant)


def _changed(
    connection: Connection[TupleRow],
    row: DictRow | None,
    tenant: TenantId,
    action: str,
    *,
    actor: str,
    data: dict[str, str | None],
) -> Tenant:
    if row is None:
        raise _unknown(tenant)
    events.append(connection, action, actor=actor, tenant=tenant, data=data)
    return _tenant(row)


def _tenant(row: DictRow) -> Tenant:
    return Tenant(
        id=TenantId(row["id"]),
        tier=row["tier"],
        host=row["host"],
        residency=row["residency"],
        state=TenantState(row["state"]),
        legal_hold=row["legal_hold"],
    )


def _unknown(tenant: TenantId) -> UnknownName:
    return UnknownName(
        f"there is no tenant {tenant}", hint="`tenure tenant list` shows the tenants there are"
    )
