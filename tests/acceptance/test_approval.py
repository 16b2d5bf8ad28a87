"""A second person through the real command line: proposals, approvals, what makes them stale, and who may give them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenure.engine.observer import nobody
from tenure.errors import PlanStale, TenantLocked
from tenure.estate.config import load_estate
from tenure.model.operation import OperationState
from tenure.service import Service
from tenure.wiring import open_service
from tests.estate import CommandResult, TestEstate

PAGE = Path(__file__).parents[2] / "docs" / "approval.md"
Run = Callable[..., CommandResult]
At = Callable[[str], AbstractContextManager[Service]]


@pytest.fixture
def owner_dsn(cells_estate: TestEstate) -> str:
    return load_estate(cells_estate.config).control.dsn.resolve().reveal()


@pytest.fixture
def logins(owner_dsn: str) -> Iterator[dict[str, str]]:
    """DSNs of alice and bob, who have the rights that the documentation grants and own nothing."""
    found = re.search(r"```sql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found
    tag = secrets.token_hex(3)
    names, group = [f"alice_{tag}", f"bob_{tag}"], f"operators_{tag}"
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute(found[1].replace("tenure_operators", group).encode())
        for name in names:
            who = sql.Identifier(name)
            connection.execute(sql.SQL("create role {} login password 'x'").format(who))
            connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(group), who))
    given = conninfo_to_dict(owner_dsn)
    yield {
        name.split("_")[0]: make_conninfo("", **{**given, "user": name, "password": "x"}) for name in names
    }
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        for name in (*names, group):
            connection.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@pytest.fixture
def config(cells_estate: TestEstate) -> Path:
    """A file that asks for approvals by the roles with which people log in."""
    document = yaml.safe_load(cells_estate.config.read_text(encoding="utf-8"))
    document["tiers"]["guarded"] = {"rank": 1, "approval": ["migrate", "complete"]}
    document["control"] = {"dsn": {"env": "CONTROL_DSN"}}
    document["approval"] = {"identity": "database", "expires_h": 1}
    path = cells_estate.config.with_name("guarded.yaml")
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def run(cells_estate: TestEstate, config: Path, logins: dict[str, str]) -> Run:
    """`run("bob", ...)` runs a command with bob's login.

    `user` is the user of the operating system that it claims to be, if another.
    """

    def run(login: str, *args: str, user: str | None = None) -> CommandResult:
        env = {"CONTROL_DSN": logins[login], "LOGNAME": user or login}
        return cells_estate.command(*args, config=config, env=env)

    return run


@pytest.fixture
def at(config: Path, logins: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> At:
    """`at("bob")` is the service with bob's login, in this process."""

    def service(login: str) -> AbstractContextManager[Service]:
        monkeypatch.setenv("CONTROL_DSN", logins[login])
        monkeypatch.setenv("LOGNAME", login)
        return closing(open_service(config))

    return service


def set_tier(owner_dsn: str, tenant: str, tier: str) -> None:
    """The estate's own file does not have the tier that needs approvals."""
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute("update registry.tenants set tier = %s where id = %s", (tier, tenant))


def change_the_world(owner_dsn: str, tenant: str) -> None:
    """As if the tenant had been moved away and back."""
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute("update registry.placements set epoch = epoch + 1 where tenant = %s", (tenant,))


def proposed(asked: CommandResult) -> tuple[str, str]:
    """The operation that waits, and the digest of its plan."""
    assert asked.exit_code == 10, asked.stderr
    assert asked.json["state"] == "proposed"
    return asked.json["operation"], asked.json["plan_digest"]


def test_what_becomes_stale_after_it_was_approved_ends_before_it_changes_anything(
    cells_estate: TestEstate, at: At, owner_dsn: str
) -> None:
    tenant = "guarded-in-vain"
    cells_estate.add_tenant(tenant)
    set_tier(owner_dsn, tenant, "guarded")
    with at("alice") as service:
        asked = service.migrate(tenant, "green", apply=None, observer=nobody)
        with pytest.raises(TenantLocked, match=f"{asked.id} of {tenant}, asked for by alice@"):
            service.migrate(tenant, "green", apply=None, observer=nobody)
    with at("bob") as service:
        plan = service.plan_to_approve(asked.id)
        with pytest.raises(PlanStale, match=f"is {asked.plan_digest}, not another"):
            service.approve(asked.id, plan, digest="another")
        service.approve(asked.id, plan, digest=asked.plan_digest)
    change_the_world(owner_dsn, tenant)
    with at("alice") as service:
        ended = service.resume(asked.id, nobody)
        assert ended.state is OperationState.ABORTED
        assert ended.error is not None
        assert ended.error["code"] == PlanStale.code
        assert asked.plan_digest in ended.error["message"]
    assert cells_estate.items_in(tenant, "green") == 0
    assert cells_estate.left_behind(tenant) == []


def test_what_one_proposes_begins_when_another_has_approved_exactly_that(
    cells_estate: TestEstate, run: Run, owner_dsn: str
) -> None:
    tenant = "guarded"
    cells_estate.add_tenant(tenant)
    set_tier(owner_dsn, tenant, "guarded")
    asked = run("alice", "migrate", tenant, "--to", "green", "--json")
    operation, digest = proposed(asked)
    assert asked.json["next_steps"] == [
        f"tenure op approve {operation} --digest {digest}",
        f"tenure op cancel {operation}",
    ]
    waits = f"waits until its plan {digest} is approved by somebody else than alice_"
    assert waits in asked.json["sentence"]
    assert "needs the approval of a second person" in asked.stderr
    forged = run("alice", "op", "approve", operation, "--digest", digest, user="bob")
    assert forged.exit_code == 4, forged.stderr
    assert "asked for by the database role alice_" in forged.stderr
    assert f"(plan {digest}," in forged.stdout, "whoever approves is shown the plan"
    assert "Record: " in forged.stdout
    assert run("bob", "op", "approve", operation).exit_code == 3, "nobody typed the digest"

    # What has become stale is not approved.
    change_the_world(owner_dsn, tenant)
    stale = run("bob", "op", "approve", operation, "--digest", digest)
    assert stale.exit_code == 6, stale.stderr
    withdrawn = run("alice", "op", "cancel", operation, "--json")
    assert withdrawn.exit_code == 0, withdrawn.stderr
    assert withdrawn.json["state"] == "aborted"

    operation, digest = proposed(run("alice", "migrate", tenant, "--to", "green", "--json"))
    approved = run("bob", "op", "approve", operation, "--digest", digest, "--json")
    assert approved.exit_code == 0, approved.stderr
    assert approved.json["plan"]["digest"] == approved.json["plan_digest"] == digest
    assert approved.json["next_steps"] == [f"tenure op resume {operation}"]
    shown = run("alice", "tenant", "show", tenant, "--json").json
    assert shown["proposed"] == operation
    assert f"{operation} is approved by bob@" in shown["sentence"]
    assert shown["next_steps"][0] == f"tenure op resume {operation}"
    moved = run("alice", "op", "resume", operation, "--json")
    assert moved.exit_code == 0, moved.stderr
    assert "go to green" in moved.json["sentence"]
    told = run("alice", "op", "show", operation, "--json").json
    assert [(a["approver"].split("@")[0], a["plan_digest"]) for a in told["approvals"]] == [("bob", digest)]
    assert (told["record"]["outcome"], told["record"]["attempts"]) == ("succeeded", 7)
    actions = [event["action"] for event in told["events"]]
    assert actions[:4] == ["operation_created", "operation_approved", "capacity_admitted", "step_started"]

    # An approved proposal that has not begun keeps no rollback away, and is worth nothing after it.
    operation, digest = proposed(run("alice", "complete", tenant, "--yes", tenant, "--json"))
    assert run("bob", "op", "approve", operation, "--digest", digest).exit_code == 0
    back = run("alice", "rollback", tenant, "--json")
    assert back.exit_code == 0, back.stderr
    stale = run("alice", "op", "resume", operation, "--json")
    assert stale.exit_code == 6, stale.stderr
    assert stale.json["state"] == "failed"
    assert cells_estate.items_in(tenant, "green") > 0, "nothing was destroyed"

    seen = run("bob", "op", "stats", "--json").json
    (upgrade,) = (r for r in seen["routes"] if r["route_kind"] == "major_upgrade")
    assert upgrade["rolled_back"] >= 1
    assert upgrade["targets"]["rollback_s"] == {
        "target": 60,
        "actual": pytest.approx(upgrade["rollback_s"]["p95"], abs=0.001),
        "verdict": "met" if upgrade["rollback_s"]["p95"] <= 60 else "missed",
    }
    assert "major-upgrade: rollback_s" in run("bob", "op", "stats").stdout
    set_tier(owner_dsn, tenant, "gold")
    assert run("alice", "complete", tenant, "--yes", tenant).exit_code == 0
    assert cells_estate.left_behind(tenant) == []
