"""Seeding is deterministic, leaves the sequences right, and gives every tenant data in every store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
import redis

from rag_app.deploy import deploy, deploy_postgres
from rag_app.log_groups import STREAM, group_of, logs_client
from rag_app.objects import s3_client
from rag_app.seed import NEIGHBOURS, SCENARIO_TENANTS, TENANTS, TEST_ACCOUNT, Sizes, default_access, seed
from rag_app.settings import CellSettings, VectorSettings
from tenure.catalogue import Catalogue, RedisMap, load_catalogue

from .conftest import EXAMPLES, index_of

SIZES = Sizes(documents=60, files=12, keys=150)


def rows(cell: CellSettings) -> dict[str, list[Any]]:
    with psycopg.connect(cell.postgres_dsn) as conn:
        return {
            table: conn.execute(f"select t::text from {table} t order by 1".encode()).fetchall()
            for table in ("documents", "chunks", "embeddings")
        }


def keys(cell: CellSettings) -> dict[str, Any]:
    reads: dict[str, Callable[[redis.Redis, str], Any]] = {
        "string": lambda r, k: r.get(k),
        "hash": lambda r, k: r.hgetall(k),
        "list": lambda r, k: r.lrange(k, 0, -1),
        "set": lambda r, k: sorted(map(str, r.smembers(k))),
        "zset": lambda r, k: r.zrange(k, 0, -1, withscores=True),
        "stream": lambda r, k: (r.xrange(k), r.xinfo_groups(k)),
    }
    with redis.Redis.from_url(cell.redis_url, decode_responses=True) as client:
        return {
            str(key): (kind := str(client.type(key)), reads[kind](client, str(key)), client.ttl(key) // 60)
            for key in client.scan_iter()
        }


def objects(cell: CellSettings) -> list[tuple[str, str]]:
    with closing(s3_client(cell.objects)) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=cell.objects.bucket)
        return [(item["Key"], item["ETag"]) for page in pages for item in page.get("Contents", [])]


def beside(cell: CellSettings, tenant: str) -> tuple[Any, ...]:
    """What a tenant has in Pinecone and in analytics, and the messages that were logged of it."""
    with closing(index_of(cell)) as index:
        ids = [str(record.id) for page in index.list(namespace=tenant) for record in page.vectors]
        fetched = index.fetch(ids=ids, namespace=tenant).vectors
        records = {one: (tuple(record.values), record.metadata) for one, record in fetched.items()}
    settings = cell.logs
    assert settings is not None
    assert cell.warehouse is not None
    with duckdb.connect(cell.warehouse, read_only=True) as warehouse:
        events = warehouse.execute(
            "select * from usage_events where tenant_id = ? order by id", [tenant]
        ).fetchall()
    with closing(logs_client(settings)) as logs:
        group = settings.group_prefix + group_of(tenant)
        logged = (
            logs.get_log_events(logGroupName=group, logStreamName=STREAM, startFromHead=True)["events"]
            if tenant != TEST_ACCOUNT  # it has logged nothing, so it has no group
            else []
        )
    return records, events, [event["message"] for event in logged]


@pytest.fixture
def other_cell(
    cell_settings: CellSettings,
    fresh_database: Callable[..., str],
    fresh_redis: Callable[..., str],
    fresh_bucket: Callable[..., tuple[object, str]],
    fresh_vectors: Callable[[], VectorSettings],
    tmp_path: Path,
) -> CellSettings:
    logs = cell_settings.logs
    assert logs is not None
    return replace(
        cell_settings,
        cell="green",
        postgres_dsn=fresh_database(),
        redis_url=fresh_redis("valkey-b"),
        objects=replace(cell_settings.objects, bucket=fresh_bucket()[1]),
        vectors=fresh_vectors(),
        warehouse=tmp_path / "green.duckdb",
        logs=replace(logs, group_prefix="/green" + logs.group_prefix),
    )


def test_the_same_seed_gives_the_same_data_in_every_cell(
    cell_settings: CellSettings, other_cell: CellSettings
) -> None:
    access = default_access("the same")
    for cell in (cell_settings, other_cell):
        deploy(cell, access)
        seed(cell, sizes=SIZES)
    assert rows(cell_settings) == rows(other_cell)
    assert objects(cell_settings) == objects(other_cell)
    for tenant in TENANTS:
        ours_beside, theirs_beside = (beside(cell, tenant.id) for cell in (cell_settings, other_cell))
        assert ours_beside == theirs_beside
        assert all(ours_beside) == (tenant.id != TEST_ACCOUNT)
    ours, theirs = keys(cell_settings), keys(other_cell)
    assert ours.keys() == theirs.keys()
    for key, (kind, value, ttl_min) in ours.items():
        assert theirs[key][:2] == (kind, value)
        assert abs(theirs[key][2] - ttl_min) <= 1


def test_every_tenant_has_data_of_every_kind_and_what_was_said_is_there(cell_settings: CellSettings) -> None:
    deploy(cell_settings, default_access())
    seeded = seed(cell_settings, sizes=SIZES)
    assert set(seeded) == {tenant.id for tenant in TENANTS}
    assert len(SCENARIO_TENANTS) == 5
    assert len(NEIGHBOURS) >= 5
    assert len({tenant.host for tenant in TENANTS}) == len(TENANTS)
    stored, files = keys(cell_settings), [key for key, _ in objects(cell_settings)]
    catalogue: Catalogue = load_catalogue(EXAMPLES / "rag_app" / "catalogue.yaml")
    for tenant, sizes in seeded.items():
        mine = {
            key.removeprefix(f"t:{tenant}:"): v for key, v in stored.items() if key.startswith(f"t:{tenant}:")
        }
        assert len(mine) == sizes.keys
        assert {kind for kind, _, _ in mine.values()} == {"string", "hash", "list", "set", "zset", "stream"}
        assert any(ttl_min > 0 for _, _, ttl_min in mine.values())
        redis_map = next(store for store in catalogue.stores.values() if isinstance(store, RedisMap))
        assert [key for key in mine if redis_map.classify(key) is None] == []
        assert sum(key.startswith(f"tenants/{tenant}/") for key in files) == sizes.files
        assert (sizes.usage_events == sizes.log_events == 0) == (tenant == TEST_ACCOUNT)
        said = (sizes.documents, sizes.usage_events, sizes.log_events)
        assert tuple(map(len, beside(cell_settings, tenant))) == said
        with psycopg.connect(cell_settings.postgres_dsn) as conn:
            for table, number in (
                ("documents", sizes.documents),
                ("chunks", sizes.chunks),
                ("embeddings", sizes.chunks),
            ):
                statement = f"select count(*) from {table} where tenant_id = %s".encode()
                assert conn.execute(statement, (tenant,)).fetchone() == (number,)


def test_seeding_raises_the_sequences_and_refuses_to_do_it_twice(cell_settings: CellSettings) -> None:
    deploy(cell_settings, default_access())
    tenant = TENANTS[0].id
    seed(cell_settings, [tenant], sizes=SIZES)
    with psycopg.connect(cell_settings.postgres_dsn, autocommit=True) as conn:
        for table, values in (("documents", "'x', 't', 'b'"), ("chunks", "'x', 1, 0, 't'")):
            columns = (
                "tenant_id, title, body" if table == "documents" else "tenant_id, document_id, seq, text"
            )
            highest = conn.execute(f"select max(id) from {table}".encode()).fetchone()
            if table == "chunks":
                conn.execute("insert into documents (tenant_id, id, title, body) values ('x', 1, 't', 'b')")
            new = conn.execute(f"insert into {table} ({columns}) values ({values}) returning id".encode())
            assert highest is not None
            assert new.fetchone() == (highest[0] + 1,)
    with pytest.raises(ValueError, match=tenant):
        seed(cell_settings, [tenant], sizes=SIZES)


def test_deploying_postgres_twice_keeps_the_data(cell_settings: CellSettings) -> None:
    deploy(cell_settings, default_access())
    seed(cell_settings, [TENANTS[0].id], sizes=SIZES)
    before = rows(cell_settings)
    deploy_postgres(cell_settings)
    assert rows(cell_settings) == before
