"""Scans in the control database: what was asked for, how far each store is, and what was found up to there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from tenure.errors import TenantLocked, UnknownName
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Found, Place, PlaceKind, Skipped
from tenure.registry.database import Database, DictRow, dict_row


@dataclass(frozen=True, kw_only=True)
class ScanPart:
    """One store of one cell. `state` is pending, running (also: left behind by a process that died), done or failed,
    and `problem` says why it failed."""

    cell: CellName
    store: StoreName
    state: str = "pending"
    cursor: str | None = None
    items: int = 0
    size_bytes: int = 0
    items_total: int | None = None
    bytes_total: int | None = None
    found: tuple[Found, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scan:
    """`request` is what was asked for, without any identifier of a person."""

    id: str
    actor: str
    request: Mapping[str, Any]
    started_at: datetime
    finished_at: datetime | None
    parts: tuple[ScanPart, ...]


class Scans:
    """Keeps scans. One process at a time works on one (`hold`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self, request: Mapping[str, Any], where: Sequence[tuple[CellName, StoreName]], *, actor: str
    ) -> Scan:
        """Note a new scan of these stores, none of which has begun."""
        scan = f"s-{secrets.token_hex(5)}"
        with self._database.transaction() as connection:
            connection.execute(
                "insert into registry.scans (id, actor, request) values (%s, %s, %s)",
                (scan, actor, Jsonb(dict(request))),
            )
            with connection.cursor() as cursor:
                cursor.executemany(
                    "insert into registry.scan_parts (scan, cell, store) values (%s, %s, %s)",
                    [(scan, cell, store) for cell, store in where],
                )
        return self.get(scan)

    def get(self, scan: str) -> Scan:
        """The scan of that id. Raises `UnknownName`."""
        with (
            self._database.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            row = cursor.execute("select * from registry.scans where id = %s", (scan,)).fetchone()
            if row is None:
                raise UnknownName(
                    f"there is no scan {scan!r:.60}", hint="`tenure catalogue scan` says its id"
                )
            parts = cursor.execute(
                "select * from registry.scan_parts where scan = %s order by cell, store", (scan,)
            ).fetchall()
        return Scan(
            id=row["id"],
            actor=row["actor"],
            request=row["request"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            parts=tuple(map(_part, parts)),
        )

    def save(self, scan: str, part: ScanPart) -> None:
        """Keep how far a store is, with everything found up to there. Idempotent."""
        with self._database.connection() as connection:
            connection.execute(
                """
                update registry.scan_parts set state = %(state)s, cursor = %(cursor)s, items = %(items)s,
                    size_bytes = %(size_bytes)s, items_total = %(items_total)s, bytes_total = %(bytes_total)s,
                    found = %(found)s, skipped = %(skipped)s, problem = %(problem)s, updated_at = clock_timestamp()
                where scan = %(scan)s and cell = %(cell)s and store = %(store)s
                """,
                {
                    **{name: getattr(part, name) for name in part.__dataclass_fields__},
                    "scan": scan,
                    "found": Jsonb([asdict(f) for f in part.found], dumps=_dumps),
                    "skipped": Jsonb([asdict(s) for s in part.skipped], dumps=_dumps),
                },
            )

    def finish(self, scan: str) -> None:
        """Every store is done. Idempotent."""
        with self._database.connection() as connection:
            connection.execute(
                "update registry.scans set finished_at = clock_timestamp() where id = %s and finished_at is null",
                (scan,),
            )

    @contextmanager
    def hold(self, scan: str) -> Iterator[None]:
        """Keep other processes off the scan until the end of the block, or of this process. Raises `TenantLocked`."""
        with self._database.dedicated() as connection:
            row = connection.execute(
                "select pg_try_advisory_lock(hashtextextended('tenure.scan.' || %s, 0))", (scan,)
            ).fetchone()
            if row is None or not row[0]:
                raise TenantLocked(f"another process works on the scan {scan}", hint="wait for it, or end it")
            yield


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


def _part(row: DictRow) -> ScanPart:
    return ScanPart(
        cell=CellName(row["cell"]),
        store=StoreName(row["store"]),
        state=row["state"],
        cursor=row["cursor"],
        items=row["items"],
        size_bytes=row["size_bytes"],
        items_total=row["items_total"],
        bytes_total=row["bytes_total"],
        found=tuple(map(_found, row["found"])),
        skipped=tuple(map(_skipped, row["skipped"])),
        problem=row["problem"],
    )


def _place(its: Mapping[str, Any]) -> Place:
    return Place(kind=PlaceKind(its["kind"]), name=its["name"])


def _found(its: Mapping[str, Any]) -> Found:
    return Found(
        tenant=TenantId(its["tenant"]),
        label=its["label"],
        place=_place(its["place"]),
        coverage=Coverage(its["coverage"]),
        items=its["items"],
        examples=tuple(its["examples"]),
        encodings=tuple(its["encodings"]),
        entry=its["entry"],
    )


def _skipped(its: Mapping[str, Any]) -> Skipped:
    return Skipped(
        place=_place(its["place"]), reason=its["reason"], items=its["items"], size_bytes=its["size_bytes"]
    )
