"""A tenant that writes faster than its copy follows, over a link between the cells that carries too little: the ladder
is climbed rung by rung, visibly, and ends in a finished move or in a clean abort. No request fails on either way."""

from __future__ import annotations

import http.client
import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rag_app.settings import CLIENT_IDS_FROM
from tenure.engine.observer import EventWritten, Notice, PointReached
from tenure.model.names import CellName
from tenure.model.operation import Operation, OperationState
from tenure.wiring import open_service
from tests.estate import TestEstate
from tests.slow_link import SlowLink, slow_link

DOCUMENT_BYTES = 40_000
WRITES_PER_S = 15.0
WRITERS = 4
TOO_LITTLE = 300_000.0
"""Bytes per second: half of what is written."""
SYNC = {
    "window_s": 1.5,
    "longest_window_s": 3.0,
    "most_workers": 4,
    "throttle": {"writes_per_s": 2, "longest_delay_ms": 2000},
}
RUNGS = ("fell_behind", "workers_raised", "window_extended", "writes_throttled", "caught_up")
_ids = itertools.count(CLIENT_IDS_FROM + 900_000_000)


@dataclass(frozen=True, kw_only=True)
class Distant:
    """The estate as seen by a Tenure that knows `link` as the way from blue to the other cells' PostgreSQL."""

    estate: TestEstate
    config: Path
    link: SlowLink

    def migrate(self, tenant: str, on: Mapping[str, Callable[[], object]]) -> tuple[Operation, list[str]]:
        """Migrate to green; call what `on` has for an event or a point when it comes. Give the rungs climbed."""

        def observer(notice: Notice) -> None:
            name = (
                notice.point
                if isinstance(notice, PointReached)
                else getattr(notice, "action", "")
                if isinstance(notice, EventWritten)
                else ""
            )
            if name in on:
                on[name]()

        service = open_service(self.config)
        try:
            moved = service.migrate(tenant, "green", apply=None, observer=observer)
            events = service.events(moved.id)
        finally:
            service.close()
            self.link.bytes_per_s = None
        return moved, [e["action"] for e in events if e["action"] in RUNGS]

    def events(self, operation: str, action: str) -> list[dict[str, Any]]:
        with self.estate.service() as service:
            return [e["data"] for e in service.events(operation) if e["action"] == action]


@pytest.fixture(scope="module")
def distant(cells_estate: TestEstate) -> Iterator[Distant]:
    folder = cells_estate.config.parent
    dsn = cells_estate.local.cells[CellName("blue")].dsn
    server = conninfo_to_dict(dsn)
    with slow_link(str(server["host"]), int(str(server["port"]))) as link:
        secret = folder / "etc" / "secrets" / "blue-postgres-distant"
        secret.write_text(make_conninfo(dsn, host="127.0.0.1", port=link.port), encoding="utf-8")
        secret.chmod(0o600)
        document = yaml.safe_load(cells_estate.config.read_text(encoding="utf-8"))
        document["cells"]["blue"]["stores"]["postgres"]["dsn_from_cells"] = {
            "file": "etc/secrets/blue-postgres-distant"
        }
        document["sync"] = SYNC
        document["tiers"]["bronze"]["throttle"] = False
        config = folder / "distant.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        yield Distant(estate=cells_estate, config=config, link=link)


@dataclass(kw_only=True)
class Writers:
    """Users who post large documents through the gateway at a steady rate, as soon as they are told to."""

    statuses: list[int] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    go: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, gateway: str, host: str) -> None:
        self.go.wait(120)
        connection = http.client.HTTPConnection(gateway.removeprefix("http://"), timeout=30)
        due = time.monotonic()
        while not self.stop.is_set():
            number = next(_ids)
            # Random, so that PostgreSQL cannot compress it.
            body = {
                "id": number,
                "title": "t",
                "body": "b",
                "meta": {"x": secrets.token_hex(DOCUMENT_BYTES // 2)},
            }
            headers = {"Host": host, "Content-Type": "application/json"}
            connection.request("POST", "/documents", json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            self.statuses.append(answer.status)
            if answer.status == 201:
                self.acknowledged.add(number)
            due = max(due + WRITERS / WRITES_PER_S, time.monotonic() - 1)
            self.stop.wait(max(0.0, due - time.monotonic()))
        connection.close()


@contextmanager
def writers(estate: TestEstate, tenant: str) -> Iterator[Writers]:
    made = Writers()
    arguments = (estate.local.gateway, estate.app.tenants[tenant].host)
    threads = [threading.Thread(target=made.run, args=arguments) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stop.set()
        made.go.set()
        for thread in threads:
            thread.join()


def missing(estate: TestEstate, cell: str, tenant: str, numbers: set[int]) -> set[int]:
    """Which of these documents the cell does not have."""
    with psycopg.connect(estate.local.cells[CellName(cell)].dsn) as connection:
        query = "select id from public.documents where tenant_id = %s and id >= %s"
        return numbers - {n for (n,) in connection.execute(query, (tenant, CLIENT_IDS_FROM))}


def test_a_throttle_lets_a_move_finish_that_the_writes_outpace_and_fails_no_request(distant: Distant) -> None:
    estate, tenant = distant.estate, "throttled"
    estate.add_tenant(tenant, tier="gold")
    with writers(estate, tenant) as users:

        def narrow() -> None:
            distant.link.bytes_per_s = TOO_LITTLE
            users.go.set()

        moved, rungs = distant.migrate(tenant, {"catch_up.following": narrow})
    assert moved.state is OperationState.SOAKING, moved.error
    assert rungs[:5] == list(RUNGS)
    (behind,) = distant.events(moved.id, "fell_behind")[:1]
    assert behind["stores"]["postgres"]["trend"] == "growing"
    assert behind["stores"]["postgres"]["write_ratio"] > 1
    (raised,) = distant.events(moved.id, "workers_raised")[:1]
    assert raised == {"workers": {"postgres": 1}, "one_applies_in_order": ["postgres"]}
    assert distant.events(moved.id, "caught_up")[0]["throttled"] is True
    assert set(users.statuses) == {201}
    assert missing(estate, "green", tenant, users.acknowledged) == set()
    assert estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert estate.left_behind(tenant) == []


@pytest.mark.variant
def test_a_tier_that_is_never_throttled_is_aborted_cleanly_or_moves_when_the_pressure_eases(
    distant: Distant,
) -> None:
    estate, tenant = distant.estate, "outpacing"
    estate.add_tenant(tenant, tier="bronze")
    with writers(estate, tenant) as users:

        def narrow() -> None:
            distant.link.bytes_per_s = TOO_LITTLE
            users.go.set()

        def widen() -> None:
            distant.link.bytes_per_s = None

        given_up, rungs = distant.migrate(tenant, {"catch_up.following": narrow})
        assert given_up.state is OperationState.ABORTED
        assert rungs == list(RUNGS[:3])
        error = dict(given_up.error or {})
        assert error["code"] == "outpaced"
        assert "no more workers in postgres, which applies in order" in error["message"]
        assert "a window of 3 s instead of 1.5 s" in error["message"]
        assert estate.left_behind(tenant) == []
        assert estate.items_in(tenant, "green") == 0
        moved, rungs = distant.migrate(tenant, {"catch_up.following": narrow, "window_extended": widen})
        assert moved.state is OperationState.SOAKING, moved.error
        assert rungs[:4] == [*RUNGS[:3], "caught_up"]
    assert set(users.statuses) == {201}
    assert missing(estate, "green", tenant, users.acknowledged) == set()
    assert estate.command("complete", tenant, "--yes", tenant).exit_code == 0
