"""The app end to end, without a gateway: what it stores where, and what a fenced tenant's requests get."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
import redis
from pinecone import Index

from rag_app.deploy import deploy
from rag_app.log_groups import STREAM, group_of, logs_client
from rag_app.objects import s3_client
from rag_app.settings import CellSettings
from rag_app.warehouse import Warehouse

from .conftest import ACME, ACME_HOST, GLOBEX, GLOBEX_HOST, TENANTS, App, Fencing

ID = 1_000_000_001
LONG = " ".join(f"word{n}" for n in range(150))


def contents(cell: CellSettings) -> dict[str, Any]:
    """Everything in all stores of the cell."""
    with psycopg.connect(cell.postgres_dsn) as conn:
        tables = {
            table: conn.execute(f"select t::text from {table} t order by 1".encode()).fetchall()
            for table in ("documents", "chunks", "embeddings", "tenure.journal")
        }
    with redis.Redis.from_url(cell.redis_url) as client:
        keys = {key: client.dump(key) for key in sorted(client.scan_iter())}
    with closing(s3_client(cell.objects)) as s3:
        listed = s3.list_objects_v2(Bucket=cell.objects.bucket).get("Contents", [])
    objects = [(item["Key"], item["ETag"]) for item in listed]
    return {**tables, "keys": keys, "objects": objects, "records": records(cell)}


def records(cell: CellSettings) -> dict[str, Any]:
    """All records in the cell's index, by tenant and id."""
    found = {}
    with closing(Index(host=cell.vectors.host, api_key=cell.vectors.api_key)) as index:
        for namespace in (one.name for page in index.list_namespaces() for one in page.namespaces):
            ids = [str(record.id) for page in index.list(namespace=namespace) for record in page.vectors]
            for record in index.fetch(ids=ids, namespace=namespace).vectors.values() if ids else ():
                found[f"{namespace}/{record.id}"] = (list(record.values), record.metadata)
    return found


def used(cell: CellSettings, tenant: str) -> list[tuple[str, str, int]]:
    """Kind, subject and units of what the tenant did, as analytics have it, the oldest first."""
    with closing(Warehouse(cell.warehouse)) as warehouse, warehouse.opened():
        return warehouse.events(tenant)


def waiting(cell: CellSettings, tenant: str) -> int:
    with psycopg.connect(cell.postgres_dsn) as conn:
        row = conn.execute("select count(*) from usage_outbox where tenant_id = %s", (tenant,)).fetchone()
    assert row is not None
    return int(row[0])


def logged(cell: CellSettings, tenant: str) -> list[dict[str, Any]]:
    with closing(logs_client(cell.logs)) as logs:
        try:
            answer = logs.get_log_events(
                logGroupName=cell.logs.group_prefix + group_of(tenant),
                logStreamName=STREAM,
                startFromHead=True,
            )
        except logs.exceptions.ResourceNotFoundException:
            return []
    return [json.loads(event["message"]) for event in answer["events"]]


def test_a_document_is_stored_in_all_stores_and_deleted_from_all(app: App, cell: CellSettings) -> None:
    created = app("POST", "/documents", {"id": ID, "title": "Title", "body": LONG, "meta": {"a": 1}})
    assert (created.status, created.json["cell"], created.json["id"]) == (201, "blue", ID)
    assert created.headers["x-served-by"] == "blue"
    shown = app("GET", f"/documents/{ID}").json
    assert shown == {"cell": "blue", "id": ID, "title": "Title", "body": LONG, "meta": {"a": 1}}
    assert app("GET", f"/files/{ID}").body.decode() == LONG
    assert app("GET", "/recent").json["documents"] == [
        {"id": str(ID), "title": "Title", "characters": str(len(LONG))}
    ]
    assert app("GET", "/search?q=word149+word148").json["hits"][0]["document"] == ID
    [similar] = app("GET", "/similar?q=word1+word2").json["hits"]
    assert (similar["document"], similar["title"]) == (ID, "Title")

    assert app("PUT", f"/documents/{ID}", {"title": "New", "body": "short"}).status == 200
    assert app("GET", f"/documents/{ID}").json["title"] == "New"
    assert app("GET", f"/files/{ID}").body == b"short"
    assert [hit["text"] for hit in app("GET", "/search?q=short").json["hits"]] == ["short"]

    assert app("DELETE", f"/documents/{ID}").json["deleted"] is True
    assert app("DELETE", f"/documents/{ID}").json["deleted"] is False
    assert app("GET", f"/documents/{ID}").status == 404
    assert app("GET", f"/files/{ID}").status == 404
    left = contents(cell)
    assert not any(left.values()), left


def test_the_same_request_twice_is_the_same_as_once(app: App, cell: CellSettings) -> None:
    fields = {"id": ID, "title": "Title", "body": "words"}
    for _ in range(2):
        assert app("POST", "/documents", fields).status == 201
    assert len(contents(cell)["chunks"]) == 1
    assert len(app("GET", "/search?q=words").json["hits"]) == 1


def test_a_document_without_an_id_gets_one_from_the_sequence(app: App) -> None:
    ids = [app("POST", "/documents", {"title": f"T{n}", "body": "b"}).json["id"] for n in range(2)]
    assert ids == [1, 2]
    refused = app("POST", "/documents", {"id": 3, "title": "T", "body": "b"})
    assert refused.status == 400
    assert refused.headers["x-served-by"] == "blue"


def test_sessions_expire_and_counters_count(app: App, cell: CellSettings) -> None:
    session = {"id": "s1", "ttl_s": 60, "fields": {"user": "ann"}}
    assert app("POST", "/sessions", session).status == 201
    assert app("GET", "/sessions/s1").json["fields"] == {"user": "ann"}
    assert [app("POST", "/counters/clicks").json["value"] for _ in range(3)] == [1, 2, 3]
    assert app("GET", "/counters/clicks").json["value"] == 3
    with redis.Redis.from_url(cell.redis_url) as client:
        assert 0 < client.pttl(f"t:{ACME}:session:s1") <= 60_000


def test_connections_that_died_while_nobody_used_them_fail_no_request(app: App, cell: CellSettings) -> None:
    """As after a restart of the Redis server: each connection that the app had kept is dead."""
    with ThreadPoolExecutor(6) as users:
        list(users.map(lambda _: app("POST", "/counters/clicks"), range(30)))
    with redis.Redis.from_url(cell.redis_url) as client:
        assert client.execute_command("CLIENT", "KILL", "USER", f"app-{ACME}") >= 1
    assert [app("GET", "/counters/clicks").status for _ in range(6)] == [200] * 6


def test_tenants_are_told_apart_by_host_first_and_by_header_on_the_shared_host(app: App) -> None:
    app("POST", "/documents", {"id": ID, "title": "Acme's", "body": "acme"})
    path = f"/documents/{ID}"
    assert app("GET", path, host=GLOBEX_HOST).status == 404
    assert app("GET", path, host="rag.localhost", tenant=ACME).json["title"] == "Acme's"
    assert app("GET", path, host=GLOBEX_HOST, tenant=ACME).status == 404
    assert app("GET", path, host=ACME_HOST.upper(), tenant=GLOBEX).json["title"] == "Acme's"
    assert app("GET", path, host="rag.localhost").status == 404
    assert app("GET", path, host="nobody.rag.localhost", tenant=ACME).status == 404
    assert app("GET", "/search?q=acme", host=GLOBEX_HOST).json["hits"] == []


def test_a_tenants_redis_user_reaches_only_its_own_keys(cell: CellSettings) -> None:
    with redis.Redis.from_url(cell.redis_url) as admin:
        address = admin.connection_pool.connection_kwargs
        with redis.Redis(
            host=address["host"],
            port=address["port"],
            username=f"app-{ACME}",
            password=TENANTS[ACME].redis_password,
        ) as client:
            client.set(f"t:{ACME}:counter:a", 1)
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.get(f"t:{GLOBEX}:counter:a")
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.set(f"t:{ACME}2:counter:a", 1)


WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/documents", {"id": ID + 1, "title": "Title", "body": "words"}),
    ("POST", "/documents", {"title": "Title", "body": "words"}),
    ("PUT", f"/documents/{ID}", {"title": "Title", "body": "words"}),
    ("DELETE", f"/documents/{ID}", None),
    ("POST", "/counters/clicks", None),
    ("POST", "/sessions", {"id": "s1", "fields": {"user": "bob"}}),
]


def test_a_fenced_tenants_writes_are_sent_back_through_the_gateway_and_change_nothing(
    app: App, cell: CellSettings, fencing: Fencing
) -> None:
    app("POST", "/documents", {"id": ID, "title": "Before", "body": "before"})
    app("POST", "/counters/clicks")
    app("POST", "/sessions", {"id": "s1", "fields": {"user": "ann"}})
    fencing.lower(ACME)
    before = contents(cell)
    for method, path, fields in WRITES:
        answer = app(method, f"{path}?a=b%20c", fields)
        assert answer.status == 307, (method, path, answer)
        assert answer.headers["location"] == f"http://{ACME_HOST}{path}?a=b%20c"
        assert answer.headers["x-served-by"] == "blue"
    assert contents(cell) == before
    assert app("GET", f"/documents/{ID}").json["title"] == "Before"
    assert app("POST", "/counters/clicks", host=GLOBEX_HOST).json["value"] == 1

    fencing.lift(ACME)
    for method, path, fields in WRITES:
        assert app(method, path, fields).status in {200, 201}
    assert app("GET", "/counters/clicks").json["value"] == 2


def test_the_fence_waits_for_a_write_that_has_its_permit(
    app: App, cell: CellSettings, fencing: Fencing, wait_until: Callable[..., None]
) -> None:
    """The fence goes down while clients write: what was acknowledged is what the stores hold."""

    deadline = time.monotonic() + 20

    def count_until_fenced(_: int) -> int:
        acked = 0
        while time.monotonic() < deadline:
            if app("POST", "/counters/clicks").status == 307:
                return acked
            acked += 1
        raise AssertionError("never fenced")

    with ThreadPoolExecutor(4) as threads:
        running = threads.map(count_until_fenced, range(4))
        wait_until(lambda: app("GET", "/counters/clicks").json["value"] >= 20, "20 clicks")
        fencing.lower(ACME)
        with redis.Redis.from_url(cell.redis_url) as client:
            at_the_fence = int(client.get(f"t:{ACME}:counter:clicks") or 0)
        assert sum(running) == at_the_fence
    assert app("GET", "/counters/clicks").json["value"] == at_the_fence


def test_the_fence_waits_until_the_write_has_reached_the_other_stores_as_well(
    app: App, cell: CellSettings, fencing: Fencing, wait_until: Callable[..., None]
) -> None:
    """Redis is made to take its time: the permit is held until it has answered."""
    with redis.Redis.from_url(cell.redis_url) as client, ThreadPoolExecutor(1) as threads:
        client.client_pause(1500, all=False)
        answer = threads.submit(app, "POST", "/counters/clicks")
        wait_until(lambda: client.info("clients")["blocked_clients"], "Redis lets the write wait")
        fencing.lower(ACME)
        assert client.get(f"t:{ACME}:counter:clicks") == b"1"
        assert answer.result(timeout=10).status == 200


def test_a_write_that_another_stores_own_fence_refuses_is_not_acknowledged(
    app: App, cell: CellSettings
) -> None:
    """Redis refuses before anything is done: the write is sent back. The bucket refuses later: the write
    failed."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": ["s3:PutObject", "s3:DeleteObject"],
                "Resource": f"arn:aws:s3:::{cell.objects.bucket}/tenants/{ACME}/*",
            }
        ],
    }
    with redis.Redis.from_url(cell.redis_url) as client:
        client.execute_command("ACL", "SETUSER", f"app-{ACME}", "-@write")
        before = contents(cell)
        for method, path, fields in WRITES:
            assert app(method, path, fields).status in {307, 404}, (method, path)
        assert contents(cell) == before
        client.execute_command("ACL", "SETUSER", f"app-{ACME}", "+@write")
        assert app("POST", "/counters/clicks").json["value"] == 1
    with closing(s3_client(cell.objects)) as s3:
        s3.put_bucket_policy(Bucket=cell.objects.bucket, Policy=json.dumps(policy))
        assert app("POST", "/documents", {"id": ID, "title": "T", "body": "b"}).status == 503
        s3.delete_bucket_policy(Bucket=cell.objects.bucket)
    assert app("GET", f"/documents/{ID}").status == 404
    assert app("POST", "/documents", {"id": ID, "title": "T", "body": "b"}).status == 201


def test_what_a_tenant_did_is_in_analytics_once_and_what_is_fenced_stays_in_the_outbox(
    app: App, cell: CellSettings, fencing: Fencing, wait_until: Callable[..., None]
) -> None:
    for method, path, fields in (
        ("POST", "/documents", {"id": ID, "title": "T", "body": "four"}),
        ("POST", "/counters/clicks", None),
        ("POST", "/sessions", {"id": "s1", "fields": {"user": "ann"}}),
        ("DELETE", f"/documents/{ID}", None),
        ("DELETE", f"/documents/{ID}", None),
    ):
        assert app(method, path, fields).status in {200, 201}
    wait_until(lambda: len(used(cell, ACME)) == 4, "the events are shipped")
    wait_until(lambda: waiting(cell, ACME) == 0, "the outbox is empty")
    done = [
        ("document_stored", str(ID), 4),
        ("counted", "clicks", 1),
        ("session_stored", "s1", 1),
        ("document_deleted", str(ID), 1),
    ]
    assert used(cell, ACME) == done
    with psycopg.connect(cell.postgres_dsn, autocommit=True) as conn:
        conn.execute("begin")
        # What a shipper that died between its two commits leaves behind: shipped already, and in the outbox still.
        conn.execute("select tenure.permit(%s)", (ACME,))
        with closing(Warehouse(cell.warehouse)) as warehouse, warehouse.opened():
            [again] = [event for event, _ in warehouse.counts(ACME).items()][:1]
        conn.execute(
            "insert into usage_outbox (tenant_id, id, kind, subject) values (%s, %s, 'counted', 'clicks')",
            (ACME, again),
        )
        conn.execute("commit")
    wait_until(lambda: waiting(cell, ACME) == 0, "the outbox is empty again")
    assert used(cell, ACME) == done

    app("POST", "/counters/clicks")
    fencing.lower(ACME)
    app("POST", "/counters/clicks", host=GLOBEX_HOST)
    wait_until(lambda: len(used(cell, GLOBEX)) == 1, "the neighbour's event is shipped")
    assert len(used(cell, ACME)) + waiting(cell, ACME) == 5
    fencing.lift(ACME)
    wait_until(lambda: len(used(cell, ACME)) == 5, "what was fenced is shipped")


def test_every_request_is_logged_for_its_tenant_and_counted(
    app: App, cell: CellSettings, wait_until: Callable[..., None]
) -> None:
    assert app("GET", f"/documents/{ID}").status == 404
    assert app("POST", "/counters/clicks").status == 200
    assert app("GET", "/counters/clicks", host=GLOBEX_HOST).status == 200
    assert app("GET", "/healthz").status == 200
    wait_until(lambda: len(logged(cell, ACME)) == 2 and logged(cell, GLOBEX), "the requests are logged")
    assert [(e["tenant"], e["method"], e["path"], e["status"]) for e in logged(cell, ACME)] == [
        (ACME, "GET", f"/documents/{ID}", 404),
        (ACME, "POST", "/counters/clicks", 200),
    ]
    [theirs] = logged(cell, GLOBEX)
    assert theirs["tenant"] == GLOBEX
    answer = app("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    assert f'rag_requests_total{{tenant="{ACME}",method="GET",status="404"}} 1' in lines
    assert f'rag_requests_total{{tenant="{ACME}",method="POST",status="200"}} 1' in lines
    assert f'rag_request_seconds_count{{tenant="{GLOBEX}"}} 1' in lines


def test_what_is_shipped_is_journaled_while_changes_are_recorded(
    app: App, cell: CellSettings, fencing: Fencing, wait_until: Callable[..., None]
) -> None:
    fencing.record(ACME)
    app("POST", "/counters/clicks")

    def journal() -> dict[str, set[str]]:
        with psycopg.connect(cell.postgres_dsn) as conn:
            found = conn.execute("select store, key from tenure.journal where tenant_id = %s", (ACME,))
            rows: dict[str, set[str]] = {}
            for store, key in found:
                rows.setdefault(store, set()).add(key)
            return rows

    wait_until(lambda: {"analytics", "logs"} <= journal().keys(), "both shippers have noted what they change")
    assert all(re.fullmatch(r"main\.usage_events/\d{4}-\d\d-\d\d", key) for key in journal()["analytics"])
    hour = rf"/rag_app/{ACME}:requests:\d{{4}}-\d\d-\d\dT\d\d"
    assert all(re.fullmatch(hour, key) for key in journal()["logs"])


def test_files_and_records_are_journaled_while_changes_are_recorded(
    app: App, cell: CellSettings, fencing: Fencing
) -> None:
    app("POST", "/documents", {"id": ID, "title": "T", "body": "b"})
    assert contents(cell)["tenure.journal"] == []
    fencing.record(ACME)
    app("PUT", f"/documents/{ID}", {"title": "T", "body": "c"})
    app("DELETE", f"/documents/{ID}")
    app("POST", "/documents", {"id": ID, "title": "T", "body": "b"}, host=GLOBEX_HOST)
    with psycopg.connect(cell.postgres_dsn) as conn:
        rows = conn.execute(
            "select tenant_id, store, key from tenure.journal where store in ('objects', 'pinecone') order by id"
        ).fetchall()
    both = [(ACME, "objects", f"tenants/{ACME}/files/{ID}.txt"), (ACME, "pinecone", str(ID))]
    assert rows == both * 2


def test_deploying_again_changes_nothing_and_lifts_no_fence(
    app: App, cell: CellSettings, fencing: Fencing
) -> None:
    app("POST", "/documents", {"id": ID, "title": "T", "body": "b"})
    fencing.lower(ACME)
    with redis.Redis.from_url(cell.redis_url) as client:
        client.execute_command("ACL", "SETUSER", f"app-{ACME}", "-@write")
        before = contents(cell), client.acl_getuser(f"app-{ACME}")
        deploy(cell, TENANTS)
        assert (contents(cell), client.acl_getuser(f"app-{ACME}")) == before
    assert app("POST", "/counters/clicks").status == 307


@pytest.mark.parametrize(
    "fields", [None, [], {"title": "T"}, {"title": "", "body": "b"}, {"id": "x", "title": "T", "body": "b"}]
)
def test_what_is_not_a_document_is_refused(app: App, cell: CellSettings, fields: object) -> None:
    assert app("POST", "/documents", fields).status == 400
    assert not any(contents(cell).values())
