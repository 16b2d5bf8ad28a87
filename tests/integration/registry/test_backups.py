"""Backups, drills and the ledger of erasures in the control database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tenure.errors import LeaseLost, PlanStale, StoreRefused, UnknownName
from tenure.model.backup import BackupState, CopyState, Depth, DrillRecord
from tenure.model.erasure import Names, Scope
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Lease
from tenure.model.secret import Secret
from tenure.model.tenancy import Placement
from tenure.registry.registry import Registry

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
Add = Callable[[str], Placement]


@pytest.fixture
def lease(registry: Registry, add: Add) -> Lease:
    add("acme")
    return leased(registry, ACME)


def leased(registry: Registry, tenant: TenantId) -> Lease:
    """The lease of a backup's first step."""
    operation = registry.operations.create(
        kind="backup", tenant=tenant, steps=("capture",), requested_by="test"
    )
    (step,) = registry.steps.list(operation.id)
    claim = registry.steps.claim(
        step, holder="here", holder_is_gone=False, ttl_s=60.0, phase=None, actor="test"
    )
    assert claim is not None
    return claim.lease


def taken(
    registry: Registry,
    lease: Lease,
    backup: str = "b-1",
    *,
    tenant: TenantId = ACME,
    point_at: datetime = NOW,
    good: bool = True,
) -> None:
    registry.backups.begin(lease, backup, tenant=tenant, tier="gold", cell=CellName("blue"), epoch=3)
    registry.backups.complete(
        lease,
        backup,
        point_at=point_at,
        contents="c1",
        key="k/1",
        items=5,
        size_bytes=50,
        region="eu",
        stored_at=point_at + timedelta(seconds=9),
    )
    if good:
        registry.backups.verified(lease, backup, "eu", depth=Depth.SAMPLE, problems=())


def test_a_backup_is_listed_when_its_manifest_stands(registry: Registry, lease: Lease) -> None:
    registry.backups.begin(lease, "b-1", tenant=ACME, tier="gold", cell=CellName("blue"), epoch=3)
    assert registry.backups.list(tenant=ACME) == ()
    assert registry.backups.get("b-1").state is BackupState.TAKING
    taken(registry, lease)
    taken(registry, lease)
    (backup,) = registry.backups.list(tenant=ACME)
    assert (backup.point_at, backup.contents, backup.key, backup.items) == (NOW, "c1", "k/1", 5)
    (copy,) = backup.copies
    assert copy.good
    assert copy.depth is Depth.SAMPLE
    assert registry.backups.list(tenant=GLOBEX) == ()


def test_an_abandoned_backup_never_becomes_complete_nor_a_complete_one_abandoned(
    registry: Registry, lease: Lease
) -> None:
    registry.backups.begin(lease, "b-1", tenant=ACME, tier="gold", cell=CellName("blue"), epoch=3)
    registry.backups.abandon(lease, "b-1")
    with pytest.raises(PlanStale):
        taken(registry, lease)
    taken(registry, lease, "b-2")
    registry.backups.abandon(lease, "b-2")
    assert registry.backups.get("b-2").state is BackupState.COMPLETE


def test_what_a_backup_is_cannot_be_changed_by_any_code(
    registry: Registry, lease: Lease, control_dsn: str
) -> None:
    taken(registry, lease)
    with psycopg.connect(control_dsn, autocommit=True) as connection:
        for statement in (
            "update registry.backups set point_at = point_at - interval '1 year'",
            "update registry.backups set contents = 'other'",
            "update registry.backup_copies set stored_at = stored_at - interval '1 year'",
            "update registry.backup_copies set contents = 'other'",
            "delete from registry.backups",
            "delete from registry.backup_copies",
            "truncate registry.backup_copies",
        ):
            with pytest.raises(psycopg.Error) as refused:
                connection.execute(statement.encode())
            assert refused.value.sqlstate == "TR005", statement
    assert registry.backups.get("b-1").contents == "c1"


def test_another_backup_under_the_same_id_is_refused(registry: Registry, lease: Lease) -> None:
    taken(registry, lease)
    with pytest.raises(PlanStale):
        taken(registry, lease, point_at=NOW - timedelta(days=1))


def test_a_copy_is_deleted_in_two_steps_and_then_for_good(registry: Registry, lease: Lease) -> None:
    taken(registry, lease)
    with pytest.raises(PlanStale):
        registry.backups.deleted(lease, "b-1", "eu")
    registry.backups.deleting(lease, "b-1", "eu", because="old")
    (copy,) = registry.backups.get("b-1").copies
    assert not copy.good
    assert copy.deleted_because == "old"
    registry.backups.keep_after_all(lease, "b-1", "eu")
    assert registry.backups.get("b-1").copies[0].good
    for _ in range(2):
        registry.backups.deleting(lease, "b-1", "eu", because="old")
        registry.backups.deleted(lease, "b-1", "eu")
    (copy,) = registry.backups.get("b-1").copies
    assert copy.state is CopyState.DELETED
    assert copy.deleted_at is not None
    with pytest.raises(StoreRefused), registry.database.connection() as connection:
        connection.execute("update registry.backup_copies set state = 'stored', deleted_at = null")


def test_who_was_taken_over_writes_nothing(registry: Registry, lease: Lease) -> None:
    taken(registry, lease)
    with registry.database.connection() as connection:
        connection.execute("update registry.steps set token = token + 1")
    with pytest.raises(LeaseLost):
        registry.backups.deleting(lease, "b-1", "eu", because="old")
    assert registry.backups.get("b-1").copies[0].good


def test_the_latest_backup_is_the_newest_good_one(registry: Registry, lease: Lease, add: Add) -> None:
    taken(registry, lease, "b-1", point_at=NOW - timedelta(days=2))
    taken(registry, lease, "b-2", point_at=NOW - timedelta(days=1))
    taken(registry, lease, "b-3", good=False)
    registry.backups.store(lease, "b-2", "us", stored_at=NOW, contents="c2")
    registry.backups.verified(lease, "b-2", "us", depth=Depth.FULL, problems=())
    latest = registry.backups.latest()[ACME]
    assert latest.point_at == NOW - timedelta(days=1)
    assert latest.regions == {"eu", "us"}
    registry.backups.verified(lease, "b-2", "eu", depth=Depth.FULL, problems=("chunk x is damaged",))
    assert registry.backups.latest()[ACME].regions == {"us"}
    registry.backups.verified(None, "b-2", "eu", depth=Depth.SAMPLE, problems=())
    assert registry.backups.latest()[ACME].regions == {"us"}, "a sample does not clear it"
    registry.backups.verified(None, "b-2", "eu", depth=Depth.FULL, problems=())
    assert registry.backups.latest()[ACME].regions == {"us", "eu"}
    registry.backups.verified(None, "b-2", "eu", depth=Depth.FULL, problems=("chunk x is damaged",))
    assert GLOBEX not in registry.backups.latest()
    add("globex")
    registry.backups.begin(
        leased(registry, GLOBEX), "g-1", tenant=GLOBEX, tier="gold", cell=CellName("blue"), epoch=1
    )
    assert registry.backups.latest()[GLOBEX].point_at is None


def test_a_drill_is_noted_once(registry: Registry, lease: Lease) -> None:
    taken(registry, lease)
    for equal in (True, False):
        registry.backups.drilled(
            lease,
            DrillRecord(
                operation=lease.operation,
                backup="b-1",
                tenant=ACME,
                tier="gold",
                region="eu",
                at=NOW,
                equal=equal,
                recovery_s=1.5,
                recovery_point_s=60.0,
            ),
        )
    (drill,) = registry.backups.drills(tier="gold")
    assert drill.equal
    assert registry.backups.drills(tier="bronze") == ()


def test_an_unknown_backup_is_an_unknown_name(registry: Registry) -> None:
    with pytest.raises(UnknownName):
        registry.backups.get("b-none")


def test_the_ledger_answers_who_brings_the_key_and_names_nobody(registry: Registry, control_dsn: str) -> None:
    names, others = Names(Secret("key one")), Names(Secret("key two"))
    mail = "jane@example.com"
    for _ in range(2):
        registry.erasures.note(None, request="r-1", key_id=names.key_id, tenant=names.tenant(ACME))
        registry.erasures.note(
            None,
            request="r-2",
            key_id=names.key_id,
            tenant=names.tenant(ACME),
            persons=[names.person(ACME, mail)],
        )
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    found = registry.erasures.of(names.tenant(ACME), after=long_ago)
    assert [e.scope for e in found] == [Scope.TENANT, Scope.PERSON]
    assert found[1].person == names.person(ACME, f" {mail.upper()} ")
    assert found[1].person != names.person(GLOBEX, mail)
    assert registry.erasures.of(names.tenant(ACME), after=found[1].erased_at) == ()
    assert registry.erasures.of(names.tenant(GLOBEX), after=long_ago) == ()
    assert registry.erasures.of(others.tenant(ACME), after=long_ago) == ()
    assert registry.erasures.keys() == {names.key_id}
    with psycopg.connect(control_dsn) as connection:
        everything = str(connection.execute("select * from registry.erasures").fetchall())
    assert "acme" not in everything
    assert mail not in everything


def test_nothing_leaves_the_ledger(registry: Registry, control_dsn: str) -> None:
    names = Names(Secret("key"))
    registry.erasures.note(None, request="r-1", key_id=names.key_id, tenant=names.tenant(ACME))
    with psycopg.connect(control_dsn, autocommit=True) as connection:
        for statement in (
            "delete from registry.erasures",
            "truncate registry.erasures",
            "update registry.erasures set erased_at = now() - interval '9 years'",
        ):
            with pytest.raises(psycopg.Error) as refused:
                connection.execute(statement.encode())
            assert refused.value.sqlstate == "TR005"


def test_digests_of_different_parts_differ() -> None:
    names = Names(Secret("key"))
    assert names.person(TenantId("a"), "bc") != names.person(TenantId("ab"), "c")
