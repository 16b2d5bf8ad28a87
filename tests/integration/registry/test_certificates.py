"""Certificates are issued once for each operation, name the one before, and neither they nor revocations change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from tenure.errors import LeaseLost, TenureError, UnknownName
from tenure.model.names import TenantId
from tenure.model.operation import Lease
from tenure.model.secret import Secret
from tenure.registry.certificates import Issued
from tenure.registry.registry import Registry

ACME = TenantId("acme")


@pytest.fixture
def dsn(fresh_database: Callable[..., str]) -> str:
    return fresh_database()


@pytest.fixture
def registry(dsn: str) -> Iterator[Registry]:
    made = Registry.connect(Secret(dsn))
    made.migrate()
    yield made
    made.close()


def leased(registry: Registry, tenant: str = ACME) -> Lease:
    operation = registry.operations.create(
        kind="erase", tenant=TenantId(tenant), steps=("certify",), requested_by="a:b"
    )
    (seen,) = registry.steps.list(operation.id)
    claim = registry.steps.claim(seen, holder="h", holder_is_gone=False, ttl_s=30, phase=None, actor="a:b")
    assert claim is not None
    return claim.lease


def issue(
    registry: Registry, lease: Lease, id: str, *, envelope: str = "{}", lapses_at: datetime | None = None
) -> Issued:
    return registry.certificates.issue(
        lease, id=id, request="req-1", tenant=ACME, envelope=envelope, lapses_at=lapses_at, actor="a:b"
    )


def test_an_operation_has_one_certificate_however_often_it_is_issued(registry: Registry) -> None:
    lease = leased(registry)
    first = issue(registry, lease, "cert_1", envelope="as signed first")
    again = issue(registry, lease, "cert_2", envelope="as signed by the next holder")
    assert again == first
    assert (first.id, first.envelope, first.final, first.revoked) == ("cert_1", "as signed first", True, None)
    assert registry.certificates.list() == (first,)
    events = [e.action for e in registry.events.list(operation=lease.operation)]
    assert events.count("certificate_issued") == 1


def test_each_names_the_one_before(registry: Registry) -> None:
    assert registry.certificates.head() is None
    first = issue(registry, leased(registry, "one"), "cert_1")
    assert registry.certificates.head() == first.sha256
    second = issue(registry, leased(registry, "two"), "cert_2", envelope="other", lapses_at=datetime.now(UTC))
    assert registry.certificates.head() == second.sha256 != first.sha256
    assert not second.final
    assert registry.certificates.get("req-1") == second
    assert registry.certificates.get("cert_1") == first
    with pytest.raises(UnknownName):
        registry.certificates.get("req-2")


def test_who_has_lost_the_lease_issues_nothing(registry: Registry) -> None:
    lease = leased(registry)
    stale = Lease(**{**lease.__dict__, "token": lease.token - 1})
    with pytest.raises(LeaseLost):
        issue(registry, stale, "cert_1")
    assert registry.certificates.list() == ()


def test_a_revocation_stays_with_its_first_reason(registry: Registry) -> None:
    issue(registry, leased(registry), "cert_1")
    revoked = registry.certificates.revoke("req-1", because="residue", actor="a:b")
    assert (revoked.revoked, revoked.id) == ("residue", "cert_1")
    assert registry.certificates.revoke("cert_1", because="another", actor="a:b") == revoked
    assert [e.action for e in registry.events.list(tenant=ACME)].count("certificate_revoked") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "update registry.certificates set envelope = '{}'",
        "delete from registry.certificates",
        "truncate registry.certificates cascade",
        "update registry.certificate_revocations set because = 'x'",
        "delete from registry.certificate_revocations",
    ],
)
def test_nobody_changes_what_was_issued(registry: Registry, dsn: str, statement: str) -> None:
    issue(registry, leased(registry), "cert_1")
    registry.certificates.revoke("cert_1", because="residue", actor="a:b")
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        pytest.raises((TenureError, psycopg.Error), match=r"TR005|append|refused|never"),
    ):
        connection.execute(statement)
