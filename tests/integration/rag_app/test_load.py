"""The load generator against a real app, and whether a lost write would be found in each of the stores."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import redis
from pinecone import Index

from rag_app.checker import Served, check
from rag_app.history import History, Op, Outcome, Request
from rag_app.load import DEFAULT_MIX, Generator, LoadSettings
from rag_app.load_process import LoadFailed, LoadProcess
from rag_app.objects import file_key, s3_client
from rag_app.reader import CellReader
from rag_app.settings import CellSettings
from rag_app.texts import body_of, title_of
from rag_app.verify import verify
from rag_app.warehouse import Warehouse

from .conftest import ACME, ACME_HOST, EXAMPLES, GLOBEX, GLOBEX_HOST, App, Fencing

HOSTS = {ACME: ACME_HOST, GLOBEX: GLOBEX_HOST}
Wait = Callable[..., None]


@pytest.fixture
def reader(cell: CellSettings) -> Iterator[CellReader]:
    with CellReader(cell) as opened:
        yield opened


def settings(gateway: str, *, rate: float = 150.0, timeout_s: float = 5.0) -> LoadSettings:
    return LoadSettings(gateway=gateway, tenants=HOSTS, run=7, workers=3, rate=rate, timeout_s=timeout_s)


def latest(history: History, *ops: Op) -> Request:
    """The last acknowledged request of these kinds whose key was not written again."""
    last = {r.key: r for r in history.requests if r.is_write and r.tenant == ACME}
    return next(r for r in reversed(last.values()) if r.op in ops and r.outcome is Outcome.OK)


def quiet_read(history: History, op: Op) -> tuple[int, Request]:
    """A read of something while nobody wrote it, and its place in the history."""
    for place, read in enumerate(history.requests):
        others = [w for w in history.requests if w.is_write and (w.tenant, w.key) == (read.tenant, read.key)]
        overlapping = [w for w in others if w.start < read.end and w.end > read.start]
        if read.op is op and read.found > 0 and not overlapping:
            return place, read
    raise AssertionError(f"no {op} without a write beside it")


def test_all_that_the_load_wrote_is_found_and_each_planted_loss_as_well(
    app: App, cell: CellSettings, reader: CellReader, tmp_path: Path, wait_until: Wait
) -> None:
    with LoadProcess.start(settings(app.url), tmp_path / "history.jsonl") as load:
        wait_until(lambda: load.stats().requests >= 600, "600 requests", deadline_s=30)
        during = load.latency()
        history = load.stop()
    counts = history.counts()
    assert counts.failed == 0
    assert counts.cells == {"blue": counts.requests}
    assert 0 < during.p50_ms <= during.p99_ms <= during.max_ms
    assert {request.op for request in history.requests} == set(DEFAULT_MIX)
    assert history.cells(ACME)[0][1] == "blue"

    found = verify(history, lambda _: reader)
    assert found.clean, (found.lost, found.stale, found.unexplained)
    assert found.writes_acked == counts.writes_acked > 200
    assert found.reads_checked > 100
    assert set(found.checked) == {"postgres", "vectors", "objects", "redis", "pinecone", "analytics"}
    wait_until(lambda: not reader.usage(ACME)[0], "every event is shipped")

    updated = latest(history, Op.UPDATE)
    plants: list[tuple[str, str, Callable[[], object]]] = [
        ("objects", updated.key, lambda: _plant_old_file(cell, updated)),
        ("redis", updated.key, lambda: _redis(cell).delete(f"t:{ACME}:preview:{_number(updated)}")),
        ("vectors", updated.key, lambda: _plant_no_embedding(cell, updated)),
        ("postgres", updated.key, lambda: _plant_old_row(cell, updated)),
    ]
    counted, session = latest(history, Op.COUNT), latest(history, Op.PUT_SESSION)
    deleted = latest(history, Op.DELETE)
    name, session_name = counted.key.removeprefix("counter:"), session.key.removeprefix("session:")
    plants += [
        ("redis", counted.key, lambda: _redis(cell).decr(f"t:{ACME}:counter:{name}")),
        ("redis", session.key, lambda: _redis(cell).delete(f"t:{ACME}:session:{session_name}")),
        ("postgres", deleted.key, lambda: _plant_deleted_row(cell, deleted)),
        ("pinecone", updated.key, lambda: _plant_no_record(cell, updated)),
        ("analytics", counted.key, lambda: _plant_no_event(cell, counted)),
    ]
    for store, key, plant in plants:
        before = {(lost.store, lost.key) for lost in verify(history, lambda _: reader).lost}
        plant()
        after = verify(history, lambda _: reader)
        assert {(lost.store, lost.key) for lost in after.lost} - before == {(store, key)}
        assert not after.clean
        assert {lost.tenant for lost in after.lost} == {ACME}
        assert not after.stale


def test_what_no_write_left_behind_is_reported(
    app: App, cell: CellSettings, reader: CellReader, tmp_path: Path, wait_until: Wait
) -> None:
    """A counter that counted twice, a session whose life was stretched, a file with other bytes."""
    with LoadProcess.start(settings(app.url), tmp_path / "history.jsonl") as load:
        wait_until(lambda: load.stats().requests >= 200, "200 requests", deadline_s=30)
        history = load.stop()
    counted, session = latest(history, Op.COUNT), latest(history, Op.PUT_SESSION)
    document = latest(history, Op.CREATE, Op.UPDATE)
    _redis(cell).incr(f"t:{ACME}:{counted.key}")
    _redis(cell).expire(f"t:{ACME}:{session.key}", 12 * 3600)
    with closing(s3_client(cell.objects)) as s3:
        body = body_of(ACME, document.label, document.version)[:-1]
        s3.put_object(Bucket=cell.objects.bucket, Key=file_key(ACME, _number(document)), Body=body)
    found = verify(history, lambda _: reader)
    assert found.lost == ()
    assert {(u.store, u.key) for u in found.unexplained} == {
        ("redis", counted.key),
        ("redis", session.key),
        ("objects", document.key),
    }


def test_a_planted_stale_read_is_found(
    app: App, reader: CellReader, tmp_path: Path, wait_until: Wait
) -> None:
    with LoadProcess.start(settings(app.url), tmp_path / "history.jsonl") as load:
        wait_until(lambda: load.stats().requests >= 600, "600 requests", deadline_s=30)
        history = load.stop()
    assert verify(history, lambda _: reader).clean
    served = dict.fromkeys(HOSTS, (Served(cell="blue", since=0.0),))
    assert check(history, served).clean
    writers = {(r.tenant, r.key): r.worker for r in history.requests if r.is_write}
    assert any(not r.is_write and r.worker != writers.get((r.tenant, r.key)) for r in history.requests)
    for op in (Op.GET, Op.FILE, Op.SEARCH, Op.GET_COUNTER, Op.GET_SESSION):
        place, read = quiet_read(history, op)
        planted = History([*history.requests[:place], replace(read, found=read.found - 1)])
        planted.requests += history.requests[place + 1 :]
        found = verify(planted, lambda _: reader)
        assert [stale.request.op for stale in found.stale] == [op]
        assert {finding.request.key for finding in check(planted, served).findings} == {read.key}
        assert found.lost == ()


def test_no_acknowledged_write_is_lost_when_the_app_is_killed_under_load(
    app: App, reader: CellReader, tmp_path: Path, wait_until: Wait
) -> None:
    with LoadProcess.start(settings(app.url, timeout_s=2), tmp_path / "history.jsonl") as load:
        wait_until(lambda: load.stats().writes_acked >= 100, "100 writes", deadline_s=30)
        app.kill()
        wait_until(lambda: load.stats().unknown >= 20, "failed requests", deadline_s=30)
        history = load.stop()
    found = verify(history, lambda _: reader)
    assert found.clean, (found.lost, found.stale, found.unexplained)
    assert history.counts().unknown >= 20


def test_requests_of_a_fenced_tenant_are_failed_requests_and_no_lost_writes(
    app: App, reader: CellReader, fencing: Fencing, tmp_path: Path, wait_until: Wait
) -> None:
    with LoadProcess.start(settings(app.url), tmp_path / "history.jsonl") as load:
        wait_until(lambda: load.stats().writes_acked >= 50, "50 writes", deadline_s=30)
        fencing.lower(ACME)
        wait_until(lambda: load.stats(ACME).refused >= 20, "refused requests", deadline_s=30)
        assert load.stats(GLOBEX).refused == 0
        fencing.lift(ACME)
        history = load.stop()
    assert verify(history, lambda _: reader).clean
    assert history.latency(tenant=ACME).failed >= 20


def test_a_paused_load_makes_no_requests(app: App, tmp_path: Path, wait_until: Wait) -> None:
    with LoadProcess.start(settings(app.url), tmp_path / "history.jsonl") as load:
        wait_until(lambda: load.stats().requests >= 50, "50 requests", deadline_s=30)
        load.pause()
        last = load.stats().requests

        def still() -> bool:
            nonlocal last
            before, last = last, load.stats().requests
            return before == last

        wait_until(still, "requests under way end")
        load.resume()
        wait_until(lambda: load.stats().requests > last + 20, "requests again")


def test_the_load_ends_in_order_when_whoever_started_it_is_killed(
    app: App, tmp_path: Path, wait_until: Wait
) -> None:
    history = tmp_path / "history.jsonl"
    script = (
        "import json, sys, time; from pathlib import Path\n"
        "from rag_app.load import LoadSettings; from rag_app.load_process import LoadProcess\n"
        "load = LoadProcess.start(LoadSettings(**json.loads(sys.argv[1])), Path(sys.argv[2]))\n"
        "print(load._process.pid, flush=True); time.sleep(60)\n"
    )
    chosen = {"gateway": app.url, "tenants": HOSTS, "run": 7, "rate": 150.0}
    parent = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(chosen), str(history)],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert int(parent.stdout.readline()) > 0
        wait_until(lambda: len(History.load(history).requests) >= 50, "50 requests", deadline_s=30)
        parent.send_signal(signal.SIGKILL)
        parent.wait(timeout=10)
    wait_until(lambda: History.load(history).complete, "the end of the history", deadline_s=20)


def test_a_load_that_was_killed_is_said_to_have_failed(app: App, tmp_path: Path, wait_until: Wait) -> None:
    with LoadProcess.start(settings(app.url), tmp_path / "history.jsonl") as load:
        wait_until(lambda: load.stats().requests >= 50, "50 requests", deadline_s=30)
        load._process.kill()
        with pytest.raises(LoadFailed):
            load.stop()
    assert not History.load(tmp_path / "history.jsonl").complete


def test_a_request_is_never_sent_twice() -> None:
    """Not even a PUT on a kept connection that the server closes, which HTTP clients like to repeat."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lengths = [x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")]
                await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
                seen.append(head.split(b" ")[0])
                if head.startswith(b"PUT"):
                    break
                body = json.dumps({"id": len(seen)}).encode()
                writer.write(b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    async def run() -> History:
        history = History()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            gateway = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            mix = {str(op): 1.0 for op in (Op.CREATE, Op.UPDATE)}
            generator = Generator(
                LoadSettings(gateway=gateway, tenants={ACME: ACME_HOST}, run=1, workers=1, rate=500, mix=mix),
                history.add,
            )
            running = asyncio.create_task(generator.run())
            async with asyncio.timeout(20):
                while len(history.requests) < 60:
                    await asyncio.sleep(0.01)
                generator.stop()
                await running
        return history

    history = asyncio.run(run())
    updates = [request for request in history.requests if request.op is Op.UPDATE]
    assert len(updates) > 5
    assert {request.outcome for request in updates} == {Outcome.UNKNOWN}
    assert seen.count(b"PUT") == len(updates)
    assert len({request.key for request in updates}) == len(updates), "a key in doubt was written again"


def test_many_threads_may_ask_at_once(app: App, tmp_path: Path) -> None:
    with LoadProcess.start(settings(app.url), tmp_path / "history.jsonl") as load:
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(load.stats().requests)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        assert len(answers) == 8


def _redis(cell: CellSettings) -> redis.Redis:
    return redis.Redis.from_url(cell.redis_url, single_connection_client=False)


def _number(request: Request) -> int:
    return int(request.key.removeprefix("document:"))


def _plant_old_file(cell: CellSettings, request: Request) -> None:
    with closing(s3_client(cell.objects)) as s3:
        body = body_of(ACME, request.label, request.version - 1)
        s3.put_object(Bucket=cell.objects.bucket, Key=file_key(ACME, _number(request)), Body=body)


def _plant_no_embedding(cell: CellSettings, request: Request) -> None:
    with psycopg.connect(cell.postgres_dsn) as conn:
        conn.execute(
            "delete from embeddings where tenant_id = %s and chunk_id ="
            " (select min(id) from chunks where tenant_id = %s and document_id = %s)",
            (ACME, ACME, _number(request)),
        )


def _plant_no_record(cell: CellSettings, request: Request) -> None:
    with Index(host=cell.vectors.host, api_key=cell.vectors.api_key) as index:
        index.delete(ids=[str(_number(request))], namespace=ACME)


def _plant_no_event(cell: CellSettings, request: Request) -> None:
    with closing(Warehouse(cell.warehouse)) as warehouse, warehouse.opened(write=True) as connection:
        connection.execute("delete from file.main.usage_events where id = ?", [request.event])


def _plant_old_row(cell: CellSettings, request: Request) -> None:
    title, body = (text(request) for text in (_old_title, _old_body))
    with psycopg.connect(cell.postgres_dsn) as conn:
        conn.execute(
            "update documents set title = %s, body = %s where tenant_id = %s and id = %s",
            (title, body, ACME, _number(request)),
        )


def _plant_deleted_row(cell: CellSettings, request: Request) -> None:
    """A document that comes back after it was deleted."""
    with psycopg.connect(cell.postgres_dsn) as conn:
        conn.execute(
            "insert into documents (tenant_id, id, title, body) values (%s, %s, %s, %s)",
            (ACME, _number(request), _old_title(request), _old_body(request)),
        )


def _old_title(request: Request) -> str:
    return title_of(request.label, request.version - 1)


def _old_body(request: Request) -> str:
    return body_of(ACME, request.label, request.version - 1)
