"""`tenure catalogue` through the real command line, on the real servers of an estate."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import boto3
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
from tests.estate import CommandResult, TestEstate

TENANT = "scanme"
NEIGHBOURS = ("scanme2", "scanme-corp", "xscanme")
UPPER = "SCANME"
LOOKALIKES = " ".join((*NEIGHBOURS, UPPER, "Scanme", "myscanme", "scanme9", "éscanme"))
"""What must never count as the tenant. Those of NEIGHBOURS and UPPER are tenants."""
WITH = f"for {TENANT}, not {LOOKALIKES}"
WITHOUT = f"only {LOOKALIKES}"
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


def database_3(access: CellAccess) -> str:
    """Another database of the cell's Redis."""
    assert access.redis_url.endswith("/0")
    return access.redis_url.removesuffix("0") + "3"


def s3_of(access: CellAccess) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        region_name=access.plan.region,
    )


# -- what is planted ---------------------------------------------------------------------------------------------

TABLES = """
create schema if not exists odd;
create schema scanme_tmp;
create type odd.plan as enum ('scanme', 'scanme2');
create type odd.pair as (label text, n integer);
create domain odd.word as text;
create table odd.words (id bigint, note text, doc jsonb, list text[], markup varchar, plan odd.plan, pair odd.pair,
    word odd.word, fixed char(40), raw bytea, packed bytea, url text, token text, escaped text);
create unlogged table odd.fast (note text);
create table odd.parted (region text, note text) partition by list (region);
create table odd.parted_eu partition of odd.parted for values in ('eu');
create table odd.export_scanme (n integer);
create table odd.export_scanme2 (n integer);
create table odd.totals (scanme_total integer, scanme2_total integer);
create view odd.mine as select * from public.documents where tenant_id = 'scanme';
create view odd.theirs as select * from public.documents where tenant_id = 'scanme2';
create function odd.special() returns text language sql as $$ select 'scanme'::text $$;
create table odd.guarded (kind text default 'scanme' check (kind <> 'scanme-corp'));
create index odd_special on odd.words (id) where note = 'scanme';
create materialized view odd.summary as select 'about scanme'::text as said;
comment on table odd.fast is 'filled by scanme';
comment on table odd.parted is 'filled by scanme2';
alter table public.schema_version add column note text;
"""
TABLE_PLACES = {
    *(
        f"column odd.words.{c}"
        for c in (
            "note",
            "doc",
            "list",
            "markup",
            "plan",
            "pair",
            "word",
            "fixed",
            "raw",
            "packed",
            "url",
            "token",
            "escaped",
        )
    ),
    "column odd.fast.note",
    "column odd.parted.note",
    "column odd.summary.said",
    "column public.schema_version.note",
    "schema scanme_tmp",
    "table odd.export_scanme",
    "column odd.totals.scanme_total",
    "definition odd.view mine",
    "definition odd.view summary",
    "definition odd.function special",
    "definition odd.type plan",
    "definition odd.default of guarded.kind",
    "definition odd.index odd_special",
    "comment pg_class odd.fast",
    "role svc_scanme",
    "large object large objects",
    "column scan_legacy: public.customers.name",
    "comment pg_database scan_legacy",
}
REDIS_PLACES = {
    "key cache:{tenant}:*",
    "value audit:*",
    "value fields:*",
    "value fieldvalues:*",
    "value lists:*",
    "value sets:*",
    "value scores:*",
    "value streams:*",
    "value groups:*",
    "value long:*",
    "key database 3: other:{tenant}:*",
    "value database 3: other:*",
    "ACL user svc-scanme",
}
S3_PLACES = {
    "object key exports/{tenant}/*",
    "object body reports/*",
    "object body packed/*",
    "object body office/*",
    "object metadata described/*",
    "object tags labelled/*",
    "unfinished upload uploads/{tenant}/*",
    "object body scan-other: dump/*",
    "old version scan-other: history/*",
    "delete marker scan-other: gone/{tenant}/*",
    "old version scan-other: gone/{tenant}/*",
}


def zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", text)
    return buffer.getvalue()


def plant_in_postgres(access: CellAccess) -> None:
    with psycopg.connect(access.dsn, autocommit=True) as connection:
        connection.execute(TABLES)
        for text in (WITH, WITHOUT):
            plan = TENANT if text == WITH else "scanme2"
            row = (
                text,
                json.dumps({"a": [{"b": f"\n{text}"}]}),
                [text, "x"],
                f"<a b='{text}'/>",
                plan,
                text,
                text,
                plan,
                text.encode(),
                gzip.compress(text.encode()),
                f"https://x/?t=%2F{plan}%2F",
                base64.b64encode(f"user:{plan}:1".encode()).decode(),
                f"line\\n{plan}",
            )
            connection.execute(
                "insert into odd.words values (1, %s, %s, %s, %s, %s, row(%s, 1), %s, %s, %s, %s, %s, %s, %s)",
                row,
            )
            connection.execute("insert into odd.fast values (%s)", (text,))
            connection.execute("insert into odd.parted values ('eu', %s)", (text,))
            connection.execute("select lo_from_bytea(0, %s)", (text.encode(),))
        connection.execute("update public.schema_version set note = %s", (WITH,))
        for role in ("svc_scanme", "svc_scanme2"):
            connection.execute(f"create role {role}".encode())
        connection.execute("create database scan_legacy")
        connection.execute("comment on database scan_legacy is 'of scanme'")
    legacy = psycopg.conninfo.make_conninfo(access.dsn, dbname="scan_legacy")
    with psycopg.connect(legacy, autocommit=True) as connection:
        connection.execute("create table customers (id bigint, name text)")
        connection.execute("insert into customers values (1, %s), (2, %s)", (WITH, WITHOUT))


def clear_postgres(access: CellAccess) -> None:
    with psycopg.connect(access.dsn, autocommit=True) as connection:
        connection.execute("select lo_unlink(oid) from pg_largeobject_metadata")
        connection.execute("drop schema if exists odd, scanme_tmp cascade")
        connection.execute("alter table public.schema_version drop column if exists note")
        connection.execute("drop database if exists scan_legacy with (force)")
        for role in ("svc_scanme", "svc_scanme2"):
            connection.execute(f"drop role if exists {role}".encode())


def plant_in_redis(access: CellAccess) -> None:
    with redis.Redis.from_url(access.redis_url) as client:
        client.set(f"cache:{TENANT}:1", "x")
        for n, text in enumerate((WITH, WITHOUT)):
            client.set(f"audit:{n}", text)
            client.hset(f"fields:{n}", text, "x")
            client.hset(f"fieldvalues:{n}", "x", text)
            client.rpush(f"lists:{n}", "x", text)
            client.sadd(f"sets:{n}", "x", text)
            client.zadd(f"scores:{n}", {"x": 1, text: 2})
            client.xadd(f"streams:{n}", {"x": text})
            client.xgroup_create(f"groups:{n}", TENANT if text == WITH else "scanme2", mkstream=True)
            client.rpush(f"long:{n}", *(f"item {i}" for i in range(700)), text)
        client.set("cache:scanme2:1", WITHOUT)
        for user in ("svc-scanme", "svc-scanme2"):
            client.execute_command("ACL", "SETUSER", user, "reset", "~x")
    with redis.Redis.from_url(database_3(access)) as client:
        client.set(f"other:{TENANT}:1", "x")
        client.set("other:scanme2:1", "x")
        client.set("other:1", WITH)


def clear_redis(access: CellAccess) -> None:
    with redis.Redis.from_url(database_3(access)) as client:
        client.flushdb()
    with redis.Redis.from_url(access.redis_url) as client:
        for pattern in (
            "cache",
            "audit",
            "fields",
            "fieldvalues",
            "lists",
            "sets",
            "scores",
            "streams",
            "groups",
            "long",
        ):
            for key in client.scan_iter(match=f"{pattern}:*"):
                client.delete(key)
        client.acl_deluser("svc-scanme", "svc-scanme2")


def plant_in_s3(access: CellAccess) -> None:
    client, bucket = s3_of(access), access.plan.bucket
    client.put_object(Bucket=bucket, Key=f"exports/{TENANT}/a.csv", Body=b"x")
    client.put_object(Bucket=bucket, Key="exports/scanme2/a.csv", Body=b"x")
    for n, text in enumerate((WITH, WITHOUT)):
        plan = TENANT if text == WITH else "scanme2"
        client.put_object(Bucket=bucket, Key=f"reports/{n}.txt", Body=text.encode())
        client.put_object(Bucket=bucket, Key=f"packed/{n}.gz", Body=gzip.compress(text.encode()))
        client.put_object(Bucket=bucket, Key=f"office/{n}.docx", Body=zipped(text))
        client.put_object(Bucket=bucket, Key=f"described/{n}", Body=b"x", Metadata={"customer": plan})
        client.put_object(Bucket=bucket, Key=f"labelled/{n}", Body=b"x", Tagging=f"customer={plan}")
        client.create_multipart_upload(Bucket=bucket, Key=f"uploads/{plan}/big")
    client.create_bucket(Bucket="scan-other")
    client.put_bucket_versioning(Bucket="scan-other", VersioningConfiguration={"Status": "Enabled"})
    for n, text in enumerate((WITH, WITHOUT)):
        plan = TENANT if text == WITH else "scanme2"
        client.put_object(Bucket="scan-other", Key=f"dump/{n}", Body=text.encode())
        client.put_object(Bucket="scan-other", Key=f"history/{n}", Body=text.encode())
        client.put_object(Bucket="scan-other", Key=f"history/{n}", Body=b"replaced")
        client.put_object(Bucket="scan-other", Key=f"gone/{plan}/x", Body=b"x")
        client.delete_object(Bucket="scan-other", Key=f"gone/{plan}/x")


def clear_s3(access: CellAccess) -> None:
    client, bucket = s3_of(access), access.plan.bucket
    for prefix in ("exports", "reports", "packed", "office", "described", "labelled"):
        for found in client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", []):
            client.delete_object(Bucket=bucket, Key=found["Key"])
    for upload in client.list_multipart_uploads(Bucket=bucket, Prefix="uploads/").get("Uploads", []):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    if "scan-other" in {b["Name"] for b in client.list_buckets()["Buckets"]}:
        page = client.list_object_versions(Bucket="scan-other")
        for version in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
            client.delete_object(Bucket="scan-other", Key=version["Key"], VersionId=version["VersionId"])
        client.delete_bucket(Bucket="scan-other")


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


def places(result: CommandResult, *judgements: str, tenant: str = TENANT) -> set[str]:
    return {
        f"{f['kind']} {f['place']}"
        for f in result.json["findings"]
        if f["judgement"] in judgements and f["tenant"] == tenant
    }


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


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
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
