"""The app's warehouse keeps what it was given, whatever happens to the file afterwards."""

from __future__ import annotations

import shutil
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from rag_app.warehouse import UsageEvent, Warehouse

EVENT = UsageEvent(
    id="e-1", happened=datetime(2025, 1, 18, tzinfo=UTC), kind="document", subject="7", units=1
)


def test_added_events_are_in_the_file_before_it_is_closed(tmp_path: Path) -> None:
    """The shipper lets go of them then: they must not lie only in a log that the closing still has to work off."""
    path, copy = tmp_path / "usage.duckdb", tmp_path / "copy.duckdb"
    with closing(Warehouse(path)) as warehouse:
        warehouse.create()
        with warehouse.opened(write=True):
            warehouse.add("tenant_a", [EVENT])
            shutil.copyfile(path, copy)
    with closing(Warehouse(copy)) as found, found.opened():
        assert found.counts("tenant_a") == {"e-1": 1}
