"""Which operations wait for capacity, which have been admitted, and what those that are under way take.

Nothing is given back by hand: an operation takes its units as long as it is active, and a link what its operation keeps
as long as it stays. The database refuses to let an operation begin that has to be admitted and is not.
A proposal that nobody has approved takes nothing, and does not wait here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tenure.model.capacity import CapacityRequest, Resource
from tenure.registry import events
from tenure.registry.database import Connection, Database, DictRow, TupleRow, dict_row

WANTED_S: Final = 15.0
"""Seconds after which nobody counts as waiting for an operation: whoever does looks far more often. It keeps its place
in the order, but nothing is kept for it until somebody wants it again."""
TOLD_S: Final = 3.0
"""Seconds after which a waiting operation is written down again although nothing has changed."""

_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('tenure.registry.admission', 0))"

_QUEUE: Final = """
select o.id as operation, o.kind, o.tenant, t.tier, o.created_at, a.served_before, a.waits_for, a.hopeless,
    a.admitted_at, a.wanted_at > clock_timestamp() - make_interval(secs => %(wanted_s)s) as wanted,
    extract(epoch from clock_timestamp() - o.created_at)::float8 as waited_s,
    (select coalesce(jsonb_object_agg(n.resource, n.units), '{}') from registry.capacity_needs n
     where n.operation = o.id) as needs
from registry.operations o
join registry.admissions a on a.operation = o.id
left join registry.tenants t on t.id = o.tenant
"""

_WAITING: Final = (
    _QUEUE
    + """
where (o.active or o.state = 'proposed' and registry.standing_approval(o.id) is not null)
  and not o.cancel_requested and a.admitted_at is null
  and (o.id = any(%(among)s) or a.wanted_at > clock_timestamp() - make_interval(secs => %(wanted_s)s))
order by o.created_at, o.id
"""
)

_USED: Final = """
with holding (operation, tenant, active) as (
    select o.id, o.tenant, true
    from (
        select id, tenant from registry.operations where active
        union all
        select id, tenant from registry.operations
        where state = 'proposed' and registry.standing_approval(id) is not null
    ) o
    cross join lateral (select a.admitted_at from registry.admissions a where a.operation = o.id offset 0) a
    where a.admitted_at is not null
    union all
    select o.id, o.tenant, false from registry.links l join registry.operations o on o.id = l.created_by
    where l.state in ('active', 'ending') and not o.active
)
select n.resource, h.operation, h.tenant, h.active, case when h.active then n.units else n.kept end as units
from holding h
cross join lateral (
    select resource, units, kept from registry.capacity_needs where operation = h.operation offset 0
) n
where case when h.active then n.units else n.kept end > 0
"""
"""`offset 0` keeps to what is under way: joined otherwise, everything that ever was would be read."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """An operation that has to be admitted. `waits_for` says in a sentence why it is not, as it was found last;
    `wanted`: somebody waits for it now."""

    operation: str
    kind: str
    tenant: str | None
    tier: str | None
    created_at: datetime
    waited_s: float
    served_before: datetime | None
    admitted_at: datetime | None
    waits_for: str | None
    hopeless: bool
    wanted: bool
    needs: Mapping[Resource, int]

    def as_dict(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "operation": self.operation,
            "operation_kind": self.kind,
            "tenant": self.tenant,
            "tier": self.tier,
            "waited_s": None if self.admitted_at is not None else round(self.waited_s, 1),
            "admitted_at": None if self.admitted_at is None else self.admitted_at.isoformat(),
            "waits_for": self.waits_for,
            "wanted": self.wanted,
            "needs": {resource.key: units for resource, units in sorted(self.needs.items())},
        }


@dataclass(frozen=True, kw_only=True)
class Use:
    """Units that an operation (`active`), or the link that it has left behind, takes."""

    operation: str
    tenant: str | None
    active: bool
    units: int


@dataclass(kw_only=True)
class Deciding:
    """One decision: nobody else admits anything until its transaction ends, so it must be short."""

    connection: Connection[TupleRow]
    waiting: tuple[Admission, ...]
    used: Mapping[Resource, Sequence[Use]]
    actor: str

    def admit(self, admission: Admission) -> None:
        """The operation may begin from the end of this transaction on."""
        self.connection.execute(
            """
            update registry.admissions
            set admitted_at = clock_timestamp(), hopeless = false, waits_for = null where operation = %s
            """,
            (admission.operation,),
        )
        self._journal(admission, "capacity_admitted", {"waited_s": round(admission.waited_s, 3)})

    def keep_waiting(self, told: Sequence[tuple[Admission, str, bool]]) -> None:
        """Say of each what it waits for and whether that is hopeless, and that somebody wants it. The journal is told
        when the waiting begins, and when it becomes hopeless or is no longer so."""
        self.connection.execute(
            """
            update registry.admissions a
            set waits_for = t.waits_for, hopeless = t.hopeless, wanted_at = clock_timestamp()
            from unnest(%(operations)s::text[], %(waits_for)s::text[], %(hopeless)s::bool[])
                as t (operation, waits_for, hopeless)
            where a.operation = t.operation
              and (a.waits_for is distinct from t.waits_for or a.hopeless <> t.hopeless
                   or a.wanted_at < clock_timestamp() - make_interval(secs => %(told_s)s))
            """,
            {
                "operations": [admission.operation for admission, _, _ in told],
                "waits_for": [waits_for for _, waits_for, _ in told],
                "hopeless": [hopeless for _, _, hopeless in told],
                "told_s": TOLD_S,
            },
        )
        for admission, waits_for, hopeless in told:
            if admission.waits_for is None or admission.hopeless != hopeless:
                self._journal(admission, "capacity_awaited", {"waits_for": waits_for, "hopeless": hopeless})

    def _journal(self, admission: Admission, action: str, data: dict[str, Any]) -> None:
        events.append(
            self.connection,
            action,
            actor=self.actor,
            operation=admission.operation,
            tenant=admission.tenant,
            data=data,
        )


class Admissions:
    """Finds who waits and who takes what, and lets one decision be made at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, operation: str) -> Admission | None:
        """The operation's admission; None for one that has not to be admitted."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(_QUEUE + "where o.id = %(id)s", {"id": operation, "wanted_s": WANTED_S})
            row = cursor.fetchone()
        return None if row is None else _admission(row)

    def admitted(self, operation: str) -> bool:
        """Whether the operation may begin: it was admitted, or has not to be."""
        with self._database.connection() as connection:
            row = connection.execute(
                "select admitted_at is not null from registry.admissions where operation = %s", (operation,)
            ).fetchone()
        return row is None or bool(row[0])

    @contextmanager
    def deciding(self, *, among: Sequence[str], actor: str) -> Iterator[Deciding]:
        """Decide about those `among` that wait; those that somebody else wants are listed as well.

        Everything written is committed together at the end, or nothing if anything is raised.
        """
        with self._database.transaction() as connection:
            connection.execute(_LOCK)
            yield Deciding(
                connection=connection,
                waiting=_waiting(connection, among),
                used=_used(connection),
                actor=actor,
            )

    def look(
        self, *, among: Sequence[str] = ()
    ) -> tuple[tuple[Admission, ...], Mapping[Resource, Sequence[Use]]]:
        """Who waits and who takes what, at one instant. Those `among` are listed even if nobody wants them now."""
        with self._database.transaction() as connection:
            connection.execute("set transaction isolation level repeatable read read only")
            return _waiting(connection, among), _used(connection)


def ask(
    connection: Connection[TupleRow], operation: str, tenant: str | None, request: CapacityRequest
) -> None:
    """Write down what a new operation needs, within the transaction that creates it: from then on it cannot begin
    before it is admitted. One that goes at once is admitted by this."""
    connection.execute(
        """
        insert into registry.admissions (operation, at_once, admitted_at, served_before)
        values (%(operation)s, %(at_once)s, case when %(at_once)s then clock_timestamp() end,
                (select max(a.admitted_at) from registry.operations o join registry.admissions a on a.operation = o.id
                 where o.tenant = %(tenant)s))
        """,
        {"operation": operation, "at_once": request.at_once, "tenant": tenant},
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into registry.capacity_needs (operation, resource, units, kept) values (%s, %s, %s, %s)",
            [(operation, resource.key, need.units, need.kept) for resource, need in request.needs.items()],
        )


def _waiting(connection: Connection[TupleRow], among: Sequence[str]) -> tuple[Admission, ...]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(_WAITING, {"among": list(among), "wanted_s": WANTED_S})
        return tuple(_admission(row) for row in cursor)


def _used(connection: Connection[TupleRow]) -> Mapping[Resource, Sequence[Use]]:
    found: dict[Resource, list[Use]] = defaultdict(list)
    with connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(_USED):
            use = Use(
                operation=row["operation"], tenant=row["tenant"], active=row["active"], units=row["units"]
            )
            found[Resource.of(row["resource"])].append(use)
    return found


def _admission(row: DictRow) -> Admission:
    needs = {Resource.of(key): int(units) for key, units in row["needs"].items()}
    return Admission(**{**row, "needs": needs})
