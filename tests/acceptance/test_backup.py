"""Backups through the real command line: one point over all stores under load, what stands in the way, what is
verified, what goes and what stays. The vaults themselves are asked, not only the command that reports."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
import yaml

from tenure.model.names import CellName, StoreName
from tests.backing import (
    FIRST,
    SECOND,
    bucket_of,
    config_with,
    contents,
    every_byte,
    facts,
    objects_in,
    shelf,
)
from tests.estate import TestEstate

POSTGRES, REDIS, OBJECTS = StoreName("postgres"), StoreName("redis"), StoreName("objects")
INSERT = "insert into documents (tenant_id, id, title, body) values (%s, %s, %s, 'x')"


def created(estate: TestEstate, tenant: str, config: Path | None = None) -> str:
    done = estate.command("backup", "create", tenant, "--json", config=config)
    assert done.exit_code == 0, done.stderr
    assert done.json["state"] == "succeeded"
    return str(done.json["result"]["backup"])


def test_a_tenant_takes_its_data_elsewhere(cells_estate: TestEstate, tmp_path: Path) -> None:
    tenant = "takes-away"
    cells_estate.add_tenant(tenant)
    backup = created(cells_estate, tenant)
    access = cells_estate.local.cells[CellName("blue")]
    with psycopg.connect(access.dsn) as connection:
        live = connection.execute(
            "select id, title from documents where tenant_id = %s order by id", (tenant,)
        ).fetchall()
    folder = tmp_path / "export"
    done = cells_estate.command("backup", "export", tenant, "--to", str(folder), "--json")
    assert done.exit_code == 0, done.stderr
    assert (done.json["backup"], done.json["complete"], done.json["left_out"]) == (backup, True, [])
    assert {one["store"] for one in done.json["collections"]} == {"postgres", "vectors", "redis", "objects"}
    listed = json.loads((folder / "export.json").read_text("utf-8"))
    for name, its in listed["files"].items():
        contents_ = (folder / name).read_bytes()
        assert (len(contents_), hashlib.sha256(contents_).hexdigest()) == (its["bytes"], its["sha256"])
        assert (folder / name).stat().st_mode & 0o077 == 0
    lines = (folder / "postgres/public.documents.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert sorted((row["id"], row["title"]) for row in rows) == live
    assert sum(one["files"] for one in done.json["collections"]) > 0
    log = cells_estate.command("audit", "show", tenant, "--json").json["entries"]
    assert [e["action"] for e in log][-2:] == ["backup_export_begun", "backup_exported"]
    for wrong in (("--to", str(folder)), ("--to", str(tmp_path / "x"), "--region", "mars")):
        assert cells_estate.command("backup", "export", tenant, *wrong).exit_code == 2


def test_a_backup_under_load_fails_nobody_and_touches_no_neighbour(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    tenant, neighbour = "backed-up", "backed-up-2"
    cells_estate.add_tenant(tenant, tier="platinum")
    cells_estate.add_tenant(neighbour)
    quiet = cells_estate.digests(neighbour)
    with cells_estate.load(tenant, folder=tmp_path) as load:
        first = created(cells_estate, tenant)
        second = created(cells_estate, tenant)
        counts = load.stats()
        report = cells_estate.lost(load)
    assert counts.writes_acked > 0
    assert counts.failed == 0
    assert report.clean, report
    assert cells_estate.digests(neighbour) == quiet
    assert cells_estate.left_behind(tenant) == []
    for region in (FIRST, SECOND):
        assert set(every_byte(cells_estate, tenant, region)) == {first, second}
    listed = cells_estate.command("backup", "list", tenant, "--json").json["backups"]
    assert [one["backup"] for one in listed] == [second, first]
    for one in listed:
        assert {(c["region"], c["whole"], c["depth"]) for c in one["copies"]} == {
            (FIRST, True, "full"),
            (SECOND, True, "full"),
        }
    assert objects_in(cells_estate, neighbour) == set()


def test_the_backup_of_a_quiet_tenant_is_what_its_stores_hold(cells_estate: TestEstate) -> None:
    tenant = "quiet"
    cells_estate.add_tenant(tenant)
    backup = created(cells_estate, tenant)
    held = {key[1:]: value for key, value in cells_estate.digests(tenant, ["blue"]).items()}
    said = facts(cells_estate, tenant, backup)
    assert {place: seen for place, seen in said.items() if seen[0] or place in held} == held
    again = cells_estate.command("backup", "create", tenant, "--json").json["result"]
    # The index is new each time, and a key that has run out since changes the chunk that it was in.
    assert again["sent_chunks"] <= 2 < again["chunks"]
    assert again["sent_bytes"] < again["size_bytes"] / 2


@contextmanager
def counting(estate: TestEstate, tenant: str) -> Iterator[None]:
    """Somebody who writes n into PostgreSQL, then n into Redis, then n + 1, straight into the stores of blue."""
    access = estate.local.cells[CellName("blue")]
    stop = threading.Event()

    def write() -> None:
        n = 0
        with (
            psycopg.connect(access.dsn, autocommit=True) as rows,
            redis.Redis.from_url(access.redis_url) as admin,
        ):
            host, port = (
                admin.connection_pool.connection_kwargs["host"],
                admin.connection_pool.connection_kwargs["port"],
            )
            app = redis.Redis(host=host, port=port, username=f"app-{tenant}", password=f"pw-{tenant}")
            while not stop.is_set():
                n += 1
                _until(stop, lambda n=n: rows.execute(INSERT, (tenant, 10**9 + n, f"count={n};")))
                _until(stop, lambda n=n: app.set(f"t:{tenant}:counter:{n:06d}", f"count={n};"))
            app.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join(60)


def _until(stop: threading.Event, write: object) -> None:
    """Try it until the fence lets it through: a job that writes past the gate does the same."""
    assert callable(write)
    while True:
        try:
            write()
        except (psycopg.Error, redis.RedisError):
            if stop.wait(0.005):
                return
        else:
            return


def test_all_stores_are_taken_at_one_point_while_somebody_writes_past_the_gate(
    cells_estate: TestEstate,
) -> None:
    tenant = "one-point"
    cells_estate.add_tenant(tenant)
    with counting(cells_estate, tenant):
        backups = [created(cells_estate, tenant) for _ in range(3)]
    reached = []
    for backup in backups:
        its = contents(cells_estate, tenant, backup)
        rows = _highest(its[POSTGRES, "public.documents"])
        keys = _highest(its[REDIS, "counter:*"])
        assert keys <= rows <= keys + 1, (rows, keys)
        reached.append(rows)
    assert reached == sorted(set(reached))
    assert reached[0] > 0


def _highest(stream: bytes) -> int:
    found = {int(n) for n in re.findall(rb"count=(\d+);", stream)}
    assert found == set(range(1, len(found) + 1))
    return max(found, default=0)


def test_a_plan_changes_nothing_and_its_digest_is_what_apply_wants(cells_estate: TestEstate) -> None:
    tenant = "backup-planned"
    cells_estate.add_tenant(tenant, tier="platinum")
    plan = cells_estate.command("backup", "create", tenant, "--plan", "--json")
    assert plan.exit_code == 0, plan.stderr
    document = plan.json
    assert (document["region"], document["copy_to"], document["keep_days"]) == (FIRST, SECOND, 365)
    assert {"hold_ms", "total_s", "size_bytes", "sent_bytes", "cost"} <= set(document["predicted"])
    assert [left["store"] for left in document["left_out"]] == ["vault"]
    assert {(s["store"], tuple(s["carries"])) for s in document["stores"]} == {
        (POSTGRES, ("vectors",)),
        (REDIS, ()),
        (OBJECTS, ()),
    }
    assert objects_in(cells_estate, tenant) == set()
    assert document["next_steps"] == [f"tenure backup create {tenant} --apply {document['digest']}"]
    wrong = cells_estate.command("backup", "create", tenant, "--apply", "0" * 16)
    assert wrong.exit_code == 6, wrong.stderr
    applied = cells_estate.command("backup", "create", tenant, "--apply", document["digest"])
    assert applied.exit_code == 0, applied.stderr


def test_residency_keeps_a_copy_out_of_the_other_region(cells_estate: TestEstate) -> None:
    tenant = "backup-in-eu"
    cells_estate.add_tenant(tenant, cell="eu", residency="eu-only", tier="platinum")
    config = config_with(cells_estate, "abroad.yaml", platinum={"copy_to": FIRST})
    refused = cells_estate.command("backup", "create", tenant, config=config)
    assert refused.exit_code == 4, refused.stderr
    assert "eu-only" in refused.stderr
    assert objects_in(cells_estate, tenant, SECOND) == set()
    assert created(cells_estate, tenant) in shelf(cells_estate, tenant, SECOND)[0]


def test_a_tenant_is_in_one_operation_only(cells_estate: TestEstate) -> None:
    tenant = "backup-or-move"
    cells_estate.add_tenant(tenant)
    cells_estate.killed_at("capture.begun", "backup", tenant)
    (operation, *_) = cells_estate.command("op", "list", "--tenant", tenant, "--json").json["operations"]
    for command in (
        ("migrate", tenant, "--to", "green"),
        ("backup", "create", tenant),
        ("backup", "prune", tenant),
    ):
        refused = cells_estate.command(*command)
        assert refused.exit_code == 11, refused.stderr
        assert operation["operation"] in refused.stderr
    assert cells_estate.command("op", "cancel", operation["operation"]).exit_code == 0
    cells_estate.killed_at("verify.equal", "migrate", tenant, "green")
    (moving, *_) = cells_estate.command("op", "list", "--tenant", tenant, "--json").json["operations"]
    refused = cells_estate.command("backup", "create", tenant)
    assert refused.exit_code == 11, refused.stderr
    assert cells_estate.command("op", "cancel", moving["operation"]).exit_code == 0
    assert cells_estate.left_behind(tenant) == []


def test_a_soaking_tenant_is_backed_up_and_can_still_go_back(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    tenant = "backup-soaking"
    cells_estate.add_tenant(tenant)
    with cells_estate.load(tenant, folder=tmp_path) as load:
        assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
        backup = created(cells_estate, tenant)
        with cells_estate.service() as service:
            route = service.observed_route(tenant)
        assert (route.gated, route.cell) == (True, "green")
        back = cells_estate.command("rollback", tenant)
        assert back.exit_code == 0, back.stderr
        report = cells_estate.lost(load)
    assert report.clean, report
    assert cells_estate.command("backup", "show", backup, "--json").json["cell"] == "green"
    assert list(every_byte(cells_estate, tenant)) == [backup]
    cells_estate.finish(tenant, "blue")
    assert cells_estate.left_behind(tenant) == []


def test_a_backup_that_was_damaged_is_not_called_good_any_more(cells_estate: TestEstate) -> None:
    tenant = "damaged-backup"
    cells_estate.add_tenant(tenant, tier="platinum")
    backup = created(cells_estate, tenant)
    good = cells_estate.command("backup", "verify", backup, "--full", "--json")
    assert good.exit_code == 0, good.stderr
    assert all(r["opened"] and r["every_byte"] and r["streams_checked"] for r in good.json["regions"])
    client, bucket = bucket_of(cells_estate, FIRST)
    (chunk, *_) = sorted(key for key in objects_in(cells_estate, tenant) if "/chunks/" in key)
    client.delete_object(Bucket=bucket, Key=chunk)
    bad = cells_estate.command("backup", "verify", tenant, "--json")
    assert bad.exit_code != 0
    assert {r["region"]: r["good"] for r in bad.json["regions"]} == {FIRST: False, SECOND: True}
    (problem, *_) = next(r["problems"] for r in bad.json["regions"] if r["region"] == FIRST)
    assert chunk.rsplit("/", 1)[1].split(".")[0] in problem
    (listed,) = cells_estate.command("backup", "list", tenant, "--json").json["backups"]
    assert {c["region"]: c["whole"] for c in listed["copies"]} == {FIRST: False, SECOND: True}


def test_a_prune_shows_what_goes_and_takes_nothing_that_is_held(cells_estate: TestEstate) -> None:
    tenant = "pruned"
    cells_estate.add_tenant(tenant)
    config = config_with(cells_estate, "prune.yaml", gold={"keep_days": 0.00001, "keep_at_least": 1})
    backups = [created(cells_estate, tenant, config) for _ in range(3)]
    kept = cells_estate.command("backup", "prune", tenant, "--plan", "--json").json
    assert kept["deletes"] == []  # by the tier of the estate they stay for 90 days
    plan = cells_estate.command("backup", "prune", tenant, "--plan", "--json", config=config).json
    assert [d["backup"] for d in plan["deletes"]] == [backups[1]]
    held = cells_estate.command("tenant", "hold", tenant, "--reason", "case 7")
    assert held.exit_code == 0, held.stderr
    stale = cells_estate.command("backup", "prune", tenant, "--apply", plan["digest"], config=config)
    assert stale.exit_code == 6, stale.stderr
    assert cells_estate.command("backup", "prune", tenant, config=config).exit_code == 0
    assert shelf(cells_estate, tenant)[0] == set(backups)
    assert cells_estate.command("tenant", "hold", tenant, "--release").exit_code == 0
    done = cells_estate.command("backup", "prune", tenant, "--apply", plan["digest"], config=config)
    assert done.exit_code == 0, done.stderr
    assert set(every_byte(cells_estate, tenant)) == {backups[0], backups[2]}


def test_who_writes_backups_into_the_vault_pushes_none_out(cells_estate: TestEstate) -> None:
    tenant = "flooded"
    cells_estate.add_tenant(tenant)
    config = config_with(cells_estate, "flood.yaml", gold={"keep_days": 0.00001, "keep_at_least": 1})
    mine = [created(cells_estate, tenant, config) for _ in range(2)]
    client, bucket = bucket_of(cells_estate, FIRST)
    manifest = client.get_object(Bucket=bucket, Key=f"backups/{tenant}/backups/{mine[0]}")["Body"].read()
    for n in range(30):
        client.put_object(Bucket=bucket, Key=f"backups/{tenant}/backups/forged-{n}", Body=manifest)
    plan = cells_estate.command("backup", "prune", tenant, "--plan", "--json", config=config).json
    assert plan["deletes"] == []
    assert sum(b["fate"] == "foreign" for b in plan["backups"]) == 30
    assert {b["backup"] for b in plan["backups"] if b["fate"] == "keep"} == set(mine)
    done = cells_estate.command("backup", "prune", tenant, "--json", config=config)
    assert done.exit_code == 0, done.stderr
    assert "manifest of another backup" in done.json["result"]["collected"][FIRST]["because"]
    listed = cells_estate.command("backup", "list", tenant, "--json").json["backups"]
    assert [one["backup"] for one in listed] == mine[::-1]


@pytest.fixture
def scheduled(cells_estate: TestEstate) -> Path:
    """The estate's file with a schedule for two tiers of this test's own."""
    document = yaml.safe_load(cells_estate.config.read_text(encoding="utf-8"))
    daily = {"every": "daily", "keep_days": 3, "keep_at_least": 1}
    document["tiers"] |= {
        name: {"rank": rank, "backup": dict(daily)} for rank, name in enumerate(("first", "second"), 1)
    }
    document["fleet"] = {
        "scheduler": {"backups_every_s": 1, "soaks_every_s": 86_400, "compare_after_s": None}
    }
    path = cells_estate.config.with_name("scheduled-backups.yaml")
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def test_the_scheduler_backs_up_who_is_due_once_and_the_highest_tier_first(
    cells_estate: TestEstate, scheduled: Path
) -> None:
    tenants = {"due-b": "second", "due-a": "first"}
    for tenant, tier in tenants.items():
        cells_estate.add_tenant(tenant)
        assert cells_estate.command("tenant", "tier", tenant, tier, config=scheduled).exit_code == 0
    for _ in range(2):
        once = cells_estate.command("scheduler", "--once", config=scheduled, timeout_s=300)
        assert once.exit_code == 0, once.stderr
    backups = [
        one
        for one in cells_estate.command("backup", "list", "--json", config=scheduled).json["backups"]
        if one["tenant"] in tenants
    ]
    assert [one["tenant"] for one in backups] == ["due-b", "due-a"]
    assert all(one["period"] is not None and one["copies"][0]["whole"] for one in backups)
    for tenant in tenants:  # so that no other test's scheduler meets a tier that its file does not have
        assert cells_estate.command("tenant", "tier", tenant, "gold").exit_code == 0


def test_a_drill_measures_a_recovery_and_leaves_nothing(cells_estate: TestEstate) -> None:
    tenant, neighbour = "drilled", "drilled-2"
    cells_estate.add_tenant(tenant)
    cells_estate.add_tenant(neighbour, cell="green")
    backup, quiet = created(cells_estate, tenant), cells_estate.digests(neighbour)
    before = cells_estate.digests(tenant)
    done = cells_estate.command("backup", "drill", tenant, "--in", "green", "--json")
    assert done.exit_code == 0, done.stderr
    result = done.json["result"]
    assert (result["equal"], result["problems"]) == (True, [])
    assert 0 < result["recovery_s"] < result["recovery_point_s"]
    assert cells_estate.digests(tenant) == before
    assert cells_estate.digests(neighbour) == quiet
    assert cells_estate.left_behind(tenant) == []
    drills = cells_estate.command("backup", "drill", "--json").json["drills"]
    (noted,) = [one for one in drills if one["tenant"] == tenant]
    assert (noted["backup"], noted["tier"], noted["equal"]) == (backup, "gold", True)


def test_a_drill_of_a_backup_that_is_not_whole_fails_loudly_and_leaves_nothing(
    cells_estate: TestEstate,
) -> None:
    tenant = "drilled-bad"
    cells_estate.add_tenant(tenant)
    backup = created(cells_estate, tenant)
    client, bucket = bucket_of(cells_estate, FIRST)
    for key in objects_in(cells_estate, tenant):
        if "/chunks/" in key:
            client.put_object(Bucket=bucket, Key=key, Body=b"something else")
    failed = cells_estate.command("backup", "drill", backup, "--json")
    assert failed.exit_code != 0
    assert "damaged" in failed.stderr
    assert cells_estate.left_behind(tenant) == []
    drills = cells_estate.command("backup", "drill", "--json").json["drills"]
    (noted,) = [one for one in drills if one["tenant"] == tenant]
    assert not noted["equal"]
    assert "damaged" in noted["details"]["problems"][0]
