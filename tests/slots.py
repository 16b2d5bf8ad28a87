"""How many replication slots of links a server has, looked at again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import scalar_row

from tenure.model.capacity import Resource, Scope, What

SLOTS_NOW = "select count(*)::int from pg_replication_slots where slot_name ~ '^(tenure|pg)_'"


def slots_of(dsn: str) -> Resource:
    """What `capacity` calls the slots of the server of this DSN."""
    given = conninfo_to_dict(dsn)
    return Resource(scope=Scope.SERVER, name=f"{given['host']}:{given['port']}", what=What.SLOTS)


def settled(dsn: str, *, for_s: float = 2.0, deadline_s: float = 60.0) -> None:
    """Wait until the server has had the same slots for a while: those of earlier tests may still be going."""
    with psycopg.connect(dsn, autocommit=True, row_factory=scalar_row) as connection:
        begun = since = time.monotonic()
        before = connection.execute(SLOTS_NOW).fetchall()
        while time.monotonic() < since + for_s:
            time.sleep(0.1)
            now = connection.execute(SLOTS_NOW).fetchall()
            if now != before:
                before, since = now, time.monotonic()
            assert since < begun + deadline_s, f"the slots of the server never settle: {now}"


@contextmanager
def sampled(dsn: str) -> Iterator[list[int]]:
    """How many slots of links the server has, again and again while the block runs; the first one from before it."""
    with psycopg.connect(dsn, autocommit=True, row_factory=scalar_row) as connection:
        seen: list[int] = connection.execute(SLOTS_NOW).fetchall()
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.02):
                seen.extend(connection.execute(SLOTS_NOW).fetchall())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            ended.set()
            thread.join()
