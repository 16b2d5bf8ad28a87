"""A local estate whose app's catalogue has analytics: each cell has its file, and a tenant's rows move between them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from rag_app.local import RagApp
from tenure.estate.config import Estate, load_estate
from tenure.estate.local import down
from tenure.estate.local.cell_plans import CellAccess
from tenure.estate.local.cells import start
from tenure.estate.local.spec import CommandServer
from tenure.model.names import CellName, StoreName, TenantId
from tenure.stores.contract import Fence
from tenure.wiring import Stores
from tests.contract.rigs.s3 import ProcessMutex

BLUE, GREEN, ANALYTICS = CellName("blue"), CellName("green"), StoreName("analytics")
ACME = TenantId("acme")
DEADLINE_S = 60.0
ENTRY = """
  analytics:
    kind: analytics
    journal: postgres
    tenant_column: tenant_id
    tables:
      main.usage:
        partition: {column: day}
        columns: {tenant_id: tenant, day: plain, what: plain}
"""


class AppWithAnalytics(RagApp):
    """The sample app, and a table in the cell's DuckDB file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._catalogue = folder / "catalogue.yaml"
        self._catalogue.write_text(super().catalogue.read_text() + ENTRY)

    @property
    def catalogue(self) -> Path:
        return self._catalogue

    def deploy(self, cell: CellAccess, folder: Path) -> CommandServer:
        with duckdb.connect(cell.analytics) as warehouse:
            warehouse.execute("create table main.usage (tenant_id text, day date, what text)")
            if cell.plan.name == BLUE:
                rows = "select 'acme', date '2026-01-01' + n::integer, 'row ' || n from range(40) t(n)"
                warehouse.execute(f"insert into main.usage {rows}")
        return super().deploy(cell, folder)


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    folder = Path(tempfile.mkdtemp(prefix="tenure-analytics-"))
    folder.chmod(0o755)  # the servers' account has to get in
    cells = start(folder / "estate", AppWithAnalytics(tmp_path), owner=True, durable=False)
    try:
        yield load_estate(cells.estate_file)
    finally:
        cells.running.close()
        down(folder / "estate", remove=True)
        folder.rmdir()


def test_a_tenants_analytics_move_between_the_cells_of_a_local_estate(estate: Estate) -> None:
    stores = Stores(estate, ProcessMutex())
    fence = Fence(tenant=ACME, epoch=1, token=1)
    try:
        assert ANALYTICS in stores.moving()
        assert stores.store(BLUE, ANALYTICS).capabilities.fenced_with == "postgres"
        file = Path(stores.store(BLUE, ANALYTICS).server)
        assert file == estate.root / "analytics" / "blue.duckdb"
        owner = (estate.root / "analytics").stat().st_uid
        assert file.stat().st_uid == owner
        assert owner != 0 or os.geteuid() != 0, "the app may not write there"
        copy = stores.copy("link", ANALYTICS, ACME, BLUE, GREEN)
        assert not [f for f in copy.preflight() if f.severity == "refusal"]
        postgres = stores.copy("link", StoreName("postgres"), ACME, BLUE, GREEN)
        postgres.target.fence(fence, expires_in_s=None, drain_s=5.0)
        postgres.start(fence)
        copy.start(fence)
        deadline = time.monotonic() + DEADLINE_S
        while not copy.progress().following:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert copy.compare().equal
        assert stores.store(GREEN, ANALYTICS).inventory(ACME).items == 40
        copy.detach()
        for each in (copy, postgres):
            each.stop(fence)
    finally:
        stores.close()
