"""`tenure catalogue` through the real command line, on the real servers of an estate."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import redis
import yaml

from tenure.catalogue import load_catalogue
from tenure.estate.config import load_estate
from tenure.estate.local.cell_plans import CellAccess
from tenure.model.names import CellName
from tenure.registry.database import Connection, TupleRow
from tenure.wiring import open_registry
from tests.acceptance.planting import (
    NEIGHBOURS,
    REDIS_PLACES,
    S3_PLACES,
    TABLE_PLACES,
    TENANT,
    UPPER,
    clear_postgres,
    clear_redis,
    clear_s3,
    places,
    plant_in_postgres,
    plant_in_redis,
    plant_in_s3,
    s3_of,
)
from tests.estate import TestEstate

ANN = "ann.lee@people.example"


@pytest.fixture(scope="module")
def estate(cells_estate: TestEstate) -> TestEstate:
    for tenant in (TENANT, *NEIGHBOURS):
        cells_estate.add_tenant(tenant)
    with cells_estate.service() as service:
        service.add_tenant(UPPER, cell="blue", tier="gold", host="upper.rag.localhost", residency=None)
    return cells_estate


@pytest.fixture
def blue(estate: TestEstate) -> CellAccess:
    return estate.local.cells[CellName("blue")]


@contextlib.contextmanager
def control(estate: TestEstate) -> Iterator[Connection[TupleRow]]:
    registry = open_registry(load_estate(estate.config))
    try:
        with registry.database.connection() as connection:
            yield connection
    finally:
        registry.close()


@pytest.fixture
def planted(blue: CellAccess) -> Iterator[CellAccess]:
    try:
        plant_in_postgres(blue)
        plant_in_redis(blue)
        plant_in_s3(blue)
        yield blue
    finally:
        clear_postgres(blue)
        clear_redis(blue)
        clear_s3(blue)


# -- scan --------------------------------------------------------------------------------------------------------


def test_a_full_scan_finds_every_undocumented_place_and_nothing_of_the_neighbours(
    estate: TestEstate, planted: CellAccess
) -> None:
    before = estate.digests(TENANT)
    result = estate.command("catalogue", "scan", TENANT, "--full", "--cell", "blue", "--json")
    assert result.exit_code == 1, result.stderr
    assert result.json["complete"]
    wanted = TABLE_PLACES | REDIS_PLACES | S3_PLACES
    assert len(wanted) >= 30
    found = places(result, "undocumented", "contradicted")
    assert found == wanted, (sorted(wanted - found), sorted(found - wanted))
    assert places(result, "contradicted") == {"column public.schema_version.note"}
    assert not places(result, "misplaced")
    assert all(f["tenant"] == TENANT for f in result.json["findings"])
    assert estate.digests(TENANT) == before


def test_a_scan_of_all_tenants_tells_them_apart(estate: TestEstate, planted: CellAccess) -> None:
    result = estate.command("catalogue", "scan", "--all", "--full", "--cell", "blue", "--json", timeout_s=200)
    assert places(result, "undocumented", "contradicted") == TABLE_PLACES | REDIS_PLACES | S3_PLACES
    upper = places(result, "undocumented", "contradicted", tenant=UPPER)
    assert "column odd.words.note" in upper
    assert "schema scanme_tmp" not in upper
    assert "table odd.export_scanme2" in places(result, "undocumented", tenant="scanme2")
    assert "table odd.export_scanme" not in places(result, "undocumented", tenant="scanme2")


def test_the_proposal_is_a_catalogue_that_then_names_these_tables(
    estate: TestEstate, planted: CellAccess
) -> None:
    result = estate.command(
        "catalogue", "scan", TENANT, "--full", "--cell", "blue", "--store", "postgres", "--json"
    )
    proposed = result.json["proposal"]["stores"]["postgres"]["tables"]
    assert proposed["odd.words"]["columns"]["note"] == "content"
    assert proposed["odd.words"]["columns"]["token"] == "secret"
    assert (
        result.json["proposal"]["stores"]["scan_legacy"]["tables"]["public.customers"]["columns"]["name"]
        == "personal"
    )


def test_identifiers_of_persons_are_found_and_shown_nowhere(estate: TestEstate, blue: CellAccess) -> None:
    with redis.Redis.from_url(blue.redis_url) as client:
        client.set(f"audit:{ANN}", f"sent to {ANN}")
    try:
        given = ("--identifier", f"email={ANN}")
        for output in ("--json", "--quiet"):
            result = estate.command(
                *(("--quiet",) if output == "--quiet" else ()),
                "catalogue",
                "scan",
                TENANT,
                "--full",
                "--cell",
                "blue",
                "--store",
                "redis",
                *given,
                *(("--json",) if output == "--json" else ()),
            )
            assert result.exit_code == 1
            assert "audit:*" in result.stdout
            for shown in (result.stdout, result.stderr):
                assert "ann.lee" not in shown
                assert "people.example" not in shown
        with control(estate) as connection:
            kept = connection.execute("select s::text from registry.scans s").fetchall()
            kept += connection.execute("select p::text from registry.scan_parts p").fetchall()
        assert "ann.lee" not in str(kept)
        assert "audit:*" in str(kept)
    finally:
        with redis.Redis.from_url(blue.redis_url) as client:
            client.delete(f"audit:{ANN}")


def test_data_in_a_cell_that_does_not_serve_the_tenant_is_misplaced_unless_a_link_explains_it(
    estate: TestEstate,
) -> None:
    tenant = "scan-moved"
    estate.add_tenant(tenant)
    green = estate.local.cells[CellName("green")]
    scan = ("catalogue", "scan", tenant, "--full", "--json")
    assert estate.command(*scan).exit_code == 0
    with psycopg.connect(green.dsn, autocommit=True) as connection:
        connection.execute(
            "insert into documents (tenant_id, title, body) values (%s, 'left', 'behind')", (tenant,)
        )
    residue = estate.command(*scan)
    assert residue.exit_code == 1
    assert places(residue, "misplaced", tenant=tenant) == {"column public.documents.tenant_id"}
    with psycopg.connect(green.dsn, autocommit=True) as connection:
        connection.execute("delete from documents where tenant_id = %s", (tenant,))
    assert estate.command("migrate", tenant, "--to", "green").exit_code == 0
    soaking = estate.command(*scan)
    assert soaking.exit_code == 0, soaking.stdout
    copies = [f for f in soaking.json["findings"] if f["judgement"] == "copy"]
    assert {f["cell"] for f in copies} == {"blue"}
    assert {f["store"] for f in copies} == {"postgres", "vectors", "redis", "objects"}
    assert all("as it should be" in f["message"] for f in copies)


@pytest.mark.parametrize("end", [pytest.param(signal.SIGINT, marks=pytest.mark.variant), signal.SIGKILL])
def test_a_scan_that_was_interrupted_goes_on_and_finds_everything_once(
    estate: TestEstate, planted: CellAccess, end: signal.Signals
) -> None:
    whole = estate.command("catalogue", "scan", TENANT, "--full", "--cell", "blue", "--json")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tenure.cli.main",
            "--config",
            str(estate.config),
            "catalogue",
            "scan",
            TENANT,
            "--full",
            "--cell",
            "blue",
            "--rate",
            "0.005",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    scan = next(word.strip(":") for word in first.split() if word.startswith("s-"))
    with control(estate) as connection:
        deadline = time.monotonic() + 60
        begun = "select count(*) from registry.scan_parts where scan = %s and cursor is not null and state = 'running'"
        while not connection.execute(begun, (scan,)).fetchall()[0][0]:
            assert time.monotonic() < deadline, "the scan keeps nothing"
            assert process.poll() is None, "the scan ended before it could be interrupted"
            time.sleep(0.05)
    busy = estate.command("catalogue", "scan", "--resume", scan)
    assert busy.exit_code == 11
    process.send_signal(end)
    said = process.stderr.read()
    code = process.wait(60)
    process.stderr.close()
    if end is signal.SIGINT:
        assert code == 130
        assert f"tenure catalogue scan --resume {scan}" in said
    resumed = estate.command("catalogue", "scan", "--resume", scan, "--json")
    assert resumed.json["complete"]
    counted = {(f["judgement"], f["kind"], f["place"]): f["items"] for f in resumed.json["findings"]}
    assert counted == {(f["judgement"], f["kind"], f["place"]): f["items"] for f in whole.json["findings"]}
    again = estate.command("catalogue", "scan", "--resume", scan, "--json")
    assert again.json["findings"] == resumed.json["findings"]


def test_a_store_that_is_down_fails_its_part_and_can_be_scanned_later(estate: TestEstate) -> None:
    server = "valkey-blue"
    estate.local.running.stop(server)
    try:
        result = estate.command("catalogue", "scan", TENANT, "--full", "--cell", "blue", "--json")
        assert result.exit_code == 1
        assert not result.json["complete"]
        assert [(f["cell"], f["store"]) for f in result.json["failed"]] == [("blue", "redis")]
        check = estate.command("catalogue", "check", "--cell", "blue", "--json")
        assert check.exit_code == 1
        assert ("redis", "unseen") in {(i["store"], i["wrong"]) for i in check.json["issues"]}
    finally:
        estate.local.running.start(server)
    resumed = estate.command(*result.json["next_steps"][0].split()[1:], "--json")
    assert resumed.exit_code == 0, resumed.stdout
    assert resumed.json["complete"]


def test_what_cannot_be_right_is_refused(estate: TestEstate) -> None:
    for wrong in (
        ("scan",),
        ("scan", TENANT, "--all"),
        ("scan", TENANT, "--full", "--sample", "0.5"),
        ("scan", "--all", "--identifier", "email=a@b"),
        ("scan", TENANT, "--identifier", "nothing"),
        ("scan", TENANT, "--store", "nowhere"),
        ("scan", TENANT, "--cell", "nowhere"),
        ("scan", "--resume", "s-0"),
        ("check", "--cell", "nowhere"),
    ):
        assert estate.command("catalogue", *wrong).exit_code == 2, wrong


# -- check -------------------------------------------------------------------------------------------------------


def test_the_sample_apps_catalogue_passes_its_check(estate: TestEstate) -> None:
    result = estate.command("catalogue", "check", "--json", "--allow-empty")
    assert result.exit_code == 0, result.stdout
    assert result.json["places"] > 30


def test_a_check_names_what_is_not_classified_with_a_proposal_that_mends_it(
    estate: TestEstate, blue: CellAccess, tmp_path: Any
) -> None:
    with psycopg.connect(blue.dsn, autocommit=True) as connection:
        connection.execute(
            "create table public.invoices (id bigint, tenant_id text, iban text, total numeric)"
        )
        connection.execute("alter table public.documents add column author_email text")
        connection.execute("alter table public.chunks rename column text to words")
    with redis.Redis.from_url(blue.redis_url) as client:
        client.set(f"t:{TENANT}:draft:1", "x")
        client.set("flags:beta", "on")
    s3_of(blue).put_object(Bucket=blue.plan.bucket, Key=f"thumbnails/{TENANT}/a.png", Body=b"x")
    try:
        result = estate.command("catalogue", "check", "--cell", "blue", "--allow-empty", "--json")
        assert result.exit_code == 1
        issues = {
            (i["store"], i["wrong"], i["place"]) for i in result.json["issues"] if i["wrong"] != "empty"
        }
        assert issues == {
            ("postgres", "unclassified", "table public.invoices"),
            ("postgres", "unclassified", "column public.documents.author_email"),
            ("postgres", "unclassified", "column public.chunks.words"),
            ("postgres", "gone", "column public.chunks.text"),
            ("redis", "unclassified", "key t:{tenant}:draft:*"),
            ("redis", "unclassified", "key flags:*"),
            ("objects", "unclassified", "object key thumbnails/{tenant}/*"),
        }
        assert all(i["fix"] and i["message"] for i in result.json["issues"])
        told = estate.command("catalogue", "check", "--cell", "blue", "--allow-empty")
        assert told.exit_code == 1
        proposed = yaml.safe_load(told.stdout[told.stdout.index("\nstores:") :].split("not looked at")[0])[
            "stores"
        ]
        assert proposed["postgres"]["tables"]["public.invoices"]["columns"] == {
            "id": "key",
            "tenant_id": "tenant",
            "iban": "sensitive",
            "total": "plain",
        }
        assert proposed["postgres"]["tables"]["public.documents"]["columns"] == {"author_email": "personal"}
        assert proposed["redis"] == {"keys": {"draft:*": "content"}, "ignore": ["flags:*"]}
        assert proposed["objects-thumbnails"]["prefix"] == "thumbnails/{tenant}/"
        mend(estate, proposed, tmp_path / "catalogue.yaml")
    finally:
        with psycopg.connect(blue.dsn, autocommit=True) as connection:
            connection.execute("drop table public.invoices")
            connection.execute("alter table public.documents drop column author_email")
            connection.execute("alter table public.chunks rename column words to text")
        with redis.Redis.from_url(blue.redis_url) as client:
            client.delete(f"t:{TENANT}:draft:1", "flags:beta")
        s3_of(blue).delete_object(Bucket=blue.plan.bucket, Key=f"thumbnails/{TENANT}/a.png")


def mend(estate: TestEstate, proposed: dict[str, Any], path: Any) -> None:
    """The proposal put into the catalogue is a catalogue."""
    known = yaml.safe_load((estate.config.parent / "etc" / "catalogue.yaml").read_text("utf-8"))
    for store, entry in proposed.items():
        its = known["stores"].setdefault(store, {})
        for setting, value in entry.items():
            if isinstance(value, dict) and isinstance(its.get(setting), dict):
                for key, inner in value.items():
                    if isinstance(inner, dict) and key in its[setting]:
                        its[setting][key]["columns"] |= inner["columns"]
                    else:
                        its[setting][key] = inner
            else:
                its[setting] = value
    path.write_text(yaml.safe_dump(known), "utf-8")
    assert load_catalogue(path).stores
