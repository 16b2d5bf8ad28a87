"""Restores of the sample app's tenants by the real command line: in place, into another cell, under another name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rag_app.history import Op
from rag_app.settings import TenantAccess
from tenure.estate.config import load_estate
from tenure.model.names import TenantId
from tenure.wiring import open_registry
from tenure.wiring.backups import open_ledger
from tests.estate import TestEstate
from tests.restores import back_up, planned, restore, scratch_databases, sql

DAMAGED = ("mismatched", "missing", "extra")
_IDS = "select id from documents where tenant_id = %(t)s order by 1"


def state(estate: TestEstate, tenant: str, cell: str) -> dict[tuple[str, str], tuple[int, str]]:
    """Digests of everything of a tenant in a cell."""
    return {key[1:]: value for key, value in estate.digests(tenant, [cell]).items()}


def test_a_damaged_tenant_is_restored_in_place_under_load(
    estate: TestEstate, tenant: str, new_tenant: Callable[[], str], tmp_path: Path
) -> None:
    """No request fails, users wait; what was damaged in any store is as in the backup; what was written since is told
    before it is discarded, to the last document; and what is written afterwards stays."""
    other, neighbour = new_tenant(), state(estate, "neighbour", "blue")
    backup = back_up(estate, tenant)
    for how in DAMAGED:
        estate.damage(tenant, "blue", how)
    with estate.load(tenant, other, folder=tmp_path, mix={Op.CREATE: 2.0, Op.SEARCH: 2.0}) as load:
        done = restore(estate, backup)
        assert done.exit_code == 0, done.stderr
        restored_at = time.time()
        history = load.stop()
    assert history.counts().failed == 0
    assert done.json["state"] == "succeeded"
    assert done.json["result"]["serves"] == "blue"
    # The list of recent documents goes on with those that were created after the restore.
    left = [c for c in planned(estate, backup)["changes"] if c["collection"] != "recent"]
    assert [c for c in left if c["added"] or c["changed"]] == []
    found = {f"document:{row[0]}" for row in sql(estate, "blue", _IDS, t=tenant)}
    made = [r for r in history.requests if r.tenant == tenant and r.op is Op.CREATE]
    discarded = [r for r in made if r.key not in found]
    assert discarded
    assert len(discarded) < len(made)
    assert not any(r.start > restored_at for r in discarded)
    (documents,) = [c for c in done.json["result"]["changes"] if c["collection"] == "public.documents"]
    assert documents["removed"] == len(discarded)
    assert {f"document:{row[0]}" for row in sql(estate, "blue", _IDS, t=other)} >= {
        r.key for r in history.requests if r.tenant == other and r.op is Op.CREATE
    }
    assert state(estate, "neighbour", "blue") == neighbour
    assert estate.left_behind(tenant) == []


def test_what_was_written_since_the_backup_is_shown_before_it_is_discarded(
    estate: TestEstate, tenant: str
) -> None:
    backup = back_up(estate, tenant)
    sql(
        estate,
        "blue",
        "insert into documents (tenant_id, id, title, body) values (%(t)s, 777000001, 'new', 'since the backup')",
        t=tenant,
    )
    plan = planned(estate, backup)
    (documents,) = [c for c in plan["changes"] if c["collection"] == "public.documents"]
    assert (documents["added"], documents["changed"], documents["removed"]) == (0, 0, 1)
    assert documents["items"]["removed"] == [json.dumps([tenant, "777000001"])]
    assert "777000001" in estate.command("restore", backup, "--plan").stdout
    done = estate.command("restore", backup, "--apply", plan["digest"], "--json")
    assert done.exit_code == 0, done.stderr
    assert sql(estate, "blue", "select 1 from documents where id = 777000001") == []
    (told,) = [c for c in done.json["result"]["changes"] if c["collection"] == "public.documents"]
    assert told["removed"] == 1
    # What was live before is a backup of its own, and can be had back.
    undone = restore(estate, str(done.json["result"]["protected_by"]))
    assert undone.exit_code == 0, undone.stderr
    assert sql(estate, "blue", "select title from documents where id = 777000001") == [("new",)]


def test_a_restore_in_place_asks_for_the_tenants_name(estate: TestEstate, tenant: str) -> None:
    backup = back_up(estate, tenant)
    assert estate.command("restore", backup).exit_code == 3
    assert estate.command("restore", backup, "--yes", tenant).exit_code == 0


def test_single_rows_and_objects_are_restored(estate: TestEstate, tenant: str) -> None:
    backup = back_up(estate, tenant)
    before = state(estate, tenant, "blue")
    ids = [
        row[0]
        for row in sql(estate, "blue", "select id from chunks where tenant_id = %(t)s order by 1", t=tenant)
    ]
    one, two = ids[0], ids[1]
    sql(
        estate,
        "blue",
        "update chunks set text = 'damaged' where tenant_id = %(t)s and id = any(%(i)s)",
        t=tenant,
        i=[one, two],
    )
    done = restore(estate, backup, "--table", "public.chunks", "--row", str(one))
    assert done.exit_code == 0, done.stderr
    left = sql(estate, "blue", "select id from chunks where tenant_id = %(t)s and text = 'damaged'", t=tenant)
    assert left == [(two,)]
    unknown = estate.command("restore", backup, "--table", "public.chunks", "--row", "123", "--plan")
    assert unknown.exit_code == 2
    assert restore(estate, backup, "--table", "public.chunks").exit_code == 0
    estate.damage(tenant, "blue", "missing")
    lost = plan_keys(estate, backup, "objects", "added")
    assert len(lost) == 1
    done = restore(estate, backup, "--store", "objects", "--object", lost[0])
    assert done.exit_code == 0, done.stderr
    assert plan_keys(estate, backup, "objects", "added") == []
    assert plan_keys(estate, backup, "redis", "added") != []
    assert restore(estate, backup, "--store", "redis").exit_code == 0
    assert restore(estate, backup, "--store", "vectors", "--store", "postgres").exit_code == 0
    assert state(estate, tenant, "blue") == before


def plan_keys(estate: TestEstate, backup: str, store: str, kind: str) -> list[str]:
    plan = planned(estate, backup)
    return [key for c in plan["changes"] if c["store"] == store for key in c["items"].get(kind, ())]


def test_a_row_whose_parent_is_gone_is_refused_and_nothing_changes(estate: TestEstate, tenant: str) -> None:
    backup = back_up(estate, tenant)
    (document,) = sql(estate, "blue", "select min(id) from documents where tenant_id = %(t)s", t=tenant)[0]
    (chunk,) = sql(
        estate,
        "blue",
        "select min(id) from chunks where tenant_id = %(t)s and document_id = %(d)s",
        t=tenant,
        d=document,
    )[0]
    sql(estate, "blue", "delete from documents where tenant_id = %(t)s and id = %(d)s", t=tenant, d=document)
    damaged = state(estate, tenant, "blue")
    refused = restore(estate, backup, "--table", "public.chunks", "--row", str(chunk))
    assert refused.exit_code == 5
    assert "rows that do not exist" in refused.stderr or "do not exist" in refused.stderr
    assert refused.json["state"] == "aborted"
    assert state(estate, tenant, "blue") == damaged
    assert estate.left_behind(tenant) == []
    with estate.service() as service:
        assert service.status(tenant).placement.epoch == 1


def test_a_backup_is_restored_into_another_cell(estate: TestEstate, tenant: str) -> None:
    before = state(estate, tenant, "blue")
    backup = back_up(estate, tenant)
    estate.devastate(tenant, "blue")
    done = restore(estate, backup, "--to", "green")
    assert done.exit_code == 0, done.stderr
    assert done.json["result"]["serves"] == "green"
    assert done.json["result"]["left_in"] == "blue"
    assert state(estate, tenant, "green") == before
    shown = estate.command("tenant", "show", tenant, "--json").json
    assert shown["cell"] == "green"
    again = planned(estate, backup, "--to", "blue", refused=True)
    assert {f["code"] for f in again["findings"] if f["severity"] == "refusal"} == {"target_not_empty"}


def test_the_former_copy_is_erased_where_that_is_asked_for(estate: TestEstate, tenant: str) -> None:
    before, backup = state(estate, tenant, "blue"), back_up(estate, tenant)
    neighbour = state(estate, "neighbour", "blue")
    done = restore(estate, backup, "--to", "green", "--erase-former")
    assert done.exit_code == 0, done.stderr
    assert done.json["result"]["erased_from"] == "blue"
    assert state(estate, tenant, "green") == before
    assert not any(items for items, _ in state(estate, tenant, "blue").values())
    assert state(estate, "neighbour", "blue") == neighbour
    back = restore(estate, backup, "--to", "blue", "--erase-former")
    assert back.exit_code == 0, back.stderr
    assert state(estate, tenant, "blue") == before


def test_a_backup_is_restored_under_another_name_with_its_ids(estate: TestEstate, tenant: str) -> None:
    before, backup = state(estate, tenant, "blue"), back_up(estate, tenant)
    copy = f"{tenant}-copy"
    estate.app.tenants[copy] = TenantAccess(host=f"{copy}.rag.localhost", redis_password=f"pw-{copy}")
    for access in estate.local.cells.values():
        estate.app.deploy(access, estate.local.running.folder / "etc" / "app")
    done = restore(estate, backup, "--as", copy, "--host", f"{copy}.rag.localhost")
    assert done.exit_code == 0, done.stderr
    assert state(estate, tenant, "blue") == before
    assert sql(estate, "blue", _IDS, t=copy) == sql(estate, "blue", _IDS, t=tenant)
    counts = {place: items for place, (items, _) in state(estate, copy, "blue").items()}
    assert counts == {place: items for place, (items, _) in before.items()}
    shown = estate.command("tenant", "show", copy, "--json").json
    assert shown["cell"] == "blue"
    assert estate.left_behind(copy) == []
    taken = estate.command("restore", backup, "--as", copy, "--plan")
    assert taken.exit_code == 4


def test_a_backup_of_version_1_is_restored_into_a_cell_at_version_4(estate: TestEstate, tenant: str) -> None:
    backup = back_up(estate, tenant)
    bodies = sql(
        estate, "blue", "select id, body from documents where tenant_id = %(t)s order by 1", t=tenant
    )
    plan = planned(estate, backup, "--to", "eu")
    assert plan["schemas"] == [{"store": "postgres", "way": "migrated", "backup": "1", "live": "4"}]
    assert scratch_databases(estate) == []
    done = restore(estate, backup, "--to", "eu")
    assert done.exit_code == 0, done.stderr
    assert (
        sql(
            estate,
            "eu",
            "select document_id, body from document_bodies where tenant_id = %(t)s order by 1",
            t=tenant,
        )
        == bodies
    )
    assert scratch_databases(estate) == []


def test_one_that_breaks_a_new_constraint_is_refused_with_the_rows_named(
    estate: TestEstate, tenant: str
) -> None:
    sql(
        estate,
        "blue",
        "update documents set title = repeat('x', 201) where tenant_id = %(t)s"
        " and id = (select min(id) from documents where tenant_id = %(t)s)",
        t=tenant,
    )
    (low,) = sql(estate, "blue", "select min(id) from documents where tenant_id = %(t)s", t=tenant)[0]
    before, backup = state(estate, tenant, "blue"), back_up(estate, tenant)
    refused = restore(estate, backup, "--to", "eu")
    assert refused.exit_code == 5
    assert "title_is_short" in refused.stderr
    assert json.dumps([tenant, str(low)]) in refused.stderr
    assert state(estate, tenant, "blue") == before
    assert not any(items for items, _ in state(estate, tenant, "eu").values())
    assert scratch_databases(estate) == []
    assert estate.left_behind(tenant) == []


def test_a_backup_newer_than_the_target_is_refused_with_the_reason(estate: TestEstate, tenant: str) -> None:
    assert restore(estate, back_up(estate, tenant), "--to", "eu").exit_code == 0
    newer = back_up(estate, tenant)
    plan = planned(estate, newer, "--as", f"{tenant}-old", "--to", "blue", refused=True)
    (finding,) = [f for f in plan["findings"] if f["code"] == "schema_incompatible"]
    assert "the backup is newer than the target: it was taken at 4, and live is 1" in finding["message"]


def note_erasure(estate: TestEstate, tenant: str) -> None:
    estate_ = load_estate(estate.config)
    registry = open_registry(estate_)
    try:
        names = open_ledger(estate_)
        assert names is not None
        registry.erasures.note(
            None, request="gdpr_req_1", key_id=names.key_id, tenant=names.tenant(TenantId(tenant))
        )
    finally:
        registry.close()


@pytest.mark.parametrize("way", ["in place", "under another name"])
def test_what_was_erased_while_a_restore_was_under_way_is_not_opened(
    estate: TestEstate, tenant: str, way: str
) -> None:
    backup, again = back_up(estate, tenant), f"{tenant}-again"
    name = again if way == "under another name" else tenant
    estate.damage(tenant, "blue", "missing")
    before = state(estate, tenant, "blue")
    assert estate.killed_at("switch.committing", "restore", name, backup).exit_code == -9
    with estate.service() as service:
        operation = service.operations(tenant=name, limit=1)[0].id
    note_erasure(estate, tenant)
    refused = estate.command("op", "resume", operation, "--json")
    assert refused.exit_code != 0
    assert "gdpr_req_1" in refused.stderr
    assert state(estate, tenant, "blue") == before
    if way == "under another name":
        assert estate.command("tenant", "show", again).exit_code == 2
        assert estate.items_in(again, "blue") == 0
    else:
        assert estate.command("tenant", "show", tenant, "--json").json["cell"] == "blue"
    assert estate.left_behind(tenant) == []


def test_erased_stays_erased(estate: TestEstate, tenant: str, tmp_path: Path) -> None:
    """A restore that did not consult the ledger would bring the tenant back."""
    backup = back_up(estate, tenant)
    note_erasure(estate, tenant)
    for options in ((), ("--to", "green"), ("--as", f"{tenant}-again"), ("--table", "public.documents")):
        plan = planned(estate, backup, *options, refused=True)
        assert [f["code"] for f in plan["findings"] if f["severity"] == "refusal"] == ["erased"]
        assert plan["changes"] == []
    for command in (
        ("restore", backup, "--yes", tenant),
        ("backup", "export", backup, "--to", str(tmp_path / "export")),
    ):
        refused = estate.command(*command)
        assert refused.exit_code == 4
        assert "gdpr_req_1" in refused.stderr
    assert not (tmp_path / "export").exists()
