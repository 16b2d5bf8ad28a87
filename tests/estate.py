"""A whole local estate for the tests: three cells with the sample app, the gateway, and small tenants in `blue`.

One of four stores per test session, and one of all stores for the tests that need them. Each test takes a tenant of
its own, so that tests do not meet.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import psycopg
import redis
import yaml
from pinecone import Index

from rag_app.faults import Fault, write_faults
from rag_app.load import CORE_MIX, DEFAULT_MIX, LoadSettings
from rag_app.load_process import LoadProcess
from rag_app.local import ALL, CORE, RagApp, settings_of
from rag_app.log_groups import STREAM, LogEvent, group_of, logs_client, put
from rag_app.reader import CellReader
from rag_app.seed import Sizes, seed
from rag_app.settings import CellSettings, LogSettings, TenantAccess, VectorSettings, faults_file
from rag_app.vectors import record_of
from rag_app.verify import LostWrites, verify
from rag_app.warehouse import Warehouse
from tenure.estate.config import load_estate
from tenure.estate.local import cells, down
from tenure.estate.local.cell_plans import CELLS
from tenure.estate.local.cells import LocalCells
from tenure.model.names import CellName, TenantId
from tenure.service import Service
from tenure.stores.postgres.names import tenant_prefix
from tenure.stores.s3 import S3Store
from tenure.wiring import Stores, open_registry, open_service
from tests import warm

_runs = itertools.count(1)
NEIGHBOUR = "acme-neighbour"
SIZES = Sizes(documents=60, chunks_per_document=2, files=15, keys=40, usage_events=50, log_events=20)


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """What one run of the real command line gave."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.stdout)
        return value


def _result(done: subprocess.CompletedProcess[str]) -> CommandResult:
    return CommandResult(exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr)


class Sleeper:
    """A process that has stopped itself and is woken up later."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.exit_code: int | None = None

    def wait_until_stopped(self, *, deadline_s: float = 60.0) -> None:
        deadline = time.monotonic() + deadline_s
        stat = Path(f"/proc/{self._process.pid}/stat")
        while stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "T":
            assert self._process.poll() is None, "the process ended before it reached the point"
            assert time.monotonic() < deadline, "the point was not reached"
            time.sleep(0.05)

    def wake(self) -> None:
        """Let it go on, and wait for its end."""
        self._process.send_signal(signal.SIGCONT)
        self.exit_code = self._process.wait(timeout=120)


@dataclass(frozen=True, kw_only=True)
class TestEstate:
    """The running estate and what tests do with it."""

    __test__ = False

    local: LocalCells
    app: RagApp

    @property
    def config(self) -> Path:
        return self.local.estate_file

    def migrate_registry(self) -> None:
        registry = open_registry(load_estate(self.config))
        try:
            registry.migrate()
        finally:
            registry.close()

    @contextmanager
    def service(self) -> Iterator[Service]:
        service = open_service(self.config)
        try:
            yield service
        finally:
            service.close()

    def command(
        self,
        *args: str,
        timeout_s: float = 120.0,
        config: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """Run `tenure` in a process of its own; `env` is added to this one's environment."""
        return _result(
            warm.run(
                "tenure.cli.main",
                ["--config", str(config or self.config), "--quiet", *args],
                timeout_s=timeout_s,
                env={"TENURE_CONFIG": str(self.config), **(env or {})},
            )
        )

    def killed_at(
        self, point: str, *args: str, timeout_s: float = 120.0, config: Path | None = None
    ) -> CommandResult:
        """Run a command in a process that kills itself with SIGKILL when it reaches `point`."""
        given = [str(config or self.config), point, *args]
        return _result(warm.run("tests.faults.killed", given, timeout_s=timeout_s))

    @contextmanager
    def stopped_at(self, point: str, *args: str, config: Path | None = None) -> Iterator[Sleeper]:
        """Run a command in a process that stops itself with SIGSTOP when it reaches `point`; it ends with the block."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killed", str(config or self.config), f"{point}:stop", *args],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
        )
        sleeper = Sleeper(process)
        try:
            sleeper.wait_until_stopped()
            yield sleeper
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def go_wrong(self, cell: str, faults: Mapping[str, Fault]) -> None:
        """Let the app of a cell do wrong by these tenants from now on; by nobody with an empty mapping."""
        write_faults(faults_file(self.local.running.folder / "etc" / "app", cell), faults)

    def end_soak(self, tenant: str, *, ago: timedelta) -> None:
        """Have the tenant's soak end that long ago."""
        registry = open_registry(load_estate(self.config))
        try:
            link = registry.links.active(TenantId(tenant))
            assert link is not None
            registry.links.set_soak(link.name, datetime.now(UTC) - ago)
        finally:
            registry.close()

    def wait_for_lease(self, operation: str, *, deadline_s: float = 40.0) -> None:
        """Wait until the lease of the operation's running step has run out."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            with self.service() as service:
                _, steps = service.operation(operation)
            if all(step.lease_left_s <= 0 for step in steps if str(step.state) == "running"):
                return
            time.sleep(0.5)
        raise AssertionError(f"the lease of {operation} did not run out in {deadline_s} s")

    def add_tenant(
        self, tenant: str, *, cell: str = "blue", residency: str | None = None, tier: str = "gold"
    ) -> None:
        """Register, deploy and seed a small tenant."""
        access = TenantAccess(host=f"{tenant}.rag.localhost", redis_password=f"pw-{tenant}")
        self.app.tenants[tenant] = access
        for cell_access in self.local.cells.values():
            self.app.deploy(cell_access, self.local.running.folder / "etc" / "app")
        with self.service() as service:
            service.add_tenant(tenant, cell=cell, tier=tier, host=access.host, residency=residency)
        seed(settings_of(self.local.cells[CellName(cell)]), [tenant], sizes=SIZES, shares={tenant: 1.0})

    @contextmanager
    def load(
        self, *tenants: str, folder: Path, rate: float = 40.0, mix: Mapping[str, float] | None = None
    ) -> Iterator[LoadProcess]:
        """`mix` is by default that of all requests which the app's stores can answer."""
        settings = LoadSettings(
            gateway=self.local.gateway,
            tenants={tenant: self.app.tenants[tenant].host for tenant in tenants},
            rate=rate,
            workers=3,
            mix=dict(mix or (DEFAULT_MIX if self.app.catalogue == ALL else CORE_MIX)),
            run=next(_runs),
        )
        with LoadProcess.start(settings, folder / "load.jsonl", folder / "load.log") as load:
            yield load

    def lost(self, load: LoadProcess) -> LostWrites:
        """Stop the load and read every acknowledged write from the cell that serves its tenant."""
        history = load.stop()
        with ExitStack() as stack:
            readers = {
                cell: stack.enter_context(CellReader(settings_of(access)))
                for cell, access in self.local.cells.items()
            }
            with self.service() as service:
                placed = {t.id: p.cell for t, p in service.tenants()}
            return verify(history, lambda tenant: readers[placed[TenantId(tenant)]])

    def digests(
        self, tenant: str, cells: Collection[str] | None = None
    ) -> dict[tuple[str, str, str], tuple[int, str]]:
        """Items and digest of every collection of a tenant in these cells (all by default), in the stores that take
        part in moves."""
        estate = load_estate(self.config)
        registry = open_registry(estate)
        stores = Stores(estate, registry.mutex)
        try:
            return {
                (cell, name, collection): (seen.items, seen.digest)
                for cell in self.local.cells
                if cells is None or cell in cells
                for name in stores.moving()
                for collection, seen in stores.store(cell, name)
                .inventory(TenantId(tenant))
                .collections.items()
            }
        finally:
            stores.close()
            registry.close()

    def damage(self, tenant: str, cell: str, how: str) -> set[tuple[str, str, str]]:
        """Make one item of each store of a cell missing, extra or mismatched, past the fence; return what to expect."""
        access = self.local.cells[CellName(cell)]
        s3 = boto3.client(
            "s3",
            endpoint_url=access.endpoint,
            aws_access_key_id=access.access_key,
            aws_secret_access_key=access.secret_key,
            region_name=access.plan.region,
        )
        prefix = f"tenants/{tenant}/files/"
        first = s3.list_objects_v2(Bucket=access.plan.bucket, Prefix=prefix)["Contents"][0]["Key"]
        one_chunk = "where tenant_id = %(t)s and id = (select min(id) from chunks where tenant_id = %(t)s)"
        last = "(select max(chunk_id) from embeddings where tenant_id = %(t)s)"
        one_vector = f"where tenant_id = %(t)s and chunk_id = {last}"
        statements = {
            "missing": (f"delete from chunks {one_chunk}", f"delete from embeddings {one_vector}"),
            "extra": (
                "insert into chunks (tenant_id, id, document_id, seq, text) "
                f"select tenant_id, 999999999, document_id, 99, text from chunks {one_chunk}",
                "insert into embeddings (tenant_id, chunk_id, embedding) "
                f"select tenant_id, 999999999, embedding from embeddings {one_vector}",
            ),
            "mismatched": (
                f"update chunks set text = text || '!' {one_chunk}",
                f"update embeddings set embedding = array_fill(0.5, array[32])::vector {one_vector}",
            ),
        }[how]
        for statement in statements:
            assert _past_the_fence(access.dsn, statement, tenant) == 1
        with redis.Redis.from_url(access.redis_url, decode_responses=True) as client:
            keys = sorted(client.scan_iter(match=f"t:{tenant}:counter:*"))
            if how == "missing":
                client.delete(keys[0])
            else:
                client.set(keys[0] if how == "mismatched" else f"t:{tenant}:counter:extra", "-5")
        if how == "missing":
            s3.delete_object(Bucket=access.plan.bucket, Key=first)
        else:
            s3.put_object(
                Bucket=access.plan.bucket,
                Key=first if how == "mismatched" else f"{prefix}extra.txt",
                Body=b"other",
            )
        settings = settings_of(access)
        return {
            ("postgres", "public.chunks", how),
            ("vectors", "public.embeddings", how),
            ("redis", "counter:*", how),
            ("objects", "files/*", how),
            *_damage_beside(settings, tenant, how),
        }

    def devastate(self, tenant: str, cell: str) -> int:
        """Delete all chunks of a tenant in a cell, past the fence; return how many there were."""
        access = self.local.cells[CellName(cell)]
        return _past_the_fence(access.dsn, "delete from chunks where tenant_id = %(t)s", tenant)

    def finish(self, tenant: str, cell: str) -> None:
        """The tenant is served by `cell`; end its link, so that nothing is left."""
        shown = self.command("tenant", "show", tenant, "--json").json
        assert shown["cell"] == cell, shown
        if shown["link"] is not None:
            done = self.command("complete", tenant, "--yes", tenant)
            assert done.exit_code == 0, done.stderr
        left = self.digests(tenant, [other for other in self.local.cells if other != cell])
        assert {place: items for place, (items, _) in left.items() if items} == {}

    def items_in(self, tenant: str, cell: str) -> int:
        return sum(items for items, _ in self.digests(tenant, [cell]).values())

    def left_behind(self, tenant: str) -> list[str]:
        """Everything of Tenure that is still in the stores or at the gateway on account of this tenant.

        A cell that a completed move has left keeps refusing the tenant: that fence is meant to stay.
        """
        with self.service() as service:
            serves = service.status(tenant).placement.cell
            ended = [o for o in service.operations(tenant=tenant, limit=100) if o.kind == "complete"]
        retired = {str((o.result or {}).get("erased_from")) for o in ended} - {serves}
        found: list[str] = []
        for cell, access in self.local.cells.items():
            here = [*_in_postgres(access.dsn, tenant), *_in_redis(access.redis_url, tenant)]
            meant = (f"fence row {tenant}", f"key tenure:fence:{tenant}", f"ACL ['%R~t:{tenant}:*']")
            found += [f"{cell}: {what}" for what in here if not (cell in retired and what in meant)]
        found += self._in_buckets(tenant)
        with self.service() as service:
            route = service.observed_route(tenant)
            status = service.status(tenant)
        if route.gated or route.held or route.waiting:
            found.append(f"gateway: {route}")
        if route.cell != status.placement.cell:
            found.append(f"gateway sends to {route.cell}, placed in {status.placement.cell}")
        if status.link is not None:
            found.append(f"registry: link {status.link.name}")
        return found

    def _in_buckets(self, tenant: str) -> list[str]:
        estate = load_estate(self.config)
        registry = open_registry(estate)
        stores = Stores(estate, registry.mutex)
        try:
            found = []
            for cell in self.local.cells:
                for name in stores.names():
                    store = stores.store(cell, name)
                    if isinstance(store, S3Store):
                        state = store.fence_state(TenantId(tenant))
                        if not state.writable or state.token:
                            found.append(f"{cell}: fence {state} in {name}")
            return found
        finally:
            stores.close()
            registry.close()


@contextmanager
def running_estate(catalogue: Path = CORE) -> Iterator[TestEstate]:
    """A whole local estate for the block: three cells with the sample app, the gateway and the control database.

    The app uses the stores of `catalogue`: `CORE`, which most tests can do with, or `ALL`.
    """
    folder = Path(tempfile.mkdtemp(prefix="tenure-cells-"))
    folder.chmod(0o755)
    app = RagApp(catalogue=catalogue)
    local = cells.start(folder, app, owner=True, durable=False)
    try:
        _without_schedules(local.estate_file)
        estate = TestEstate(local=local, app=app)
        estate.migrate_registry()
        yield estate
    finally:
        local.running.close()
        down(folder, remove=True)


def _without_schedules(config: Path) -> None:
    """Backups are made when a test asks for them: a scheduler would back up every tenant that other tests have left."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    for tier in document["tiers"].values():
        tier["backup"].pop("every")
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def _damage_beside(settings: CellSettings, tenant: str, how: str) -> Iterator[tuple[str, str, str]]:
    if settings.vectors:
        _damage_records(settings.vectors, tenant, how)
        yield ("pinecone", "records", how)
    if settings.warehouse:
        _damage_usage(settings.warehouse, tenant, how)
        yield ("analytics", "main.usage_events", how)
    if settings.logs:
        _damage_logs(settings.logs, tenant, how)
        yield ("logs", "/rag_app/{tenant}", how)


def _damage_records(vectors: VectorSettings, tenant: str, how: str) -> None:
    with Index(host=vectors.host, api_key=vectors.api_key) as index:
        first = next(str(record.id) for page in index.list(namespace=tenant) for record in page.vectors)
        if how == "missing":
            index.delete(ids=[first], namespace=tenant)
        else:
            other = record_of(int(first) if how == "mismatched" else 999_999_999, "other", "other words")
            index.upsert(vectors=[other], namespace=tenant, show_progress=False)


def _damage_usage(warehouse_file: Path, tenant: str, how: str) -> None:
    """A whole day's rows are gone, or a day is there that should not be, or a row differs."""
    last = "(select max(happened) from file.main.usage_events where tenant_id = $tenant)"
    statement = {
        "missing": f"delete from {{table}} where tenant_id = $tenant and happened::date = {last}::date",
        "extra": "insert into {table} values ($tenant, 'extra', '2020-02-02', 'counted', 'x', 1)",
        "mismatched": f"update {{table}} set units = -1 where tenant_id = $tenant and happened = {last}",
    }[how]
    with closing(Warehouse(warehouse_file)) as warehouse, warehouse.opened(write=True) as connection:
        connection.execute(statement.format(table="file.main.usage_events"), {"tenant": tenant})


def _damage_logs(settings: LogSettings, tenant: str, how: str) -> None:
    """The stream is gone, or it has an event that it should not have: in an hour of its own, or among others."""
    group = settings.group_prefix + group_of(tenant)
    with closing(logs_client(settings)) as logs:
        if how == "missing":
            logs.delete_log_stream(logGroupName=group, logStreamName=STREAM)
            return
        events = logs.get_log_events(logGroupName=group, logStreamName=STREAM, startFromHead=True)["events"]
        oldest_ms = events[0]["timestamp"] - (24 * 3_600_000 if how == "extra" else 0)
        put(logs, group, STREAM, [LogEvent(time_ms=oldest_ms, message="other")])


def _past_the_fence(dsn: str, statement: str, tenant: str) -> int:
    """Run a statement in a session with an origin, which the fence lets through: Tenure itself mends that way."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("select pg_replication_origin_create('damage')")
        conn.execute("select pg_replication_origin_session_setup('damage')")
        rows = conn.execute(statement.encode(), {"t": tenant}).rowcount
        conn.execute("select pg_replication_origin_session_reset()")
        conn.execute("select pg_replication_origin_drop('damage')")
        return rows


def _in_postgres(dsn: str, tenant: str) -> list[str]:
    """What PostgreSQL still has of the tenant's link. Its names all begin with the tenant's prefix."""
    queries: Sequence[tuple[str, str]] = (
        ("slot", "select slot_name from pg_replication_slots where starts_with(slot_name, %(prefix)s)"),
        ("subscription", "select subname from pg_subscription where starts_with(subname, %(prefix)s)"),
        ("publication", "select pubname from pg_publication where starts_with(pubname, %(prefix)s)"),
        (
            "trigger",
            "select tgname || ' on ' || tgrelid::regclass from pg_trigger "
            "where not tgisinternal and starts_with(tgname, %(prefix)s)",
        ),
        ("function", "select proname from pg_proc where starts_with(proname, %(prefix)s)"),
        ("origin", "select roname from pg_replication_origin where starts_with(roname, %(prefix)s)"),
        ("fence row", "select tenant_id from tenure.fence where tenant_id = %(tenant)s"),
        ("touched row", "select relation from tenure.touched where tenant_id = %(tenant)s"),
        ("logged row", "select relation from tenure.touched_log where tenant_id = %(tenant)s"),
        ("gate", "select tenure.gate(%(tenant)s)::text where tenure.gate(%(tenant)s) is not null"),
        ("touched in bulk", "select relation from tenure.touched_in_bulk where tenant_id = %(tenant)s"),
        ("journal row", "select key from tenure.journal where tenant_id = %(tenant)s"),
        ("copier", "select store from tenure.copier where tenant_id = %(tenant)s"),
        ("journal reader", "select store from tenure.journal_reader where tenant_id = %(tenant)s"),
        ("mark", "select n from tenure.mark where tenant_id = %(tenant)s"),
        ("copier", "select store || ' of ' || link from tenure.copier where tenant_id = %(tenant)s"),
    )
    given = {"tenant": tenant, "prefix": tenant_prefix(TenantId(tenant))}
    with psycopg.connect(dsn, autocommit=True) as conn:
        return [
            f"{what} {row[0]}"
            for what, query in queries
            for row in conn.execute(query.encode(), given).fetchall()
        ]


def _in_redis(url: str, tenant: str) -> list[str]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        keys = [f"key {key}" for key in client.scan_iter(match="*tenure*") if tenant in key.split(":")]
        user: Any = client.acl_getuser(f"app-{tenant}")
        patterns = str(user.get("keys") if user else "")
        return keys + ([f"ACL {patterns}"] if "%R~" in patterns else [])


CELL_NAMES = tuple(cell.name for cell in CELLS)
