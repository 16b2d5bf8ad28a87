"""A search through a Redis, and a survey of its keys. A cursor is a database, a server and the server's own cursor of
SCAN, which it keeps nothing for; it is worth nothing once the server was started anew or the cluster rearranged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import redis

from tenure.catalogue import Template
from tenure.catalogue.shapes import ANY, shape
from tenure.model.matching import Match
from tenure.model.names import CellName, TenantId
from tenure.model.search import (
    TENANT_KIND,
    Coverage,
    FindPage,
    Place,
    PlaceKind,
    Search,
    Survey,
)
from tenure.stores import bodies
from tenure.stores.contract import Pace
from tenure.stores.finds import Tally, resumed
from tenure.stores.keyed import Counts, KeyMap
from tenure.stores.redis.keyspace import SCAN_COUNT, glob
from tenure.stores.redis.nodes import Node, Nodes, Topology
from tenure.stores.redis.values import Unknown, values

FIND_COUNT: Final = 500
_PATTERNS: Final = ("~", "&", "%R~", "%W~", "%RW~")


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a store gives its search: its servers and what the catalogue says."""

    cell: CellName
    nodes: Nodes
    keymap: KeyMap
    acl_user: Template | None
    others: frozenset[str]
    """Numbers of databases of other stores, which search them themselves."""
    translated: Callable[[], AbstractContextManager[None]]


def survey(where: Where, tenants: Collection[TenantId], pace: Pace) -> Survey:
    """See `Store.survey`: the patterns of the keys in the store's own database."""
    counts = Counts(where.keymap, tenants)
    with where.translated():
        topology = where.nodes.agreed()
        for node in topology.masters:
            cursor = 0
            while True:
                cursor, keys = node.client.scan(cursor, count=SCAN_COUNT)
                for key in keys:
                    counts.add(_text(key))
                pace(items=len(keys), size_bytes=sum(map(len, keys)))
                if int(cursor) == 0:
                    break
        where.nodes.verify(topology)
    return Survey(
        store=where.keymap.store,
        cell=where.cell,
        places=where.keymap.surveyed(PlaceKind.KEY, counts.named, counts.unnamed),
        gone=where.keymap.gone(PlaceKind.KEY, counts.named),
    )


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def find(where: Where, search: Search, cursor: str | None, pace: Pace) -> Iterator[FindPage]:
    """See `Store.find`: the users, then the keys of every database on every master."""
    return _Search(where, search, cursor, pace).pages()


class _Search:
    def __init__(self, where: Where, search: Search, cursor: str | None, pace: Pace) -> None:
        self._where = where
        self._tally, self._at = resumed(search, cursor)
        self._pace = pace
        self._tenants = search.known | search.tenants
        self._hidden = tuple(i.value for i in search.identifiers if i.kind != TENANT_KIND)
        self._label = ""

    def pages(self) -> Iterator[FindPage]:
        where, tally = self._where, self._tally
        with where.translated():
            topology = where.nodes.agreed()
            databases = self._databases(topology)
            if not self._at and tally.search.everywhere:
                for node in topology.masters:
                    self._users(node)
        shape_now = _shape(topology)
        if not self._at:
            yield tally.page({"database": databases[0], "shape": shape_now})
        resumes = self._at.get("database") in databases
        for n, database in enumerate(databases):
            if resumes and n < databases.index(self._at["database"]):
                continue
            same = resumes and self._at["database"] == database and self._at.get("shape") == shape_now
            yield from self._database(topology, database, self._at if same else {}, shape_now)
            with where.translated():
                where.nodes.verify(topology)
            last = n == len(databases) - 1
            yield tally.page(None if last else {"database": databases[n + 1], "shape": shape_now})

    def _databases(self, topology: Topology) -> list[int]:
        """Their numbers, the store's own first."""
        own, keys = self._where.nodes.database, 0
        found = {own}
        for node in topology.masters:
            for name, its in node.client.info("keyspace").items():
                number = int(name.removeprefix("db"))
                if number == own or (self._tally.search.everywhere and str(number) not in self._where.others):
                    found.add(number)
                    keys += int(its["keys"])
        self._tally.items_total = keys
        return sorted(found, key=lambda number: (number != own, number))

    def _users(self, node: Node) -> None:
        """Names of users and the patterns in their rules; never what they authenticate with."""
        tally, place = self._tally, Place(kind=PlaceKind.ACL_USER, name=ANY)
        try:
            rules = node.client.execute_command("ACL", "LIST")
        except redis.exceptions.NoPermissionError:
            tally.skip(place, "the login may not list users", items=0)
            return
        for rule in rules:
            words = rule.decode("utf-8", "surrogateescape").split()
            name = words[1] if len(words) > 1 else ""
            text = " ".join([name, *(w for w in words[2:] if w.startswith(_PATTERNS))])
            owner = self._where.acl_user.tenant_of(name) if self._where.acl_user is not None else None
            template = (
                self._where.acl_user.text if self._where.acl_user is not None and owner else tally.clean(name)
            )
            tally.add(
                tally.matcher.in_text(text),
                Place(kind=PlaceKind.ACL_USER, name=template),
                partial(_user_coverage, owner=owner),
                item=name,
            )
        self._pace(items=len(rules), size_bytes=sum(map(len, rules)))

    def _database(
        self, topology: Topology, database: int, begun: dict[str, Any], shape_now: str
    ) -> Iterator[FindPage]:
        own = database == self._where.nodes.database
        self._label = "" if own else f"database {database}: "
        match = (
            None
            if self._tally.search.everywhere
            else glob(self._where.keymap.prefix.text.partition("{tenant}")[0])
        )
        for node in topology.masters:
            if begun and node.name < begun.get("node", ""):
                continue
            client = node.client if own else _in_database(node, database)
            try:
                with self._where.translated():
                    run = str(client.info("server")["run_id"])
                same = begun.get("node") == node.name and begun.get("run") == run
                at = int(begun["scan"]) if same else 0
                while True:
                    with self._where.translated():
                        at, keys = client.scan(at, match=match, count=FIND_COUNT)
                        self._look(client, keys, own=own)
                    if int(at) == 0:
                        break
                    yield self._tally.page(
                        {
                            "database": database,
                            "shape": shape_now,
                            "node": node.name,
                            "run": run,
                            "scan": int(at),
                        }
                    )
            finally:
                if not own:
                    client.close()

    def _look(self, client: Any, keys: Sequence[bytes], *, own: bool) -> None:
        tally = self._tally
        chosen = [key for key in keys if tally.chosen(key)]
        if not tally.search.everywhere:
            chosen = [key for key in chosen if self._where.keymap.is_owned(_text(key))]
        size = 0
        for key in chosen:
            self._add(tally.matcher.in_bytes(key), PlaceKind.KEY, key, own=own)
            size += len(key)
        limit = tally.search.body_limit_bytes
        found: set[Match] = set()
        for value in values(client, chosen, limit):
            if isinstance(value, Unknown):
                tally.skip(self._place(PlaceKind.VALUE, value.key, own=own), value.reason)
                continue
            matches, unseen = _matches(tally, value.parts, value.size, limit)
            found |= matches
            for reason in unseen:
                tally.skip(self._place(PlaceKind.VALUE, value.key, own=own), reason)
            if value.last:
                self._add(found, PlaceKind.VALUE, value.key, own=own)
                found = set()
            size += value.size
        tally.looked(len(chosen), size)
        self._pace(items=len(keys), size_bytes=size)

    def _add(self, matches: Collection[Match], kind: PlaceKind, key: bytes, *, own: bool) -> None:
        if not matches:
            return
        text, place = _text(key), self._place(kind, key, own=own)
        self._tally.add(
            matches,
            place,
            partial(self._where.keymap.coverage, text) if own else _undocumented,
            item=text,
            entry=self._where.keymap.entry(place.name) if own else None,
        )

    def _place(self, kind: PlaceKind, key: bytes, *, own: bool) -> Place:
        text = _text(key)
        if own:
            pattern, _ = self._where.keymap.pattern(text, self._tenants, self._hidden)
        else:
            pattern = shape(text, self._tenants, self._hidden)
        return Place(kind=kind, name=f"{self._label}{pattern}")


def _matches(
    tally: Tally, parts: Sequence[bytes], size: int, limit: int
) -> tuple[frozenset[Match], tuple[str, ...]]:
    """What is in the parts of a value: looked at all at once, and containers among them one by one."""
    if len(parts) == 1:
        reading = bodies.read(tally.matcher, parts[0], size=size, limit=limit)
        return reading.matches, reading.unseen
    found = set(tally.matcher.in_bytes(b"\n".join(parts)))
    unseen: list[str] = []
    for part in parts:
        if part.startswith(bodies.MAGICS):
            reading = bodies.read(tally.matcher, part, size=len(part), limit=limit)
            found |= reading.matches
            unseen += reading.unseen
    return frozenset(found), tuple(unseen)


def _user_coverage(tenant: TenantId, *, owner: TenantId | None) -> Coverage:
    if owner is None:
        return Coverage.UNDOCUMENTED
    return Coverage.OWN if owner == tenant else Coverage.NEIGHBOUR


def _undocumented(_: TenantId) -> Coverage:
    return Coverage.UNDOCUMENTED


def _in_database(node: Node, database: int) -> Any:
    pool = node.client.connection_pool
    options = {**pool.connection_kwargs, "db": database}
    return redis.Redis.from_pool(redis.ConnectionPool(connection_class=pool.connection_class, **options))


def _shape(topology: Topology) -> str:
    """Who serves what, as a short text."""
    return hashlib.sha256(repr(sorted(topology.shape)).encode()).hexdigest()[:16]
