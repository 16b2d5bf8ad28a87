"""Approvals are enforced by the control database: against this registry, and against SQL written by hand."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenure.errors import ApprovalNeeded, NotAllowed, PlanStale, StoreRefused, TenantLocked
from tenure.model.approval import EVERY_TIER, Demand, Identity, Rule
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Operation, OperationState
from tenure.model.secret import Secret
from tenure.model.tenancy import Placement
from tenure.registry.claims import Claim
from tenure.registry.registry import Registry

ACME = TenantId("acme")
PAGE = Path(__file__).parents[3] / "docs" / "approval.md"
BY_OS = Demand(identity=Identity.OS, ttl_s=3600)
BY_ROLE = Demand(identity=Identity.DATABASE, ttl_s=3600)


@dataclass(frozen=True, kw_only=True)
class People:
    """Two operators with logins of their own, and none of them the owner."""

    alice: Registry
    bob: Registry
    alice_role: str
    bob_role: str
    alice_dsn: str


@pytest.fixture
def people(registry: Registry, control_dsn: str) -> Iterator[People]:
    """Their rights are those that the documentation grants."""
    found = re.search(r"```sql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found
    tag = secrets.token_hex(3)
    group, names = f"operators_{tag}", [f"alice_{tag}", f"bob_{tag}"]
    with psycopg.connect(control_dsn, autocommit=True) as owner:
        owner.execute(found[1].replace("tenure_operators", group).encode())
        for name in names:
            owner.execute(sql.SQL("create role {} login password 'x'").format(sql.Identifier(name)))
            owner.execute(sql.SQL("grant {} to {}").format(sql.Identifier(group), sql.Identifier(name)))
    given = conninfo_to_dict(control_dsn)
    dsns = [make_conninfo("", **{**given, "user": name, "password": "x"}) for name in names]
    alice, bob = (Registry.connect(Secret(dsn)) for dsn in dsns)
    yield People(alice=alice, bob=bob, alice_role=names[0], bob_role=names[1], alice_dsn=dsns[0])
    alice.close()
    bob.close()
    with psycopg.connect(control_dsn, autocommit=True) as owner:
        for name in (*names, group):
            owner.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
            owner.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def propose(
    registry: Registry,
    demand: Demand | None,
    *,
    by: str = "alice@one",
    tenant: TenantId = ACME,
    kind: str = "migrate",
) -> Operation:
    return registry.operations.create(
        kind=kind,
        tenant=tenant,
        steps=["copy", "switch"],
        requested_by=by,
        request={"to": "green"},
        plan_digest="d1",
        approval=demand,
    )


def claim(registry: Registry, operation: Operation) -> Claim | None:
    step = registry.steps.list(operation.id)[0]
    return registry.steps.claim(
        step, holder="there:12:34", holder_is_gone=False, ttl_s=60, phase="copying", actor="worker"
    )


def expire(control_dsn: str, operation: Operation) -> None:
    """Only who may disable triggers can do this."""
    with psycopg.connect(control_dsn, autocommit=True) as owner:
        owner.execute("set session_replication_role = replica")
        owner.execute(
            "update registry.approvals set expires_at = clock_timestamp() where operation = %s",
            (operation.id,),
        )


def test_a_proposal_begins_only_with_an_approval_by_somebody_else(
    registry: Registry, add: Callable[[str], Placement]
) -> None:
    add("acme")
    proposed = propose(registry, BY_OS)
    assert proposed.state is OperationState.PROPOSED
    assert registry.operations.active_for(ACME) is None
    assert registry.operations.proposed_for(ACME) == proposed
    assert registry.operations.due() == ()
    with pytest.raises(ApprovalNeeded, match=f"{proposed.id} needs the approval of a second person"):
        claim(registry, proposed)
    with pytest.raises(NotAllowed, match="asked for by alice@one: somebody else"):
        registry.approvals.give(proposed.id, plan_digest="d1", approver="alice@another-host")
    with pytest.raises(PlanStale, match=f"the plan of {proposed.id} is d1, not d2"):
        registry.approvals.give(proposed.id, plan_digest="d2", approver="bob@one")
    assert not registry.approvals.stands(proposed.id)
    given = registry.approvals.give(proposed.id, plan_digest="d1", approver="bob@one")
    assert given.stands
    assert (given.expires_at - given.at).total_seconds() == 3600
    assert registry.operations.due() == (proposed.id,)
    begun = claim(registry, proposed)
    assert begun is not None
    assert begun.operation.state is OperationState.RUNNING
    assert begun.operation.approval == given.id
    assert [(e.action, e.actor) for e in registry.events.list(operation=proposed.id)] == [
        ("operation_created", "alice@one"),
        ("approval_refused", "alice@another-host"),
        ("operation_approved", "bob@one"),
        ("step_started", "worker"),
    ]
    with pytest.raises(NotAllowed, match="waits for no approval: it is running"):
        registry.approvals.give(proposed.id, plan_digest="d1", approver="bob@one")


def test_an_expired_approval_begins_nothing_and_ends_nothing_that_has_begun(
    registry: Registry, control_dsn: str
) -> None:
    proposed = propose(registry, BY_OS)
    registry.approvals.give(proposed.id, plan_digest="d1", approver="bob@one")
    expire(control_dsn, proposed)
    assert registry.operations.due() == ()
    with pytest.raises(ApprovalNeeded, match=r"second person: the last one expired at \d{4}-"):
        claim(registry, proposed)
    registry.approvals.give(proposed.id, plan_digest="d1", approver="bob@one")
    begun = claim(registry, proposed)
    assert begun is not None
    expire(control_dsn, proposed)
    registry.steps.finish(begun.lease, {}, actor="worker")
    last = registry.steps.claim(
        registry.steps.list(proposed.id)[1],
        holder="there:12:34",
        holder_is_gone=False,
        ttl_s=60,
        phase=None,
        actor="worker",
    )
    assert last is not None


def test_a_proposal_keeps_out_other_proposals_and_nothing_else(registry: Registry) -> None:
    proposed = propose(registry, BY_OS)
    with pytest.raises(
        TenantLocked, match=f"migrate {proposed.id} of acme, asked for by alice@one, is proposed"
    ) as error:
        propose(registry, BY_OS, by="carol@one", kind="complete")
    assert error.value.hint is not None
    assert f"tenure op cancel {proposed.id}" in error.value.hint
    propose(registry, BY_OS, tenant=TenantId("globex"))
    rollback = propose(registry, None, kind="rollback")
    assert rollback.state is OperationState.PLANNED
    registry.approvals.give(proposed.id, plan_digest="d1", approver="bob@one")
    assert proposed.id not in registry.operations.due()
    with pytest.raises(TenantLocked, match=f"acme is in the operation {rollback.id}"):
        claim(registry, proposed)
    assert registry.operations.get(proposed.id).state is OperationState.PROPOSED
    assert registry.steps.list(proposed.id)[0].attempt == 0
    assert claim(registry, rollback) is not None


def test_a_rollback_cannot_be_made_to_wait(registry: Registry) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="rollback_waits_for_nobody"):
        propose(registry, BY_OS, kind="rollback")
    rule = Rule(tier=EVERY_TIER, kind="rollback", demand=BY_OS)
    with pytest.raises(psycopg.errors.CheckViolation, match="kind_check"):
        registry.approvals.publish([rule], actor="owner")


def test_what_is_published_is_demanded_whatever_a_client_asks_for(
    registry: Registry, people: People, add: Callable[[str], Placement]
) -> None:
    add("acme")  # gold
    rules = [
        Rule(tier=EVERY_TIER, kind="complete", demand=BY_OS),
        Rule(tier="gold", kind="migrate", demand=Demand(identity=Identity.DATABASE, ttl_s=60)),
    ]
    assert registry.approvals.publish(rules, actor="owner")
    assert not registry.approvals.publish(rules, actor="owner")
    lax = propose(people.alice, None)
    assert (lax.state, lax.approval_identity, lax.approval_ttl_s) == (
        OperationState.PROPOSED,
        Identity.DATABASE,
        60,
    )
    registry.operations.transition(lax.id, OperationState.PROPOSED, OperationState.ABORTED, actor="alice")
    weaker = propose(people.alice, Demand(identity=Identity.OS, ttl_s=9999))
    assert (weaker.approval_identity, weaker.approval_ttl_s) == (Identity.DATABASE, 60)
    assert propose(people.alice, None, kind="rollback").state is OperationState.PLANNED
    assert propose(people.alice, None, tenant=TenantId("globex")).state is OperationState.PLANNED
    with pytest.raises(NotAllowed, match="only the owner of the registry"):
        people.alice.tenants.set_tier(ACME, "bronze", actor="alice")
    with pytest.raises(StoreRefused, match="permission denied for table approval_rules"):
        people.alice.approvals.publish([], actor="alice")
    registry.tenants.set_tier(ACME, "bronze", actor="owner")


def test_one_login_cannot_play_both_people(people: People) -> None:
    proposed = propose(people.alice, BY_ROLE, by="alice@one")
    assert proposed.requested_as == people.alice_role
    with pytest.raises(NotAllowed, match=f"asked for by the database role {people.alice_role}"):
        people.alice.approvals.give(proposed.id, plan_digest="d1", approver="bob@one")
    given = people.bob.approvals.give(proposed.id, plan_digest="d1", approver="alice@one")
    assert given.approved_as == people.bob_role
    assert claim(people.alice, proposed) is not None


AROUND = {
    "claim the step": (
        "update registry.steps set state = 'running', holder = 'me', lease_until = now() + interval '1 hour', "
        "token = nextval('registry.fencing_token') where operation = %(op)s and position = 1",
        "TR040",
    ),
    "write the step off": ("update registry.steps set state = 'done' where operation = %(op)s", "TR040"),
    "bring a claimed step": (
        "insert into registry.steps (operation, position, name, state, holder, lease_until) "
        "values (%(op)s, 9, 'copy', 'running', 'me', now())",
        "TR040",
    ),
    "carry a claimed step over": (
        "update registry.steps set operation = %(op)s, position = 9 where operation = %(other)s and position = 1",
        "TR040",
    ),
    "let it run": ("update registry.operations set state = 'running' where id = %(op)s", "TR040"),
    "let it soak": ("update registry.operations set state = 'soaking' where id = %(op)s", "TR040"),
    "need none": ("update registry.operations set approval_identity = null where id = %(op)s", "TR005"),
    "name one": ("update registry.operations set approval = 1 where id = %(op)s", "TR005"),
    "another digest": ("update registry.operations set plan_digest = 'd2' where id = %(op)s", "TR005"),
    "another request": ("update registry.operations set request = '{}' where id = %(op)s", "TR005"),
    "asked for by another": (
        "update registry.operations set requested_as = 'carol' where id = %(op)s",
        "TR005",
    ),
    "approve it as another": (
        "insert into registry.approvals (operation, plan_digest, approver, approved_as, at, expires_at) "
        "values (%(op)s, 'd1', 'bob@one', 'bob', now(), 'infinity')",
        "TR041",
    ),
    "change an approval": ("update registry.approvals set expires_at = 'infinity'", "42501"),
    "remove the approvals": ("delete from registry.approvals", "42501"),
    "empty the approvals": ("truncate registry.approvals", "42501"),
    "no rules": ("delete from registry.approval_rules", "42501"),
    "no trigger": ("alter table registry.steps disable trigger steps_claim_approved", "42501"),
    "no triggers": ("set session_replication_role = replica", "42501"),
    "another check": (
        "create or replace function registry.standing_approval(in_operation text) returns bigint "
        "language sql as 'select 1::bigint'",
        "42501",
    ),
    "be another role": ("set session authorization BOB", "42501"),
}


def test_the_application_role_does_not_get_around_it_with_sql_of_its_own(
    people: People, registry: Registry
) -> None:
    proposed = propose(people.alice, BY_ROLE)
    other = propose(people.alice, None, tenant=TenantId("globex"))
    assert claim(people.alice, other) is not None
    names = {"op": proposed.id, "other": other.id}
    with psycopg.connect(people.alice_dsn, autocommit=True) as by_hand:
        for what, (statement, state) in AROUND.items():
            with pytest.raises(psycopg.Error) as refused:
                by_hand.execute(statement.replace("BOB", people.bob_role).encode(), names)
            assert refused.value.sqlstate == state, f"{what}: {refused.value}"
        # Withdrawn, it does not come back either.
        by_hand.execute("update registry.operations set state = 'aborted' where id = %(op)s", names)
        with pytest.raises(psycopg.Error) as refused:
            by_hand.execute("update registry.operations set state = 'running' where id = %(op)s", names)
        assert refused.value.sqlstate == "TR040"
    assert not registry.approvals.list(proposed.id)
    assert [s.state for s in registry.steps.list(proposed.id)] == ["pending", "pending"]


def test_operators_of_their_own_do_not_stand_in_for_postgresqls(people: People, registry: Registry) -> None:
    proposed = propose(people.alice, BY_ROLE)
    with registry.database.connection() as owner:
        owner.execute("grant create on database {} to {}".format(*_names(owner, people)).encode())
    with psycopg.connect(people.alice_dsn, autocommit=True) as by_hand:
        by_hand.execute("create schema mine")
        by_hand.execute(
            "create function mine.always(text, text) returns boolean language sql immutable as 'select true'"
        )
        for operator in ("<>", "="):
            by_hand.execute(
                f"create operator mine.{operator} (leftarg = text, rightarg = text, function = mine.always)".encode()
            )
        by_hand.execute("set search_path = mine, pg_catalog")
        for statement, state in (AROUND["approve it as another"], AROUND["claim the step"]):
            with pytest.raises(psycopg.Error) as refused:
                by_hand.execute(statement.encode(), {"op": proposed.id})
            assert refused.value.sqlstate == state


def _names(owner: psycopg.Connection[tuple[object, ...]], people: People) -> tuple[str, str]:
    return sql.Identifier(owner.info.dbname).as_string(owner), sql.Identifier(people.alice_role).as_string(
        owner
    )


def test_approvals_are_append_only_for_their_owner_as_well(registry: Registry) -> None:
    proposed = propose(registry, BY_OS)
    registry.approvals.give(proposed.id, plan_digest="d1", approver="bob@one")
    for statement in ("update registry.approvals set approver = 'x'", "delete from registry.approvals"):
        with (
            pytest.raises(StoreRefused, match="approvals is append-only"),
            registry.database.connection() as connection,
        ):
            connection.execute(statement.encode())


def test_operators_can_do_everything_else(
    people: People, registry: Registry, add: Callable[[str], Placement]
) -> None:
    add("acme")
    operation = propose(people.alice, None)
    begun = claim(people.alice, operation)
    assert begun is not None
    people.alice.steps.heartbeat(begun.lease, ttl_s=60, progress={"copied": 1})
    people.alice.operations.merge(begun.lease, data={"a": 1})
    placed = people.alice.placements.compare_and_swap(
        begun.lease, ACME, expected_epoch=1, to_cell=CellName("green"), actor="alice"
    )
    assert placed.epoch == 2
    people.alice.steps.finish(begun.lease, {}, actor="alice")
    people.alice.check()
