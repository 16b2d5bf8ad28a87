"""CloudWatch Logs of two regions of one moto server, and PostgreSQL beside it: the app logs under its permit.

Tenants have a log group each (`cloudwatch_logs`), or streams in a group of all tenants (`cloudwatch_logs-streams`).
Each item is a stream, and its value is that of the stream's last event: an app never takes back what it has logged, so
deleting an item is one more event. moto checks no keys: `wrong_password` goes through a proxy that does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psycopg
import pytest
from botocore.exceptions import ClientError

from tenure.catalogue import DataClass, LogPlace, NamePattern
from tenure.client import Fenced, touch, translating
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Place, PlaceKind
from tenure.model.secret import Secret
from tenure.stores.cloudwatch import Account, LogsCopy, LogsStore
from tenure.stores.cloudwatch.copy import LATE_S
from tenure.stores.cloudwatch.events import HOUR_MS, Stream
from tenure.stores.cloudwatch.hour_keys import key_of
from tenure.stores.postgres import PostgresJournal, PostgresStore, PostgresTenantFence
from tests.aws_faults import FaultyAws, refused
from tests.contract.rigs.postgres import ITEMS, LEFTOVERS, ROWS, SERVERS
from tests.contract.rigs.protocol import AppRefused, Rig, Side, Stray
from tests.folders import prepare

KINDS = ("cloudwatch_logs", "cloudwatch_logs-streams")
VARIANTS = ("cloudwatch_logs-streams",)
ADDS_ONLY = True
REGIONS: Final = {Side.BLUE: "us-east-1", Side.GREEN: "eu-west-1"}
GROUPS: Final = {
    "cloudwatch_logs": ("/app/{tenant}", None),
    "cloudwatch_logs-streams": ("/app/all", "{tenant}/*"),
}
WRONG: Final = "wrong-access-key"
STORE: Final = StoreName("logs")


def make(kind: str, request: pytest.FixtureRequest) -> Rig:
    fresh: Callable[..., str] = request.getfixturevalue("fresh_database")
    databases = {side: fresh(server) for side, server in SERVERS.items()}
    for dsn in databases.values():
        prepare(dsn)
    return LogsRig(kind, request.getfixturevalue("moto"), databases)


class LogsRig:
    """`databases`: the connection string of each side's PostgreSQL. Each rig's groups have a prefix of their own."""

    def __init__(self, kind: str, endpoint: str, databases: Mapping[Side, str]) -> None:
        self.kind = kind
        self.endpoint = endpoint
        self.prefix = f"/t{secrets.token_hex(6)}"
        self._databases = databases
        group, streams = GROUPS[kind.partition("+")[0]]
        self.places = (
            LogPlace(
                group=NamePattern.parse(group),
                streams=NamePattern.parse(streams) if streams is not None else None,
                data_class=DataClass.PERSONAL,
            ),
        )
        # One whole hour that is over, so that an item never lies in two.
        self._clock = itertools.count((round(time.time() * 1000) // HOUR_MS - 1) * HOUR_MS)
        self._clients = {side: self.account(side).client("logs") for side in Side}
        self._anchors: list[PostgresStore] = []
        self._made: list[LogsStore] = []
        self._copies: list[LogsCopy] = []
        self._proxies: list[FaultyAws] = []

    def account(
        self, side: Side, endpoint: str | None = None, key: str = "key", *, timeout_s: float = 30.0
    ) -> Account:
        return Account(
            timeout_s=timeout_s,
            region=REGIONS[side],
            endpoint=endpoint or self.endpoint,
            access_key=Secret(key),
            secret_key=Secret("secret"),
        )

    def carrier(self, side: Side) -> PostgresStore:
        store = PostgresStore(
            name=StoreName("postgres"),
            cell=CellName(side.value),
            dsn=Secret(self._databases[side]),
            tables=[ITEMS],
        )
        self._anchors.append(store)
        return store

    def store(self, side: Side, **changes: Any) -> LogsStore:
        return self.beside(self.carrier(side), **changes)

    def beside(self, carrier: PostgresStore, **changes: Any) -> LogsStore:
        options: dict[str, Any] = {
            "name": STORE,
            "cell": carrier.cell,
            "account": self.account(Side(carrier.cell)),
            "places": self.places,
            "prefix": self.prefix,
            "anchor": PostgresTenantFence(carrier),
        }
        store = LogsStore(**{**options, **changes})
        self._made.append(store)
        return store

    def copy(
        self,
        tenant: TenantId,
        source: Side,
        target: Side,
        *,
        leaving: LogsStore | None = None,
        entering: LogsStore | None = None,
        late_s: float = LATE_S,
    ) -> LogsCopy:
        ours, theirs = self.carrier(source), self.carrier(target)
        copy = LogsCopy(
            link=f"link-{tenant}",
            tenant=tenant,
            source=leaving or self.beside(ours),
            target=entering or self.beside(theirs),
            source_journal=PostgresJournal(ours),
            target_journal=PostgresJournal(theirs),
            late_s=late_s,
        )
        self._copies.append(copy)
        return copy

    # -- the app -----------------------------------------------------------------------------------------------------

    def stream(self, tenant: TenantId, item: str) -> Stream:
        place = self.places[0]
        own = place.group.own
        return Stream(place.group.of(tenant).text, item if own else f"{tenant}/{item}")

    def now(self) -> int:
        """The time of the next event, in milliseconds."""
        return next(self._clock)

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        self._log(side, tenant, item, value)

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        self._log(side, tenant, item, None)

    def _log(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        stream, at = self.stream(tenant, item), self.now()
        with psycopg.connect(self._databases[side], autocommit=True) as connection:
            connection.execute("set role contract_app")
            try:
                with translating(tenant), connection.transaction():
                    touch(connection, tenant, STORE, key_of(stream, at))
                    self.put(side, stream, at, json.dumps({"tenant": tenant, "value": value}))
            except Fenced as error:
                raise AppRefused from error

    def put(self, side: Side, stream: Stream, at: int, message: str) -> None:
        """Log as anybody may, past every fence and journal."""
        client, group = self._clients[side], self.prefix + stream.group
        with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
            client.create_log_group(logGroupName=group)
        with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
            client.create_log_stream(logGroupName=group, logStreamName=stream.name)
        answer = client.put_log_events(
            logGroupName=group,
            logStreamName=stream.name,
            logEvents=[{"timestamp": at, "message": message}],
        )
        assert not answer.get("rejectedLogEventsInfo")

    def client(self, side: Side) -> Any:
        return self._clients[side]

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        found: dict[str, str] = {}
        store = self.store(side)
        for stream in store.groups.of(tenant):
            *_, last = store.events(stream)
            value = json.loads(last.message)["value"]
            if value is not None:
                found[stream.name.rpartition("/")[2]] = value
        return found

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        stream = self.stream(tenant, item)
        if value is None:
            self._clients[side].delete_log_stream(
                logGroupName=self.prefix + stream.group, logStreamName=stream.name
            )
        else:
            self.put(side, stream, self.now(), json.dumps({"tenant": tenant, "value": value}))

    def stray(self, side: Side, text: str) -> Stray:
        self.put(side, Stream("/debug/sandbox", secrets.token_hex(4)), self.now(), text)
        return Stray(
            place=Place(kind=PlaceKind.LOG_EVENT, name="/debug/sandbox"),
            coverage=Coverage.UNDOCUMENTED,
            surveyed=Place(kind=PlaceKind.LOG_GROUP, name="/debug/sandbox"),
        )

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        hour = next(self._clock)
        return self.places[0].group.text, json.dumps(key_of(self.stream(tenant, item), hour))

    def backup_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        """A backup's collections are streams."""
        return str(self.stream(tenant, item)), self.difference_key(tenant, item)[1]

    # -- around it ---------------------------------------------------------------------------------------------------

    def leftovers(self, side: Side) -> Sequence[str]:
        with psycopg.connect(self._databases[side], autocommit=True) as connection:
            return [str(r[0]) for query in (LEFTOVERS, ROWS) for r in connection.execute(query.encode())]

    def faulty(self, side: Side, **changes: Any) -> tuple[LogsStore, FaultyAws]:
        """A store whose requests go through a proxy that can be told to fail."""
        proxy = FaultyAws(self.endpoint)
        self._proxies.append(proxy)
        return self.store(side, account=self.account(side, proxy.endpoint), **changes), proxy

    def unreachable(self) -> LogsStore:
        return self.store(Side.BLUE, account=self.account(Side.BLUE, "http://127.0.0.1:1"))

    def wrong_password(self) -> LogsStore:
        proxy = FaultyAws(self.endpoint)
        self._proxies.append(proxy)
        proxy.answer(refused("UnrecognizedClientException"), when=lambda asked: WRONG in asked.credential)
        return self.store(Side.BLUE, account=self.account(Side.BLUE, proxy.endpoint, WRONG))

    def close(self) -> None:
        copies = list(self._copies)
        while copies:
            copy = copies.pop()
            copies += copy.armed_reverse()
            copy.detach()
        for store in self._made:
            store.close()
        for anchor in self._anchors:
            anchor.close()
        for proxy in self._proxies:
            proxy.close()
        for client in self._clients.values():
            for group in client.describe_log_groups(logGroupNamePrefix=self.prefix)["logGroups"]:
                with contextlib.suppress(ClientError):
                    client.delete_log_group(logGroupName=group["logGroupName"])
            client.close()
