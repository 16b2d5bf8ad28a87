"""As `tests.acceptance.planting`, in the stores beside PostgreSQL, Redis and S3."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pinecone import Index, Pinecone

from rag_app.local import settings_of
from rag_app.log_groups import LogEvent, logs_client, metrics_client, put
from rag_app.warehouse import Warehouse
from tenure.estate.local.cell_plans import CellAccess
from tests.acceptance.planting import NEIGHBOURS, TENANT, WITH, WITHOUT, s3_of

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import DimensionTypeDef

NEIGHBOUR = NEIGHBOURS[0]
VECTOR = [1.0] * 32
NAMESPACES = ("scratch", "lists", "fields", f"old/{TENANT}", f"old/{NEIGHBOUR}")
OTHER_INDEXES = (f"export-{TENANT}", f"export-{NEIGHBOUR}", "archive")
PINECONE_PLACES = {
    "record id scratch",
    "record metadata scratch.note",
    "record metadata lists.tags",
    "record metadata fields.*",
    "namespace old/{tenant}",
    f"index export-{TENANT}",
    "record metadata archive: notes.said",
    "namespace archive: by-{tenant}",
}
TABLES = f"""
create schema file.odd;
create table file.odd.words (id integer, note varchar, doc json, list varchar[], raw blob, packed blob);
create table file.odd.export_{TENANT} (n integer);
create table file.odd.export_{NEIGHBOUR} (n integer);
create table file.odd.totals ({TENANT}_total integer, {NEIGHBOUR}_total integer);
create table file.odd.described (n integer);
comment on column file.odd.described.n is 'of {TENANT}';
create view file.odd.mine as select subject from file.main.usage_events where tenant_id = '{TENANT}';
create view file.odd.said as select 'about {TENANT}' as text;
create view file.odd.said_of_another as select 'about {NEIGHBOUR}' as text;
"""
ANALYTICS_PLACES = {
    *(f"column odd: odd.words.{column}" for column in ("note", "doc", "list", "raw", "packed")),
    f"table odd: odd.export_{TENANT}",
    f"column odd: odd.totals.{TENANT}_total",
    "column odd: odd.described.n",
    "definition odd.view mine",
    "definition odd.view said",
}
GROUPS = ("/app/web", "/app/streams", f"/export/{TENANT}", f"/export/{NEIGHBOUR}")
"""In the cell, and outside of what the app names there."""
LOG_PLACES = {
    "log event /app/web",
    "log stream /app/streams",
    "log group /export/{tenant}",
    "log event legacy",
}
METRIC_PLACES = {
    "metric Billing:Calls",
    f"metric Billing:Calls of {TENANT}",
    f"metric Reports/{TENANT}:Made",
}
VAULT_PLACES = {
    "object key exports/{tenant}/*",
    "object body notes/*",
    "object metadata described/*",
    "object tags labelled/*",
    "unfinished upload uploads/{tenant}/*",
}


def _two() -> Iterator[tuple[str, str]]:
    """A text with the tenant's id and the id itself; then the same of what only looks like it."""
    yield WITH, TENANT
    yield WITHOUT, NEIGHBOUR


def plant_in_pinecone(access: CellAccess) -> None:
    with Index(host=access.pinecone_host, api_key=access.pinecone_api_key) as index:
        for text, tenant in _two():
            index.upsert(
                vectors=[
                    {"id": f"user:{tenant}:1", "values": VECTOR},
                    {"id": f"noted-{len(text)}", "values": VECTOR, "metadata": {"note": text}},
                ],
                namespace="scratch",
            )
            tags = {"id": f"n-{len(text)}", "values": VECTOR, "metadata": {"tags": ["x", text]}}
            index.upsert(vectors=[tags], namespace="lists")
            named = {"id": f"n-{len(text)}", "values": VECTOR, "metadata": {tenant: "x"}}
            index.upsert(vectors=[named], namespace="fields")
            index.upsert(vectors=[{"id": "1", "values": VECTOR}], namespace=f"old/{tenant}")
    with closing(_project(access)) as project:
        for name in OTHER_INDEXES:
            values = {"type": "dense_vector", "dimension": len(VECTOR), "metric": "cosine"}
            host = project.indexes.create(name=name, schema={"fields": {"_values": values}}).host
            if name == "archive":
                with Index(host=str(host), api_key=access.pinecone_api_key) as index:
                    for text, tenant in _two():
                        said = {"id": f"n-{len(text)}", "values": VECTOR, "metadata": {"said": text}}
                        index.upsert(vectors=[said], namespace="notes")
                        index.upsert(vectors=[{"id": "1", "values": VECTOR}], namespace=f"by-{tenant}")


def clear_pinecone(access: CellAccess) -> None:
    with closing(_project(access)) as project:
        for known in [str(index.name) for index in project.indexes.list()]:
            if known in OTHER_INDEXES:
                project.indexes.delete(known)
    with Index(host=access.pinecone_host, api_key=access.pinecone_api_key) as index:
        there = {str(one.name) for page in index.list_namespaces() for one in page.namespaces}
        for name in there & {*NAMESPACES}:
            index.delete_namespace(name=name)


def _project(access: CellAccess) -> Pinecone:
    return Pinecone(api_key=access.pinecone_api_key, host=access.pinecone_control)


@contextmanager
def _warehouse(access: CellAccess) -> Iterator[Any]:
    assert access.analytics is not None
    with closing(Warehouse(access.analytics)) as warehouse, warehouse.opened(write=True) as connection:
        yield connection


def plant_in_analytics(access: CellAccess) -> None:
    with _warehouse(access) as connection:
        connection.execute(TABLES)
        for n, (text, _) in enumerate(_two()):
            row = [n, text, f'{{"a": [{{"b": "{text}"}}]}}', ["x", text], text.encode()]
            packed = gzip.compress(text.encode())
            connection.execute("insert into file.odd.words values (?, ?, ?, ?, ?, ?)", [*row, packed])


def clear_analytics(access: CellAccess) -> None:
    with _warehouse(access) as connection:
        connection.execute("drop schema if exists file.odd cascade")


def plant_in_cloudwatch(access: CellAccess) -> None:
    settings = settings_of(access).logs
    assert settings is not None
    now_ms = round(time.time() * 1000)
    with closing(logs_client(settings)) as logs, closing(metrics_client(settings)) as metrics:
        for text, tenant in _two():
            web = LogEvent(time_ms=now_ms, message=f'{{"message": "{text}"}}')
            put(logs, f"{settings.group_prefix}/app/web", "web-1", [web])
            plain = LogEvent(time_ms=now_ms, message="x")
            put(logs, f"{settings.group_prefix}/app/streams", f"of/{tenant}", [plain])
            put(logs, f"{settings.group_prefix}/export/{tenant}", "all", [plain])
            put(logs, "legacy", "all", [LogEvent(time_ms=now_ms, message=text)])
            for namespace, name, customer in (
                ("Billing", "Calls", tenant),
                ("Billing", f"Calls of {tenant}", "any"),
                (f"Reports/{tenant}", "Made", "any"),
            ):
                told: DimensionTypeDef = {"Name": "customer", "Value": customer}
                metrics.put_metric_data(
                    Namespace=namespace,
                    MetricData=[{"MetricName": name, "Dimensions": [told], "Value": 1.0}],
                )


def clear_cloudwatch(access: CellAccess) -> None:
    """Metrics cannot be deleted."""
    settings = settings_of(access).logs
    assert settings is not None
    wanted = {"legacy", *(f"{settings.group_prefix}{group}" for group in GROUPS)}
    with closing(logs_client(settings)) as logs:
        for page in logs.get_paginator("describe_log_groups").paginate():
            for group in page["logGroups"]:
                if group["logGroupName"] in wanted:
                    logs.delete_log_group(logGroupName=group["logGroupName"])


def plant_in_vault(access: CellAccess) -> None:
    client, bucket = s3_of(access), access.plan.vault
    for text, tenant in _two():
        n = len(text)
        client.put_object(Bucket=bucket, Key=f"exports/{tenant}/a.csv", Body=b"x")
        client.put_object(Bucket=bucket, Key=f"notes/{n}.txt", Body=text.encode())
        client.put_object(Bucket=bucket, Key=f"described/{n}", Body=b"x", Metadata={"customer": tenant})
        client.put_object(Bucket=bucket, Key=f"labelled/{n}", Body=b"x", Tagging=f"customer={tenant}")
        client.create_multipart_upload(Bucket=bucket, Key=f"uploads/{tenant}/big")


def clear_vault(access: CellAccess) -> None:
    client, bucket = s3_of(access), access.plan.vault
    for version in client.list_object_versions(Bucket=bucket).get("Versions", []):
        if version["Key"].startswith(("exports/", "notes/", "described/", "labelled/")):
            client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    for upload in client.list_multipart_uploads(Bucket=bucket, Prefix="uploads/").get("Uploads", []):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
