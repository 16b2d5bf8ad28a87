"""Reads what one cell's stores hold, straight and with the deployer's credentials, for comparing it with a
history."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import psycopg
import redis
from pinecone import Index, NotFoundError

from rag_app.objects import file_key, s3_client
from rag_app.settings import CellSettings
from rag_app.vectors import namespace_of, record_id
from rag_app.warehouse import Warehouse

T = TypeVar("T")

_THREADS: Final = 8
_BATCH: Final = 1_000
_FETCH: Final = 200
_OUTBOX: Final = "select id::text from usage_outbox where tenant_id = %s"
_DOCUMENTS: Final = "select id, title, body from documents where tenant_id = %s and id = any(%s)"
_CHUNKS: Final = """
select c.document_id, c.text, e.embedding::text
from chunks c left join embeddings e on e.tenant_id = c.tenant_id and e.chunk_id = c.id
where c.tenant_id = %s and c.document_id = any(%s)
order by c.document_id, c.seq
"""


@dataclass(frozen=True, kw_only=True)
class StoredDocument:
    """`chunks` in order, each with its embedding, or None where that is missing."""

    title: str
    body: str
    chunks: tuple[tuple[str, tuple[float, ...] | None], ...]


@dataclass(frozen=True, kw_only=True)
class StoredRecord:
    """What Pinecone has of a document."""

    title: str
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StoredSession:
    """`expires`: seconds since 1970; infinity if it never does."""

    version: int
    expires: float


class CellReader:
    """A context manager. Every method returns what is there, by id or name, and leaves out what is not."""

    def __init__(self, settings: CellSettings) -> None:
        self.cell = settings.cell
        self._bucket = settings.objects.bucket
        self._conn = psycopg.connect(settings.postgres_dsn, autocommit=True)
        self._redis = redis.Redis.from_url(settings.redis_url, decode_responses=True)
        self._s3 = s3_client(settings.objects, connections=_THREADS)
        vectors, warehouse = settings.vectors, settings.warehouse
        self._vectors = Index(host=vectors.host, api_key=vectors.api_key) if vectors else None
        self._warehouse = Warehouse(warehouse) if warehouse else None

    def __enter__(self) -> CellReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._conn.close()
        self._redis.close()
        self._s3.close()
        for optional in (self._vectors, self._warehouse):
            if optional is not None:
                optional.close()

    def documents(self, tenant: str, ids: Sequence[int]) -> dict[int, StoredDocument]:
        """In one snapshot, chunks and embeddings included."""
        chunks: dict[int, list[tuple[str, tuple[float, ...] | None]]] = {}
        with self._conn.transaction():
            self._conn.execute("set transaction isolation level repeatable read, read only")
            for number, text, vector in self._conn.execute(_CHUNKS, (tenant, list(ids))):
                numbers = None if vector is None else tuple(map(float, json.loads(vector)))
                chunks.setdefault(number, []).append((text, numbers))
            rows = self._conn.execute(_DOCUMENTS, (tenant, list(ids))).fetchall()
        return {
            number: StoredDocument(title=title, body=body, chunks=tuple(chunks.get(number, ())))
            for number, title, body in rows
        }

    def files(self, tenant: str, ids: Sequence[int]) -> dict[int, str]:
        def body(number: int) -> str | None:
            try:
                answer = self._s3.get_object(Bucket=self._bucket, Key=file_key(tenant, number))
            except self._s3.exceptions.NoSuchKey:
                return None
            return answer["Body"].read().decode(errors="replace")

        with ThreadPoolExecutor(_THREADS, thread_name_prefix="reader") as threads:
            found = zip(ids, threads.map(body, ids), strict=True)
            return {number: text for number, text in found if text is not None}

    def records(self, tenant: str, ids: Sequence[int]) -> dict[int, StoredRecord] | None:
        """As far as Pinecone shows them by now; None if the cell has no index."""
        if self._vectors is None:
            return None
        found: dict[int, StoredRecord] = {}
        for first in range(0, len(ids), _FETCH):
            wanted = [record_id(number) for number in ids[first : first + _FETCH]]
            with suppress(NotFoundError):
                answer = self._vectors.fetch(ids=wanted, namespace=namespace_of(tenant))
                for record in answer.vectors.values():
                    title = (record.metadata or {}).get("title", "")
                    found[int(record.id)] = StoredRecord(title=str(title), values=tuple(record.values or ()))
        return found

    def usage(self, tenant: str) -> tuple[set[str], dict[str, int]]:
        """The usage events that wait in the outbox, and those in analytics with how often they are there.

        In this order: what leaves the outbox in between is found in analytics. A cell without analytics has none.
        """
        if self._warehouse is None:
            return set(), {}
        waiting = {str(event) for (event,) in self._conn.execute(_OUTBOX, (tenant,))}
        with self._warehouse.opened():
            return waiting, self._warehouse.counts(tenant)

    def preview_titles(self, tenant: str, ids: Sequence[int]) -> dict[int, str]:
        titles = self._pipelined(ids, lambda pipe, n: pipe.hget(f"t:{tenant}:preview:{n}", "title"))
        return {number: str(title) for number, (title,) in zip(ids, titles, strict=True) if title is not None}

    def counters(self, tenant: str, names: Sequence[str]) -> dict[str, int]:
        values = self._pipelined(names, lambda pipe, name: pipe.get(f"t:{tenant}:counter:{name}"))
        return {
            name: int(str(value)) for name, (value,) in zip(names, values, strict=True) if value is not None
        }

    def sessions(self, tenant: str, names: Sequence[str]) -> dict[str, StoredSession]:
        def get(pipe: redis.client.Pipeline, name: str) -> None:
            pipe.hget(f"t:{tenant}:session:{name}", "version")
            pipe.pexpiretime(f"t:{tenant}:session:{name}")

        return {
            name: StoredSession(version=int(str(version)), expires=_seconds(int(str(expires_ms))))
            for name, (version, expires_ms) in zip(names, self._pipelined(names, get), strict=True)
            if version is not None
        }

    def _pipelined(
        self, items: Sequence[T], ask: Callable[[redis.client.Pipeline, T], object]
    ) -> list[tuple[object, ...]]:
        """The answers for each item, asked for in batches."""
        answers: list[tuple[object, ...]] = []
        for first in range(0, len(items), _BATCH):
            batch = items[first : first + _BATCH]
            pipe = self._redis.pipeline(transaction=False)
            for item in batch:
                ask(pipe, item)
            flat = pipe.execute()
            each = len(flat) // len(batch)
            answers.extend(tuple(flat[n : n + each]) for n in range(0, len(flat), each))
        return answers


def _seconds(expires_ms: int) -> float:
    return expires_ms / 1000 if expires_ms >= 0 else float("inf")
