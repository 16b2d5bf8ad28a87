"""Fills cells with tenants' data, the same for the same seed: the five tenants of the demo and neighbours
that look like one.

The neighbours' ids are chosen to be mistaken for `tenant_001_acme_corp`: a longer and a shorter id, another
case, other separators (a `like` pattern takes `_` for any character), all in the same tables, keyspace and
bucket.
"""

from __future__ import annotations

import hmac
import json
import random
import secrets
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import redis
from pinecone import Index
from psycopg import sql

from rag_app.embedding import CHUNK_CHARACTERS, as_vector, chunks_of, embed
from rag_app.log_groups import STREAM, LogEvent, group_of, logs_client, put
from rag_app.objects import file_key, s3_client
from rag_app.settings import CLIENT_IDS_FROM, DOMAIN, CellSettings, ObjectSettings, TenantAccess, default_host
from rag_app.vectors import namespace_of, record_of
from rag_app.warehouse import UsageEvent, Warehouse

_TEXT: Final = (
    "account answer archive audit backup balance batch bearing board branch budget cable carrier "
    "catalogue cause chapter claim clause client column contract copper cost courier crane credit current "
    "customer daily damage data deadline deal delivery demand depot design digest district document "
    "domain draft drive due east effect engine entry estimate event evidence export factor failure field "
    "figure filter finding fleet flow forecast form freight gate goods grid growth guide harbour header "
    "history hold import index input invoice issue item journey key label lease ledger length letter "
    "level limit link list load location machine margin market measure meeting member memory method model "
    "month motion network note notice number object offer office order origin outcome owner packet page "
    "parcel part passage payment period permit phase plan plant policy port power price process product "
    "profile proof quality quarter query question queue range rate reason receipt record region release "
    "rental repair report request result review risk river road route row rule sample scale schedule "
    "season section segment series service share shift signal site size source stage standard station "
    "status step stock store stream supply survey system table target tariff team term test ticket tide "
    "title token tool total tower track trade train transfer transit trust turn unit update value vault "
    "vendor verdict version vessel volume wagon warehouse week weight window wire yard year yield zone"
)
_WORDS: Final = tuple(_TEXT.split())
_COPY_DOCUMENTS: Final = "copy documents (tenant_id, id, title, body, meta, created_at) from stdin"
_EPOCH: Final = datetime(2025, 1, 18, 9, 0, tzinfo=UTC)
_ID_BLOCK: Final = 1_000_000
_STREAM_START_MS: Final = 1_737_190_800_000
_HOUR_MS: Final = 3_600_000
_UPSERT: Final = 500
_USAGE_DAYS: Final = 5
_LOGGED_MS: Final = 2 * _HOUR_MS


@dataclass(frozen=True, kw_only=True)
class SeedTenant:
    """A tenant of the demo. `share` is its size as part of `Sizes`."""

    id: str
    tier: str
    share: float
    host: str


def _tenant(tenant: str, tier: str, share: float, host: str | None = None) -> SeedTenant:
    return SeedTenant(id=tenant, tier=tier, share=share, host=host or default_host(tenant))


TENANTS: Final = (
    _tenant("tenant_001_acme_corp", "platinum", 1.0),
    _tenant("tenant_002_globex", "gold", 0.3),
    _tenant("tenant_003_initech", "gold", 0.3),
    _tenant("tenant_004_departed_customer", "bronze", 0.1),
    _tenant("tenant_005_test_account", "bronze", 0.05),
    _tenant("tenant_001_acme", "bronze", 0.1),
    _tenant("tenant_001_acme_corp2", "gold", 0.1),
    _tenant("TENANT_001_ACME_CORP", "bronze", 0.1, f"acme-shouting.{DOMAIN}"),
    _tenant("tenant-001-acme-corp", "bronze", 0.1, f"acme-dashed.{DOMAIN}"),
    _tenant("tenant.001.acme.corp", "bronze", 0.05, f"acme-dotted.{DOMAIN}"),
    _tenant("tenantX001_acme_corp", "bronze", 0.05),
)
TEST_ACCOUNT: Final = "tenant_005_test_account"
SCENARIO_TENANTS: Final = TENANTS[:5]
NEIGHBOURS: Final = TENANTS[5:]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a tenant of share 1.0 gets. `keys` are Redis keys of every type. Each document has a record in Pinecone."""

    documents: int = 3_000
    chunks_per_document: int = 3
    files: int = 300
    keys: int = 2_000
    usage_events: int = 2_000
    log_events: int = 400

    def scaled(self, share: float) -> Sizes:
        return Sizes(
            documents=max(1, round(self.documents * share)),
            chunks_per_document=self.chunks_per_document,
            files=max(1, round(self.files * share)),
            keys=max(20, round(self.keys * share)),
            usage_events=max(_USAGE_DAYS, round(self.usage_events * share)),
            log_events=max(5, round(self.log_events * share)),
        )


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """What was written for one tenant."""

    documents: int
    chunks: int
    files: int
    keys: int
    usage_events: int
    log_events: int


@dataclass(frozen=True, kw_only=True)
class _Document:
    id: int
    title: str
    body: str
    at: datetime


def default_access(password_seed: str | None = None) -> dict[str, TenantAccess]:
    """Hosts and passwords for all of `TENANTS`; give the same to every cell.

    The passwords are fresh, or the same for the same `password_seed` (for servers that nobody else reaches).
    """

    def password(tenant: str) -> str:
        if password_seed is None:
            return secrets.token_urlsafe(18)
        return hmac.new(password_seed.encode(), tenant.encode(), "sha256").hexdigest()[:32]

    return {t.id: TenantAccess(host=t.host, redis_password=password(t.id)) for t in TENANTS}


def seed(
    settings: CellSettings,
    tenants: Iterable[str] | None = None,
    *,
    sizes: Sizes = Sizes(),
    seed: int = 1,
    shares: Mapping[str, float] | None = None,
) -> dict[str, Seeded]:
    """Write the tenants' data into all stores of one cell, straight and fast, with the deployer's
    credentials.

    The same (tenant, seed, sizes) gives the same rows, objects, keys and records in any cell; only expiry and the
    times of log events count from now. Meant for cells that were just deployed: raises `ValueError` if a tenant has
    documents there already.
    """
    known = {tenant.id: tenant for tenant in TENANTS}
    wanted = list(known) if tenants is None else list(tenants)
    done: dict[str, Seeded] = {}
    with (
        psycopg.connect(settings.postgres_dsn, autocommit=True) as conn,
        redis.Redis.from_url(settings.redis_url) as client,
        closing(s3_client(settings.objects, connections=8)) as s3,
        closing(_Beside(settings)) as beside,
        ThreadPoolExecutor(8, thread_name_prefix="seed") as threads,
    ):
        for tenant in wanted:
            share = (shares or {}).get(tenant, known[tenant].share if tenant in known else 0.1)
            size = sizes.scaled(share)
            if tenant == TEST_ACCOUNT:  # a test account that was never billed, and logged nothing
                size = replace(size, usage_events=0, log_events=0)
            rng = random.Random(f"{seed}:{tenant}")
            documents = list(_documents(tenant, rng, size))
            files = documents[: size.files]
            uploads = [
                threads.submit(_put_file, s3, settings.objects, tenant, document) for document in files
            ]
            chunks = _copy_rows(conn, tenant, documents)
            keys = _write_keys(client, tenant, rng, size.keys, documents)
            beside.write(tenant, rng, size, documents)
            for upload in uploads:
                upload.result()
            done[tenant] = Seeded(
                documents=len(documents),
                chunks=chunks,
                files=len(files),
                keys=keys,
                usage_events=size.usage_events if settings.warehouse else 0,
                log_events=size.log_events if settings.logs else 0,
            )
        _raise_sequences(conn)
        conn.execute("analyze documents, chunks, embeddings")
    return done


def _block(tenant: str) -> int:
    """Where a tenant's ids begin: as if one sequence had served all of them, one after the other."""
    ids = [known.id for known in TENANTS]
    return (ids.index(tenant) if tenant in ids else len(ids)) * _ID_BLOCK


def _documents(tenant: str, rng: random.Random, size: Sizes) -> Iterator[_Document]:
    length = CHUNK_CHARACTERS * size.chunks_per_document - CHUNK_CHARACTERS // 2
    for n in range(1, size.documents + 1):
        words = rng.choices(_WORDS, k=length // 6)
        body = f"{tenant} {n}"
        while len(body) < length:
            body += " " + (words.pop() if words else rng.choice(_WORDS))
        title = f"{' '.join(rng.choices(_WORDS, k=3))} {n}"
        at = _EPOCH + timedelta(minutes=n)
        yield _Document(id=_block(tenant) + n, title=title, body=body, at=at)


def _copy_rows(conn: psycopg.Connection[Any], tenant: str, documents: list[_Document]) -> int:
    """Copy documents, chunks and embeddings in one transaction; return how many chunks."""
    texts = [(document.id, seq, text) for document in documents for seq, text in _pieces(document)]
    first = _block(tenant) + 1
    with conn.transaction():
        if conn.execute("select 1 from documents where tenant_id = %s limit 1", (tenant,)).fetchone():
            raise ValueError(f"{tenant} has documents in this cell already")
        with conn.cursor() as cursor:
            with cursor.copy(_COPY_DOCUMENTS) as copy:
                for d in documents:
                    meta = f'{{"language": "en", "words": {d.body.count(" ") + 1}}}'
                    copy.write_row((tenant, d.id, d.title, d.body, meta, d.at))
            with cursor.copy("copy chunks (tenant_id, id, document_id, seq, text) from stdin") as copy:
                for chunk_id, (document_id, seq, text) in enumerate(texts, first):
                    copy.write_row((tenant, chunk_id, document_id, seq, text))
            with cursor.copy("copy embeddings (tenant_id, chunk_id, embedding) from stdin") as copy:
                for chunk_id, (_, _, text) in enumerate(texts, first):
                    copy.write_row((tenant, chunk_id, as_vector(embed(text))))
    return len(texts)


def _pieces(document: _Document) -> Iterator[tuple[int, str]]:
    return enumerate(chunks_of(document.title, document.body))


def _raise_sequences(conn: psycopg.Connection[Any]) -> None:
    """Let the sequences go on after the highest id that was written without them."""
    for table in ("documents", "chunks"):
        conn.execute(
            sql.SQL(
                "select setval(pg_get_serial_sequence({}, 'id'), greatest(max(id), 1)) from {} where id < {}"
            ).format(sql.Literal(table), sql.Identifier(table), sql.Literal(CLIENT_IDS_FROM))
        )


def _put_file(s3: Any, objects: ObjectSettings, tenant: str, document: _Document) -> None:
    s3.put_object(
        Bucket=objects.bucket,
        Key=file_key(tenant, document.id),
        Body=document.body.encode(),
        ContentType="text/plain",
        Metadata={"document": str(document.id)},
    )


def _write_keys(
    client: redis.Redis, tenant: str, rng: random.Random, keys: int, documents: list[_Document]
) -> int:
    """Write about `keys` keys: half of them sessions that expire, the others of every type; return how
    many."""
    prefix = f"t:{tenant}:"
    sessions, counters, previews = keys // 2, keys // 5, min(keys * 3 // 20, len(documents))
    queues = tags = rankings = events = max(1, keys // 30)
    pipe = client.pipeline(transaction=False)
    for n in range(sessions):
        user = rng.randrange(10_000)
        fields = ["user", f"user{user}@{tenant}.example", "ip", f"10.{n % 200}.{user % 250}.7"]
        pipe.hset(f"{prefix}session:{n:05}", items=fields)
        pipe.pexpire(f"{prefix}session:{n:05}", rng.randrange(6 * _HOUR_MS, 30 * 24 * _HOUR_MS))
    for n in range(counters):
        pipe.set(f"{prefix}counter:{n:05}", rng.randrange(1, 100_000))
    for document in documents[:previews]:
        name = f"{prefix}preview:{document.id}"
        pipe.hset(name, items=["title", document.title, "characters", str(len(document.body))])
        pipe.pexpire(name, rng.randrange(24 * _HOUR_MS, 30 * 24 * _HOUR_MS))
    if previews:
        scores = {str(d.id): d.at.timestamp() for d in documents[:previews]}
        pipe.zadd(f"{prefix}recent", scores)
    for n in range(queues):
        pipe.rpush(
            f"{prefix}queue:{n}", *(f"job {rng.randrange(10**9)}" for _ in range(rng.randrange(1, 40)))
        )
    for n in range(tags):
        pipe.sadd(f"{prefix}tags:{n}", *rng.sample(_WORDS, rng.randrange(1, 30)))
    for n in range(rankings):
        words = rng.sample(_WORDS, rng.randrange(1, 60))
        pipe.zadd(f"{prefix}ranking:{n}", {word: rng.randrange(10_000) / 8 for word in words})
    for n in range(events):
        name = f"{prefix}events:{n}"
        for at in range(rng.randrange(2, 20)):
            pipe.xadd(name, {"kind": rng.choice(_WORDS), "n": at}, id=f"{_STREAM_START_MS + at}-0")
        pipe.xgroup_create(name, "readers", id="0")
        pipe.xreadgroup("readers", "reader-1", {name: ">"}, count=1)
    pipe.execute()
    return sessions + counters + previews + bool(previews) + queues + tags + rankings + events


class _Beside:
    """The stores that have no fence of their own, as far as the cell has them: Pinecone, analytics, logs."""

    def __init__(self, settings: CellSettings) -> None:
        vectors, warehouse, logs = settings.vectors, settings.warehouse, settings.logs
        self._vectors = Index(host=vectors.host, api_key=vectors.api_key) if vectors else None
        self._warehouse = Warehouse(warehouse) if warehouse else None
        self._logs = logs_client(logs) if logs else None
        self._prefix = logs.group_prefix if logs else ""

    def close(self) -> None:
        for optional in (self._vectors, self._warehouse, self._logs):
            if optional is not None:
                optional.close()

    def write(self, tenant: str, rng: random.Random, size: Sizes, documents: list[_Document]) -> None:
        if self._vectors:
            for first in range(0, len(documents), _UPSERT):
                records = [record_of(d.id, d.title, d.body) for d in documents[first : first + _UPSERT]]
                self._vectors.upsert(vectors=records, namespace=namespace_of(tenant), show_progress=False)
        if self._warehouse and size.usage_events:
            with self._warehouse.opened(write=True):
                self._warehouse.add(tenant, list(_usage(rng, size.usage_events, documents)))
        if self._logs and size.log_events:
            put(self._logs, self._prefix + group_of(tenant), STREAM, _logged(tenant, rng, size.log_events))


def _usage(rng: random.Random, events: int, documents: list[_Document]) -> Iterator[UsageEvent]:
    """Spread over five days."""
    for n in range(events):
        yield UsageEvent(
            id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            happened=_EPOCH + timedelta(days=n % _USAGE_DAYS, seconds=n),
            kind=rng.choice(("document_stored", "document_deleted", "counted")),
            subject=str(rng.choice(documents).id),
            units=rng.randrange(1, 2_000),
        )


def _logged(tenant: str, rng: random.Random, events: int) -> list[LogEvent]:
    """Spread over the last two hours, the newest a minute ago."""
    newest = int(time.time() * 1000) - 60_000
    return [
        LogEvent(
            time_ms=newest - n * _LOGGED_MS // events,
            message=json.dumps(
                {
                    "tenant": tenant,
                    "method": "GET",
                    "path": f"/documents/{rng.randrange(10**6)}",
                    "status": 200,
                }
            ),
        )
        for n in range(events)
    ]
