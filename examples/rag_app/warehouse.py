"""What tenants used, in a cell's DuckDB file: made, added to and read.

DuckDB lets one process write, or several read. So the file is opened for a piece of work and closed again, and who
finds it taken tries again for a while: the app's shipper, Tenure and whoever looks into it take turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import duckdb

TABLE: Final = "main.usage_events"
WAIT_S: Final = 10.0
PAUSE_S: Final = 0.005
_CREATE: Final = """
create table if not exists file.main.usage_events (
    tenant_id varchar not null,
    id        varchar not null,
    happened  timestamp not null,
    kind      varchar not null,
    subject   varchar not null,
    units     integer not null
)
"""
_ADD: Final = """
insert into file.main.usage_events
select * from (
    select unnest(?::varchar[]) as tenant_id, unnest(?::varchar[]) as id, unnest(?::timestamp[]) as happened,
           unnest(?::varchar[]) as kind, unnest(?::varchar[]) as subject, unnest(?::integer[]) as units
) as shipped
where not exists (
    select 1 from file.main.usage_events there where there.tenant_id = shipped.tenant_id and there.id = shipped.id
)
"""
_EVENTS: Final = """
select kind, subject, units from file.main.usage_events where tenant_id = ? order by happened, id
"""
_COUNT: Final = "select id, count(*) from file.main.usage_events where tenant_id = ? group by id"


class Taken(Exception):
    """Another process keeps the file open for longer than one wants to wait."""


@dataclass(frozen=True, kw_only=True)
class UsageEvent:
    """One thing that a tenant did. `happened` is aware."""

    id: str
    happened: datetime
    kind: str
    subject: str
    units: int

    @property
    def partition(self) -> str:
        """What the catalogue divides the table by: the day, in UTC."""
        return self.happened.astimezone(UTC).strftime("%Y-%m-%d")


def journal_key(event: UsageEvent) -> str:
    """How a move knows of the change that this event is (`tenure.client.touch`)."""
    return f"{TABLE}/{event.partition}"


TAKEN = ("could not set lock", "conflicting lock", "already attached")
"""What DuckDB says of a file that another process has open, or another database of this process."""


class Warehouse:
    """The file of a cell. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hub = duckdb.connect(":memory:", config={"threads": 1})

    def close(self) -> None:
        self._hub.close()

    def create(self) -> None:
        """The file and its table; nothing happens if they are there."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self.opened(write=True, missing=True):
            self._hub.execute(_CREATE)

    @contextmanager
    def opened(
        self, *, write: bool = False, wait_s: float = WAIT_S, missing: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Have the file open, as `file`, for the block. Raises `Taken`, and `FileNotFoundError` if it is not there
        and may not be `missing`."""
        if not missing and not self._path.exists():
            raise FileNotFoundError(self._path)
        self._attach("read_write" if write else "read_only", time.monotonic() + wait_s)
        try:
            yield self._hub
        finally:
            self._hub.execute("detach file")

    def _attach(self, mode: str, deadline: float) -> None:
        path = str(self._path).replace("'", "''")
        while True:
            try:
                self._hub.execute(f"attach '{path}' as file ({mode})")
            except duckdb.Error as error:
                if not any(sign in str(error).lower() for sign in TAKEN):
                    raise
                if time.monotonic() > deadline:
                    raise Taken(str(self._path)) from error
            else:
                return
            time.sleep(PAUSE_S)

    def add(self, tenant: str, events: Sequence[UsageEvent]) -> None:
        """Add those that are not there yet, in one transaction. The file is open for writing.

        When it returns they are in the file itself, and not only in its log: DuckDB removes a log after it has let go
        of the file, so the process that had it open before may remove this one's.
        """
        self._hub.execute(
            _ADD,
            [
                [tenant] * len(events),
                [event.id for event in events],
                [event.happened.astimezone(UTC).replace(tzinfo=None) for event in events],
                [event.kind for event in events],
                [event.subject for event in events],
                [event.units for event in events],
            ],
        )
        self._hub.execute("checkpoint file")

    def events(self, tenant: str) -> list[tuple[str, str, int]]:
        """Kind, subject and units of what the tenant did, the oldest first. The file is open."""
        return list(self._hub.execute(_EVENTS, [tenant]).fetchall())

    def counts(self, tenant: str) -> dict[str, int]:
        """How often each event of the tenant is there. The file is open."""
        return dict(self._hub.execute(_COUNT, [tenant]).fetchall())
