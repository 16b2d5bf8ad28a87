"""Two indexes of a stand-in for Pinecone, with the fence and the journal in real PostgreSQL; the app takes its permit
there before it writes a record. `pinecone-late`: reads trail the writes, as the vendor's do."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
import pytest
from pinecone import Index, Pinecone

from tenure.catalogue import DataClass, Template
from tenure.client import Fenced, touch, translating
from tenure.estate.local import PineconeEndpoint, RunningEstate
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Place, PlaceKind
from tenure.model.secret import Secret
from tenure.stores.pinecone import Limiter, Login, PineconeCopy, PineconeStore, Rates
from tenure.stores.postgres import PostgresJournal, PostgresStore, PostgresTenantFence
from tests.contract.rigs.postgres import ITEMS, LEFTOVERS, ROWS, SERVERS
from tests.contract.rigs.protocol import AppRefused, Rig, Side, Stray
from tests.folders import prepare
from tests.pinecone_stand_in import StandIn

KINDS = ("pinecone", "pinecone-late")
VARIANTS = ("pinecone-late",)
STORE: Final = StoreName("semantics")
TEMPLATE: Final = Template.name("t-{tenant}")
FIELDS: Final = {"value": DataClass.CONTENT}
LAG_S: Final = 0.15


def make(kind: str, request: pytest.FixtureRequest) -> Rig:
    fresh: Callable[..., str] = request.getfixturevalue("fresh_database")
    servers: RunningEstate = request.getfixturevalue("servers")
    dsns = {side: fresh(server) for side, server in SERVERS.items()}
    for dsn in dsns.values():
        prepare(dsn)
    servers.start("pinecone-a")
    return PineconeRig(
        kind, servers.pinecone("pinecone-a"), dsns, lag_s=LAG_S if kind == "pinecone-late" else 0.0
    )


def limiter() -> Limiter:
    """One without limits."""
    return Limiter(Rates(per_second={}), shared=None, alone=1.0)


def vector(value: str) -> list[float]:
    """Three numbers that tell values apart."""
    return [1.0, len(value) / 7, sum(value.encode()) / 1000]


class PineconeRig:
    def __init__(
        self, kind: str, endpoint: PineconeEndpoint, dsns: Mapping[Side, str], *, lag_s: float = 0.0
    ) -> None:
        self.kind = kind
        self.endpoint = endpoint
        self.dsns = dsns
        self.stand_in = StandIn(endpoint)
        self._project = Pinecone(api_key=endpoint.api_key.reveal(), host=endpoint.control)
        self.names = {side: f"{side}-{secrets.token_hex(4)}" for side in Side}
        self.hosts = {side: self._create(name) for side, name in self.names.items()}
        self.indexes = {
            side: Index(host=host, api_key=endpoint.api_key.reveal()) for side, host in self.hosts.items()
        }
        self._anchors: list[PostgresStore] = []
        self._stores: list[PineconeStore] = []
        self._copies: list[PineconeCopy] = []
        self.stand_in.behave(lag_s=lag_s, limits=None)

    def _create(self, name: str) -> str:
        schema = {"fields": {"_values": {"type": "dense_vector", "dimension": 3, "metric": "cosine"}}}
        return str(self._project.indexes.create(name=name, schema=schema).host)

    def carrier(self, side: Side) -> PostgresStore:
        store = PostgresStore(
            name=StoreName("postgres"),
            cell=CellName(side.value),
            dsn=Secret(self.dsns[side]),
            tables=[ITEMS],
        )
        self._anchors.append(store)
        return store

    def beside(self, carrier: PostgresStore, **changes: Any) -> PineconeStore:
        options: dict[str, Any] = {
            "name": STORE,
            "cell": carrier.cell,
            "login": self.login(self.hosts[Side(carrier.cell)]),
            "namespace": TEMPLATE,
            "anchor": PostgresTenantFence(carrier),
            "limiter": limiter(),
            "fields": FIELDS,
            "handover_s": 0.0,
        }
        store = PineconeStore(**{**options, **changes})
        self._stores.append(store)
        return store

    def login(self, host: str | None, *, api_key: Secret | None = None, index: str | None = None) -> Login:
        key = api_key or self.endpoint.api_key
        return Login(host=host, index=index, control=self.endpoint.control, api_key=key)

    def store(self, side: Side, **changes: Any) -> PineconeStore:
        """Made when reads have caught up: a search looks at what they show."""
        self.stand_in.settle()
        return self.beside(self.carrier(side), **changes)

    def copy(self, tenant: TenantId, source: Side, target: Side, **changes: Any) -> PineconeCopy:
        ours, theirs = self.carrier(source), self.carrier(target)
        copy = PineconeCopy(
            link=f"link-{tenant}",
            tenant=tenant,
            source=self.beside(ours, **changes),
            target=self.beside(theirs, **changes),
            source_journal=PostgresJournal(ours),
            target_journal=PostgresJournal(theirs),
        )
        self._copies.append(copy)
        return copy

    @contextlib.contextmanager
    def app(self, side: Side, tenant: TenantId, *items: str) -> Iterator[Index]:
        """The app's transaction, in which it is about to change these records."""
        with psycopg.connect(self.dsns[side], autocommit=True) as connection:
            connection.execute("set role contract_app")
            try:
                with translating(tenant), connection.transaction():
                    for item in items:
                        touch(connection, tenant, STORE, item)
                    yield self.indexes[side]
            except Fenced as error:
                raise AppRefused from error

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        with self.app(side, tenant, item):
            self.plant(side, tenant, item, value)

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        with self.app(side, tenant, item):
            self.plant(side, tenant, item, None)

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        index, namespace = self.indexes[side], TEMPLATE.expand(tenant)
        if value is None:
            index.delete(ids=[item], namespace=namespace)
        else:
            record = {"id": item, "values": vector(value), "metadata": {"value": value}}
            index.upsert(vectors=[record], namespace=namespace)

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        """What reads see when they have caught up."""
        self.stand_in.settle()
        namespace, index = TEMPLATE.expand(tenant), self.indexes[side]
        ids = [one.id for page in index.list(namespace=namespace) for one in page.vectors if one.id]
        if not ids:
            return {}
        found = index.fetch(ids=ids, namespace=namespace).vectors
        return {one: str((record.metadata or {})["value"]) for one, record in found.items()}

    def stray(self, side: Side, text: str) -> Stray:
        record = {"id": secrets.token_hex(4), "values": vector(text), "metadata": {"note": text}}
        self.indexes[side].upsert(vectors=[record], namespace="audit")
        return Stray(
            place=Place(kind=PlaceKind.RECORD_METADATA, name="audit.note"),
            coverage=Coverage.UNDOCUMENTED,
            surveyed=Place(kind=PlaceKind.NAMESPACE, name="audit"),
        )

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        return "records", json.dumps(item)

    def leftovers(self, side: Side) -> Sequence[str]:
        with psycopg.connect(self.dsns[side], autocommit=True) as connection:
            rows = [str(r[0]) for query in (LEFTOVERS, ROWS) for r in connection.execute(query.encode())]
        return [*rows, *(one for one in self.read_all(side) if "tenure" in one)]

    def read_all(self, side: Side) -> list[str]:
        """Every id of the index."""
        index = self.indexes[side]
        self.stand_in.settle()
        return [
            str(one.id)
            for namespaces in index.list_namespaces()
            for namespace in namespaces.namespaces
            for page in index.list(namespace=namespace.name)
            for one in page.vectors
        ]

    def unreachable(self) -> PineconeStore:
        return self.store(Side.BLUE, login=self.login("http://127.0.0.1:1"))

    def wrong_password(self) -> PineconeStore:
        login = self.login(self.hosts[Side.BLUE], api_key=Secret("wrong-password"))
        return self.store(Side.BLUE, login=login)

    def close(self) -> None:
        self.stand_in.behave(limits=None)
        for copy in self._copies:
            for each in (copy, *copy.armed_reverse()):
                each.detach()
        for store in self._stores:
            store.close()
        for anchor in self._anchors:
            anchor.close()
        for index in self.indexes.values():
            index.close()
        for name in self.names.values():
            self._project.indexes.delete(name)
        self._project.close()
        self.stand_in.close()
