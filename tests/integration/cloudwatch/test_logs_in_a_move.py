"""The local estate with an app that logs to CloudWatch: a tenant's logs move with it, its metrics stay, and a plan and
the completion say so."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from rag_app.local import RagApp
from tenure.client import touch
from tenure.estate.config import load_estate
from tenure.estate.local import cells, down
from tenure.model.names import CellName, StoreName, TenantId
from tenure.stores.cloudwatch import LogsStore
from tenure.stores.cloudwatch.events import Stream
from tenure.stores.cloudwatch.hour_keys import key_of
from tenure.wiring import Stores, open_registry
from tests.estate import TestEstate

TENANT, LOGS = "logged", StoreName("logs")
MORE = """\
  logs:
    kind: cloudwatch_logs
    journal: postgres
    groups:
      /aws/api: {holds: personal, streams: "*"}
      /app/{tenant}: {holds: personal}
  metrics:
    kind: cloudwatch_metrics
    namespaces: {RagApp: {dimension: Tenant, holds: plain}}
"""


class LoggingApp(RagApp):
    """The sample app, with a catalogue that names logs and metrics as well."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._catalogue = folder / "catalogue.yaml"
        self._catalogue.write_text(super().catalogue.read_text(encoding="utf-8") + MORE, encoding="utf-8")

    @property
    def catalogue(self) -> Path:
        return self._catalogue


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[TestEstate]:
    folder = Path(tempfile.mkdtemp(prefix="tenure-cells-"))
    folder.chmod(0o755)
    app = LoggingApp(tmp_path)
    local = cells.start(folder, app, owner=True, durable=False)
    try:
        made = TestEstate(local=local, app=app)
        made.migrate_registry()
        yield made
    finally:
        local.running.close()
        down(folder, remove=True)


@pytest.fixture
def stores(estate: TestEstate) -> Iterator[Stores]:
    loaded = load_estate(estate.config)
    registry = open_registry(loaded)
    made = Stores(loaded, registry.mutex)
    yield made
    made.close()
    registry.close()


def logs_of(stores: Stores, cell: str) -> LogsStore:
    store = stores.store(CellName(cell), LOGS)
    assert isinstance(store, LogsStore)
    return store


def log(estate: TestEstate, store: LogsStore, stream: Stream, message: str) -> None:
    """As the app does: under a permit of the tenant."""
    at = round(time.time() * 1000)
    with (
        psycopg.connect(estate.local.cells[store.cell].dsn, autocommit=True) as connection,
        connection.transaction(),
    ):
        touch(connection, TENANT, LOGS, key_of(stream, at))
        store.groups.make(stream, retention_days=30)
        store.client.put_log_events(
            logGroupName=store.groups.full(stream.group),
            logStreamName=stream.name,
            logEvents=[{"timestamp": at, "message": message}],
        )


def messages(store: LogsStore) -> list[str]:
    return [event.message for stream in store.groups.of(TenantId(TENANT)) for event in store.events(stream)]


def moved(estate: TestEstate, *args: str) -> None:
    done = estate.command(*args, timeout_s=240)
    assert done.exit_code == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_logs_move_there_and_back_and_metrics_stay(estate: TestEstate, stores: Stores) -> None:
    estate.add_tenant(TENANT)
    blue, green = logs_of(stores, "blue"), logs_of(stores, "green")
    web = Stream(f"/app/{TENANT}", "web")
    for n in range(20):
        log(estate, blue, web, f"event {n}")
    blue.groups.make(Stream("/aws/api", "0a"), retention_days=7)
    plan = estate.command("migrate", TENANT, "--to", "green", "--plan", "--json")
    assert "metrics" in plan.stdout
    assert "15 months" in plan.stdout
    assert "shared_streams_stay" in plan.stdout
    moved(estate, "migrate", TENANT, "--to", "green")
    assert messages(green) == messages(blue) == [f"event {n}" for n in range(20)]
    assert green.retention(TenantId(TENANT)) == blue.retention(TenantId(TENANT))
    log(estate, green, web, "written in green")
    moved(estate, "rollback", TENANT)
    assert messages(blue) == [*(f"event {n}" for n in range(20)), "written in green"]
    log(estate, blue, web, "written in blue again")
    moved(estate, "migrate", TENANT, "--to", "green")
    moved(estate, "complete", TENANT, "--yes", TENANT)
    assert len(messages(green)) == 22
    assert messages(blue) == []
    assert estate.left_behind(TENANT) == []
