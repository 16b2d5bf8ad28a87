"""What leaves the app in the background, a little after the requests it is about: what tenants used, to the cell's
warehouse, what was logged, to CloudWatch Logs, and what was counted, to CloudWatch's metrics.

The first two write for a tenant under its permit only, like every request, so that a move's fence holds them as well.
What a fenced tenant used stays in the outbox, which moves with the tenant's other tables: the cell that serves it next
ships it. What was logged of it waits in memory, and is dropped after ten minutes. Metrics stay where they were
reported.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from rag_app.log_groups import STREAM, LogEvent, group_of, journal_keys, logs_client, metrics_client, put
from rag_app.metrics import Metrics
from rag_app.settings import AppConfig, LogSettings
from rag_app.warehouse import Taken, UsageEvent, Warehouse, journal_key
from tenure.client import Fenced, permit, touch, translating

logger = logging.getLogger("rag_app")

ANALYTICS_STORE: Final = "analytics"
LOGS_STORE: Final = "logs"
USAGE_EVERY_S: Final = 2.0
LOGS_EVERY_S: Final = 3.0
METRICS_EVERY_S: Final = 15.0
METRICS_NAMESPACE: Final = "RagApp"
USAGE_BATCH: Final = 1_000
LOGS_BATCH: Final = 2_000
LOGS_KEPT: Final = 20_000
"""The most events that wait for one tenant."""
LOGS_KEPT_S: Final = 600.0
FILE_WAIT_S: Final = 0.5
_FAILURES: Final = (psycopg.Error, duckdb.Error, OSError, Taken, ClientError, BotoCoreError)
"""What passes: the next round tries again."""
_TENANTS: Final = "select distinct tenant_id from usage_outbox"
_WAITING: Final = """
select id::text, happened, kind, subject, units from usage_outbox
where tenant_id = %s order by happened limit %s for update
"""
_SHIPPED: Final = "delete from usage_outbox where tenant_id = %s and id = any(%s::uuid[])"


class Background:
    """A thread that does a round every so often. `with background: ...` runs it; the end of the block does one more."""

    def __init__(self, name: str, every_s: float) -> None:
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    @abstractmethod
    def round(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Called at the end, in the thread."""

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(self._every_s)
            try:
                self.round()
            except _FAILURES as error:
                logger.warning("%s: %s", self._thread.name, error)
        self.close()


class _Shipper(Background):
    """With a connection of its own."""

    def __init__(self, config: AppConfig, name: str, every_s: float) -> None:
        super().__init__(name, every_s)
        self._dsn = config.postgres_dsn
        self._conn: psycopg.Connection[Any] | None = None

    @abstractmethod
    def ship(self, conn: psycopg.Connection[Any]) -> None:
        """Bring away what waits. The connection commits every statement outside of a transaction."""

    def round(self) -> None:
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(self._dsn, autocommit=True, connect_timeout=5)
        self.ship(self._conn)

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()


class UsageShipper(_Shipper):
    """Brings events from the outbox into the warehouse: each once, however often this is interrupted."""

    def __init__(self, config: AppConfig, warehouse: Path) -> None:
        super().__init__(config, "ship-usage", USAGE_EVERY_S)
        self._warehouse = Warehouse(warehouse)

    def close(self) -> None:
        super().close()
        self._warehouse.close()

    def ship(self, conn: psycopg.Connection[Any]) -> None:
        """Has the file open before it takes a permit, so that no fence waits for others to close the file."""
        tenants = [tenant for (tenant,) in conn.execute(_TENANTS) if _may_write(conn, tenant)]
        if not tenants:
            return
        with self._warehouse.opened(write=True, wait_s=FILE_WAIT_S):
            for tenant in tenants:
                with suppress(Fenced):
                    self._ship(conn, tenant)

    def _ship(self, conn: psycopg.Connection[Any], tenant: str) -> None:
        with translating(tenant), conn.transaction():
            permit(conn, tenant)
            rows = conn.execute(_WAITING, (tenant, USAGE_BATCH)).fetchall()
            names = ("id", "happened", "kind", "subject", "units")
            events = [UsageEvent(**dict(zip(names, row, strict=True))) for row in rows]
            for key in sorted({journal_key(event) for event in events}):
                touch(conn, tenant, ANALYTICS_STORE, key)
            if events:
                self._warehouse.add(tenant, events)
                conn.execute(_SHIPPED, (tenant, [event.id for event in events]))


def _may_write(conn: psycopg.Connection[Any], tenant: str) -> bool:
    """Whether the tenant is not fenced now."""
    try:
        permit(conn, tenant)
    except Fenced:
        return False
    return True


class LogShipper(_Shipper):
    """Brings log events to the tenant's own group, in batches, never in a request's way."""

    def __init__(self, config: AppConfig, logs: LogSettings) -> None:
        super().__init__(config, "ship-logs", LOGS_EVERY_S)
        self._client = logs_client(logs)
        self._prefix = logs.group_prefix
        self._stream = STREAM
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[LogEvent]] = {}
        self.dropped = 0

    def close(self) -> None:
        super().close()
        self._client.close()

    def log(self, tenant: str, fields: Mapping[str, Any]) -> None:
        """Keep an event for the next round. The oldest one goes if too many wait."""
        event = LogEvent(time_ms=int(time.time() * 1000), message=json.dumps(fields, separators=(",", ":")))
        with self._lock:
            waiting = self._waiting.setdefault(tenant, deque(maxlen=LOGS_KEPT))
            self.dropped += len(waiting) == LOGS_KEPT
            waiting.append(event)

    def ship(self, conn: psycopg.Connection[Any]) -> None:
        with self._lock:
            tenants = [tenant for tenant, waiting in self._waiting.items() if waiting]
        for tenant in tenants:
            with self._lock:
                waiting = self._waiting[tenant]
                batch = [waiting.popleft() for _ in range(min(len(waiting), LOGS_BATCH))]
            try:
                self._ship(conn, tenant, batch)
            except Fenced:
                self._give_back(tenant, batch, kept_s=LOGS_KEPT_S)
            except _FAILURES:
                self._give_back(tenant, batch, kept_s=LOGS_KEPT_S)
                raise

    def _ship(self, conn: psycopg.Connection[Any], tenant: str, events: Sequence[LogEvent]) -> None:
        with translating(tenant), conn.transaction():
            for key in journal_keys(tenant, self._stream, events):
                touch(conn, tenant, LOGS_STORE, key)
            put(self._client, self._prefix + group_of(tenant), self._stream, events)

    def _give_back(self, tenant: str, events: Sequence[LogEvent], *, kept_s: float) -> None:
        since_ms = (time.time() - kept_s) * 1000
        young = [event for event in events if event.time_ms >= since_ms]
        with self._lock:
            waiting = self._waiting[tenant]
            young = young[max(len(young) + len(waiting) - LOGS_KEPT, 0) :]
            waiting.extendleft(reversed(young))
            self.dropped += len(events) - len(young)


class MetricsReporter(Background):
    """Reports how many requests each tenant made since the last time."""

    def __init__(self, logs: LogSettings, cell: str, metrics: Metrics) -> None:
        super().__init__("report-metrics", METRICS_EVERY_S)
        self._client = metrics_client(logs)
        self._cell = cell
        self._metrics = metrics
        self._reported: dict[str, int] = {}

    def close(self) -> None:
        self._client.close()

    def round(self) -> None:
        counted = self._metrics.requests()
        fresh = {tenant: count - self._reported.get(tenant, 0) for tenant, count in counted.items()}
        for tenant, count in fresh.items():
            if count:
                self._client.put_metric_data(
                    Namespace=METRICS_NAMESPACE,
                    MetricData=[
                        {
                            "MetricName": "Requests",
                            "Dimensions": [
                                {"Name": "tenant", "Value": tenant},
                                {"Name": "cell", "Value": self._cell},
                            ],
                            "Unit": "Count",
                            "Value": count,
                        }
                    ],
                )
                self._reported[tenant] = counted[tenant]


def logged_at() -> str:
    """Now, as log events say it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
