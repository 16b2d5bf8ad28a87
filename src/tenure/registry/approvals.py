"""Approvals in the control database, which checks them itself: see the triggers of `0004_approvals.sql`."""

from __future__ import annotations

from collections.abc import Collection

from tenure.errors import NotAllowed
from tenure.model.approval import Approval, Demand, Identity, Rule
from tenure.registry import events
from tenure.registry.database import Database, class_row


class Approvals:
    """Gives and lists approvals, and publishes the rules that ask for them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def give(self, operation: str, *, plan_digest: str, approver: str) -> Approval:
        """Approve the plan of a proposed operation; journaled. May be repeated: the latest to expire counts.

        Raises `PlanStale` for any other digest, and `NotAllowed` for who asked for the operation himself, which is
        journaled as well, and for an operation that waits for no approval.
        """
        try:
            with self._database.transaction() as connection:
                connection.execute(
                    "insert into registry.approvals (operation, plan_digest, approver) values (%s, %s, %s)",
                    (operation, plan_digest, approver),
                )
        except NotAllowed as error:
            with self._database.transaction() as connection:
                events.append(
                    connection,
                    "approval_refused",
                    actor=approver,
                    operation=operation,
                    data={"because": error.message, "plan_digest": plan_digest},
                )
            raise
        return self.list(operation)[-1]

    def list(self, operation: str) -> tuple[Approval, ...]:
        """List the approvals of an operation, the one that expires last at the end."""
        with (
            self._database.connection() as connection,
            connection.cursor(row_factory=class_row(Approval)) as cursor,
        ):
            cursor.execute(
                """
                select id, operation, plan_digest, approver, approved_as, at, expires_at,
                       expires_at > clock_timestamp() as stands
                from registry.approvals where operation = %s order by expires_at, id
                """,
                (operation,),
            )
            return tuple(cursor)

    def stands(self, operation: str) -> bool:
        """Say whether the operation may begin now, as far as its approval is concerned."""
        with self._database.connection() as connection:
            row = connection.execute(
                "select registry.standing_approval(%s) is not null", (operation,)
            ).fetchone()
        return bool(row and row[0])

    def publish(self, rules: Collection[Rule], *, actor: str) -> bool:
        """Make these the rules of the control database; say whether that changed anything. Journaled.

        Only a role that may write them can: raises `StoreRefused` for others, if there is something to change.
        """
        if set(self.rules()) == set(rules):
            return False
        with self._database.transaction() as connection:
            connection.execute("delete from registry.approval_rules")
            with connection.cursor() as cursor:
                cursor.executemany(
                    "insert into registry.approval_rules (tier, kind, identity, ttl_s) values (%s, %s, %s, %s)",
                    [(r.tier, r.kind, r.demand.identity.value, r.demand.ttl_s) for r in rules],
                )
            shown = [
                {
                    "tier": r.tier or None,
                    "kind": r.kind,
                    "identity": r.demand.identity,
                    "ttl_s": r.demand.ttl_s,
                }
                for r in rules
            ]
            events.append(connection, "approval_rules_published", actor=actor, data={"rules": shown})
        return True

    def rules(self) -> tuple[Rule, ...]:
        """List the rules that the control database applies, whatever a client's `tenure.yaml` says."""
        with self._database.connection() as connection:
            rows = connection.execute(
                "select tier, kind, identity, ttl_s from registry.approval_rules order by tier, kind"
            )
            return tuple(
                Rule(tier=tier, kind=kind, demand=Demand(identity=Identity(identity), ttl_s=ttl_s))
                for tier, kind, identity, ttl_s in rows
            )
