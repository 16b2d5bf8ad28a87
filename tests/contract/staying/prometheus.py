"""Debian's Prometheus, with the fence of a PostgreSQL beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.postgres import PostgresStore, PostgresTenantFence
from tenure.stores.prometheus import PrometheusStore
from tests.contract.rigs.postgres import ITEMS, LEFTOVERS, ROWS
from tests.folders import prepare
from tests.prometheus import PASSWORD, USER, Prometheus

KINDS = ("prometheus",)
VARIANTS = ()
IGNORE = ("up", "scrape_*")


def make(kind: str, request: pytest.FixtureRequest) -> PrometheusRig:
    fresh: Callable[..., str] = request.getfixturevalue("fresh_database")
    folder: Path = request.getfixturevalue("open_folder")
    server = Prometheus(request.getfixturevalue("servers"), folder)
    dsn = fresh("pg18a")
    prepare(dsn)
    return PrometheusRig(server, dsn)


class PrometheusRig:
    kind = "prometheus"
    erases = True

    def __init__(self, server: Prometheus, dsn: str) -> None:
        self.server = server
        self._dsn = dsn
        self._anchors: list[PostgresStore] = []
        self._numbers = itertools.count(1)

    def store(self, **changes: Any) -> PrometheusStore:
        anchor = PostgresStore(
            name=StoreName("postgres"), cell=CellName("blue"), dsn=Secret(self._dsn), tables=[ITEMS]
        )
        self._anchors.append(anchor)
        options: dict[str, Any] = {
            "name": StoreName("metrics"),
            "cell": CellName("blue"),
            "url": self.server.url,
            "label": "tenant",
            "metrics": ("app_*",),
            "ignore": IGNORE,
            "user": USER,
            "password": PASSWORD,
            "anchor": PostgresTenantFence(anchor),
        }
        return PrometheusStore(**{**options, **changes})

    def write(self, tenant: TenantId, item: str) -> None:
        self.server.exporter.once(
            f'app_requests_total{{tenant="{tenant}",path="/{item}/{next(self._numbers)}"}}'
        )

    def plant(self, text: str) -> None:
        self.server.exporter.once(f'stray_total{{note="{text}"}}')

    def leftovers(self) -> Sequence[str]:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            return [str(r[0]) for query in (LEFTOVERS, ROWS) for r in connection.execute(query.encode())]

    def unreachable(self) -> PrometheusStore:
        return self.store(url="http://127.0.0.1:1")

    def wrong_password(self) -> PrometheusStore:
        return self.store(password=Secret("wrong-password"))

    def close(self) -> None:
        self.server.close()
        for anchor in self._anchors:
            anchor.close()
