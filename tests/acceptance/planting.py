"""Where a tenant's identifiers are planted for `tenure catalogue scan`: in places that no catalogue names, beside the
same with identifiers that only look alike; and where they have to be found."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from typing import Any

import boto3
import psycopg
import redis

from tenure.estate.local.cell_plans import CellAccess
from tests.estate import CommandResult

TENANT = "scanme"
NEIGHBOURS = ("scanme2", "scanme-corp", "xscanme")
UPPER = "SCANME"
LOOKALIKES = " ".join((*NEIGHBOURS, UPPER, "Scanme", "myscanme", "scanme9", "éscanme"))
"""What must never count as the tenant. Those of NEIGHBOURS and UPPER are tenants."""
WITH = f"for {TENANT}, not {LOOKALIKES}"
WITHOUT = f"only {LOOKALIKES}"


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


def places(result: CommandResult, *judgements: str, tenant: str = TENANT) -> set[str]:
    return {
        f"{f['kind']} {f['place']}"
        for f in result.json["findings"]
        if f["judgement"] in judgements and f["tenant"] == tenant
    }
