"""The app's side of one cell's stores: every write for a tenant, to any store, inside a transaction that
holds its permit.

A write that is refused because the tenant is fenced raises `Fenced` and has done nothing anywhere: the
permit is the first statement of each transaction, and PostgreSQL's fence waits for all permits before the
other stores are fenced. What a tenant used is noted in the same transaction, before anything is done in
another store; `rag_app.shipping` brings it to analytics.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import psycopg
import redis.asyncio as aioredis
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from rag_app.embedding import as_vector, chunks_of, embed
from rag_app.objects import file_key, s3_client
from rag_app.settings import AppConfig, TenantAccess, load_tenants
from rag_app.vectors import VectorIndex, record_id
from tenure.client import Fenced, apermit, atouch, translating

Connection = psycopg.AsyncConnection[TupleRow]
T = TypeVar("T")

OBJECTS_STORE: Final = "objects"
PINECONE_STORE: Final = "pinecone"
PREVIEW_TTL_S: Final = 30 * 86_400
RECENT_LENGTH: Final = 1_000
ATTEMPTS: Final = 5
S3_THREADS: Final = 8

_UPSERT: Final = """
insert into documents (tenant_id, id, title, body, meta) values (%s, %s, %s, %s, %s)
on conflict (tenant_id, id) do update set title = excluded.title, body = excluded.body, meta = excluded.meta
"""
_INSERT: Final = "insert into documents (tenant_id, title, body, meta) values (%s, %s, %s, %s) returning id"
_UPDATE: Final = "update documents set title = %s, body = %s, meta = %s where tenant_id = %s and id = %s"
_CHUNKS: Final = """
with pieces as (
    select * from unnest(%(seqs)s::int[], %(texts)s::text[], %(vectors)s::text[]) as p (seq, text, vector)
), added as (
    insert into chunks (tenant_id, document_id, seq, text)
    select %(tenant)s, %(document)s, seq, text from pieces returning id, seq
)
insert into embeddings (tenant_id, chunk_id, embedding)
select %(tenant)s, added.id, pieces.vector::vector from added join pieces using (seq)
"""
_USED: Final = """
insert into usage_outbox (tenant_id, kind, subject, units) values (%s, %s, %s, %s) returning id::text
"""
_SEARCH: Final = """
select c.document_id, d.title, c.seq, c.text, e.embedding <=> %(vector)s::vector as distance
from embeddings e
join chunks c on c.tenant_id = e.tenant_id and c.id = e.chunk_id
join documents d on d.tenant_id = c.tenant_id and d.id = c.document_id
where e.tenant_id = %(tenant)s
order by distance, c.id
limit 5
"""


@dataclass(frozen=True, kw_only=True)
class Document:
    title: str
    body: str
    meta: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Done(Generic[T]):
    """What a write has led to, and the id of the usage event that was acknowledged with it ("" if none was)."""

    value: T
    event: str = ""


class _TriedPool(aioredis.BlockingConnectionPool):
    """Lends only connections that answer: a restart of the server fails no request that comes after it."""

    async def ensure_connection(self, connection: aioredis.connection.AbstractConnection) -> None:
        await super().ensure_connection(connection)
        try:
            await connection.send_command("PING", check_health=False)
            await connection.read_response()
        except (RedisConnectionError, OSError):
            await connection.disconnect()
            await super().ensure_connection(connection)


class Storage:
    """Connections to the stores of one cell. `async with Storage(config) as storage: ...`"""

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self._pool = AsyncConnectionPool(
            config.postgres_dsn,
            min_size=2,
            max_size=10,
            timeout=5,
            open=False,
            check=AsyncConnectionPool.check_connection,
            kwargs={"connect_timeout": 5},
        )
        self._s3 = s3_client(config.objects, connections=S3_THREADS)
        self._threads = ThreadPoolExecutor(S3_THREADS, thread_name_prefix="s3")
        self._vectors = VectorIndex(config.vectors) if config.vectors else None
        self._redis: dict[str, aioredis.Redis] = {}
        self._tenants: dict[str, TenantAccess] = {}
        self._tenants_read_ns = 0

    async def __aenter__(self) -> Storage:
        await self._pool.open(wait=True, timeout=20)
        self.tenants()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._pool.close()
        if self._vectors:
            await self._vectors.close()
        for client in self._redis.values():
            await client.aclose()
        self._threads.shutdown()
        self._s3.close()

    def tenants(self) -> dict[str, TenantAccess]:
        """The tenants there are, read again when the file has changed."""
        changed_ns = self._config.tenants_file.stat().st_mtime_ns
        if changed_ns != self._tenants_read_ns:
            self._tenants = load_tenants(self._config.tenants_file)
            self._tenants_read_ns = changed_ns
        return self._tenants

    # -- transactions

    async def _write(self, tenant: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `work` in a transaction; again when PostgreSQL asks for it (40001).

        Only the permit and statements before any side effect raise 40001 here (READ COMMITTED), so running
        `work` again never does anything twice. `work` writes to Redis before the bucket: a refusal by Redis's
        own fence comes before anything was done as well.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with translating(tenant):
                    async with self._pool.connection() as conn:
                        return await work(conn)
            except psycopg.errors.SerializationFailure:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0.005, 0.02) * attempt)
            except NoPermissionError as error:
                raise Fenced(tenant) from error
        raise AssertionError("the last attempt returns or raises")

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _redis_of(self, tenant: str) -> aioredis.Redis:
        """The tenant's own pool, logged in as its own user. Never repeats a command by itself: INCR must
        not be."""
        client = self._redis.get(tenant)
        if client is None:
            pool = _TriedPool(
                host=self._config.redis_host,
                port=self._config.redis_port,
                username=f"app-{tenant}",
                password=self._tenants[tenant].redis_password,
                decode_responses=True,
                max_connections=8,
                timeout=5,
                socket_timeout=5,
                socket_connect_timeout=3,
                retry=Retry(NoBackoff(), 0),
            )
            client = self._redis[tenant] = aioredis.Redis.from_pool(pool)
        return client

    # -- documents

    async def put_document(
        self, tenant: str, document_id: int | None, document: Document, *, create: bool
    ) -> Done[int] | None:
        """Store a document in all stores; return its id, or None if it should exist and does not.

        With an id, doing it twice is the same as once.
        """

        async def work(conn: Connection) -> Done[int] | None:
            meta = json.dumps(document.meta)
            if document_id is None:
                await apermit(conn, tenant)
                row = await (
                    await conn.execute(_INSERT, (tenant, document.title, document.body, meta))
                ).fetchone()
                assert row is not None
                key = int(row[0])
            else:
                key = document_id
            await self._touch(conn, tenant, key)
            if document_id is not None and create:
                await conn.execute(_UPSERT, (tenant, key, document.title, document.body, meta))
            elif document_id is not None:
                done = await conn.execute(_UPDATE, (document.title, document.body, meta, tenant, key))
                if not done.rowcount:
                    return None
            await self._put_chunks(conn, tenant, key, document)
            event = await self._used(conn, tenant, "document_stored", str(key), len(document.body))
            await self._put_preview(tenant, key, document)
            writes = [self._put_file(file_key(tenant, key), document.body)]
            if self._vectors:
                writes.append(self._vectors.put(tenant, key, document.title, document.body))
            await _all(writes)
            return Done(value=key, event=event)

        return await self._write(tenant, work)

    async def _touch(self, conn: Connection, tenant: str, key: int) -> None:
        """Note that a document's file and its record are about to change."""
        await atouch(conn, tenant, OBJECTS_STORE, file_key(tenant, key))
        if self._vectors:
            await atouch(conn, tenant, PINECONE_STORE, record_id(key))

    async def _put_chunks(self, conn: Connection, tenant: str, key: int, document: Document) -> None:
        texts = chunks_of(document.title, document.body)
        await conn.execute("delete from chunks where tenant_id = %s and document_id = %s", (tenant, key))
        await conn.execute(
            _CHUNKS,
            {
                "tenant": tenant,
                "document": key,
                "seqs": list(range(len(texts))),
                "texts": texts,
                "vectors": [as_vector(embed(text)) for text in texts],
            },
        )

    async def _used(self, conn: Connection, tenant: str, kind: str, subject: str, units: int = 1) -> str:
        """Note what the tenant does, where the cell has analytics; return the event's id."""
        if self._config.warehouse is None:
            return ""
        row = await (await conn.execute(_USED, (tenant, kind, subject, units))).fetchone()
        assert row is not None
        return str(row[0])

    async def _put_file(self, name: str, body: str) -> None:
        await self._in_thread(
            lambda: self._s3.put_object(
                Bucket=self._config.objects.bucket, Key=name, Body=body.encode(), ContentType="text/plain"
            )
        )

    async def _delete_file(self, name: str) -> None:
        await self._in_thread(lambda: self._s3.delete_object(Bucket=self._config.objects.bucket, Key=name))

    async def _put_preview(self, tenant: str, key: int, document: Document) -> None:
        preview, recent = f"t:{tenant}:preview:{key}", f"t:{tenant}:recent"
        async with self._redis_of(tenant).pipeline(transaction=True) as pipe:
            pipe.hset(preview, mapping={"title": document.title, "characters": str(len(document.body))})
            pipe.expire(preview, PREVIEW_TTL_S)
            pipe.zadd(recent, {str(key): time.time()})
            pipe.zremrangebyrank(recent, 0, -RECENT_LENGTH - 1)
            await pipe.execute()

    async def delete_document(self, tenant: str, key: int) -> Done[bool]:
        """Delete a document from all stores; say whether there was one. Twice is the same as once."""

        async def work(conn: Connection) -> Done[bool]:
            await self._touch(conn, tenant, key)
            done = await conn.execute("delete from documents where tenant_id = %s and id = %s", (tenant, key))
            there = done.rowcount > 0
            event = await self._used(conn, tenant, "document_deleted", str(key)) if there else ""
            async with self._redis_of(tenant).pipeline(transaction=True) as pipe:
                pipe.delete(f"t:{tenant}:preview:{key}")
                pipe.zrem(f"t:{tenant}:recent", str(key))
                await pipe.execute()
            writes = [self._delete_file(file_key(tenant, key))]
            if self._vectors:
                writes.append(self._vectors.delete(tenant, key))
            await _all(writes)
            return Done(value=there, event=event)

        return await self._write(tenant, work)

    async def document(self, tenant: str, key: int) -> Document | None:
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                "select title, body, meta from documents where tenant_id = %s and id = %s", (tenant, key)
            )
            row = await cursor.fetchone()
        return Document(title=row[0], body=row[1], meta=row[2]) if row else None

    async def search(self, tenant: str, text: str) -> list[dict[str, Any]]:
        """The five chunks nearest to the text."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(_SEARCH, {"tenant": tenant, "vector": as_vector(embed(text))})
            names = ("document", "title", "seq", "text", "distance")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def similar(self, tenant: str, text: str) -> list[dict[str, Any]] | None:
        """The five documents whose beginning is nearest to the text, from Pinecone: what was written in the last
        seconds may be missing, and what was deleted still be among them. None if the cell has no index."""
        return await self._vectors.nearest(tenant, embed(text)) if self._vectors else None

    async def file(self, tenant: str, key: int) -> bytes | None:
        def get() -> bytes | None:
            try:
                answer = self._s3.get_object(Bucket=self._config.objects.bucket, Key=file_key(tenant, key))
            except self._s3.exceptions.NoSuchKey:
                return None
            return answer["Body"].read()

        return await self._in_thread(get)

    # -- what lives in Redis alone

    async def recent(self, tenant: str) -> list[dict[str, str]]:
        """The previews of the ten documents written last."""
        client = self._redis_of(tenant)
        keys = [str(key) for key in await client.zrange(f"t:{tenant}:recent", 0, 9, desc=True)]
        async with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hgetall(f"t:{tenant}:preview:{key}")
            previews: list[dict[str, str]] = await pipe.execute()
        return [{"id": key, **preview} for key, preview in zip(keys, previews, strict=True)]

    async def count_up(self, tenant: str, name: str) -> Done[int]:
        """Add one. Not idempotent: the permit comes first, so a request that is refused has not counted."""

        async def work(conn: Connection) -> Done[int]:
            await apermit(conn, tenant)
            event = await self._used(conn, tenant, "counted", name)
            return Done(
                value=int(await self._redis_of(tenant).incr(f"t:{tenant}:counter:{name}")), event=event
            )

        return await self._write(tenant, work)

    async def counter(self, tenant: str, name: str) -> int:
        return int(await self._redis_of(tenant).get(f"t:{tenant}:counter:{name}") or 0)

    async def put_session(
        self, tenant: str, session: str, fields: dict[str, str], ttl_s: float
    ) -> Done[None]:
        key = f"t:{tenant}:session:{session}"

        async def work(conn: Connection) -> Done[None]:
            await apermit(conn, tenant)
            event = await self._used(conn, tenant, "session_stored", session)
            async with self._redis_of(tenant).pipeline(transaction=True) as pipe:
                pipe.delete(key)
                pipe.hset(key, items=[text for field in fields.items() for text in field])
                pipe.pexpire(key, int(ttl_s * 1000))
                await pipe.execute()
            return Done(value=None, event=event)

        return await self._write(tenant, work)

    async def session(self, tenant: str, session: str) -> dict[str, str]:
        fields = await self._redis_of(tenant).hgetall(f"t:{tenant}:session:{session}")
        return {str(name): str(value) for name, value in fields.items()}


async def _all(writes: Sequence[Awaitable[None]]) -> None:
    """Wait for all of them, then raise what one has failed with: none may be under way when the permit ends."""
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
