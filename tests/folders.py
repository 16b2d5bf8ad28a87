"""A folder of files per tenant: the smallest store that cannot refuse a write. Its fence, its journal and the record of
who copies are in PostgreSQL, where the app takes its permit before it writes a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import psycopg

from tenure.client import Fenced, touch, translating
from tenure.errors import StoreUnavailable
from tenure.model.comparison import DifferenceKind
from tenure.model.finding import Finding, Severity
from tenure.model.inventory import Collection as Counted
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Entry, FindPage, Place, PlaceKind, Search, Survey, Surveyed
from tenure.model.secret import Secret
from tenure.stores.backup import Capture, Restoring, refused
from tenure.stores.contract import Fence, Pace, Room, Store, TenantFence, unhurried
from tenure.stores.finds import resumed
from tenure.stores.journaled import Allowed, Anchored, Item, JournaledCopy, Tally
from tenure.stores.postgres import PostgresJournal, PostgresStore, PostgresTenantFence, install_cell
from tests.contract.rigs.postgres import ITEMS, LEFTOVERS, ROLE, ROWS, SHARED
from tests.contract.rigs.protocol import AppRefused, Side, Stray

FILES: Final = "files"
NOT_BACKED_UP: Final = "its items are files of a test"
STRAYS: Final = "*"
"""Files beside the tenants' folders."""


def prepare(dsn: str) -> None:
    """The tables of the app, its role, and cell.sql."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ROLE)
        connection.execute(SHARED.encode())
    install_cell(Secret(dsn))


def put(root: Path, key: str, body: bytes | None) -> None:
    """Write or remove a file at once: who reads it sees it as it was, or as it is."""
    path = root / key
    if body is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(exist_ok=True)
    fresh = root / f".{secrets.token_hex(8)}"
    fresh.write_bytes(body)
    fresh.replace(path)


def files_of(root: Path, tenant: TenantId) -> dict[str, bytes]:
    """The tenant's files by key."""
    home = root / tenant
    found: dict[str, bytes] = {}
    for name in sorted(os.listdir(home)) if home.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            found[f"{tenant}/{name}"] = (home / name).read_bytes()
    return found


class FolderStore(Anchored):
    """Files `<root>/<tenant>/<item>`; keys are `<tenant>/<item>`. Implements `Store`."""

    def __init__(self, cell: CellName, root: Path, anchor: TenantFence) -> None:
        super().__init__(StoreName("documents"), anchor)
        self.cell: Final = cell
        self.root: Final = root
        self.server: Final = str(root)

    def room(self) -> Sequence[Room]:
        return ()

    def ping(self) -> None:
        if not self.root.is_dir():
            raise StoreUnavailable(f"there is no folder {self.root}", hint="create it")
        self.fence_state(TenantId("nobody"))

    def files(self, tenant: TenantId) -> dict[str, bytes]:
        return files_of(self.root, tenant)

    def get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, body: bytes | None) -> None:
        put(self.root, key, body)

    def inventory(self, tenant: TenantId) -> Inventory:
        files = self.files(tenant)
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        counted = Counted(items=len(files), size_bytes=sum(map(len, files.values())), digest=digest)
        return Inventory(store=self.name, tenant=tenant, collections={FILES: counted})

    def survey(self, tenants: Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        self.ping()
        strays = [path for path in self.root.iterdir() if path.is_file() and not path.name.startswith(".")]
        homes = [path for path in self.root.iterdir() if path.is_dir()]
        pace(items=len(strays) + len(homes), size_bytes=0)
        places = [Surveyed(place=Place(kind=PlaceKind.OBJECT_KEY, name="{tenant}/*"), classified=True)]
        if strays:
            ignored: dict[str, Entry] = {self.name: {"ignore": [STRAYS]}}
            place = Place(kind=PlaceKind.OBJECT_KEY, name=STRAYS)
            places.append(Surveyed(place=place, classified=False, items=len(strays), entry=ignored))
        return Survey(store=self.name, cell=self.cell, places=tuple(places))

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """A page per file, in the order of their paths."""
        self.ping()
        tally, at = resumed(search, cursor)
        for path in sorted(p for p in self.root.rglob("*") if p.is_file() and not p.name.startswith(".")):
            key = str(path.relative_to(self.root))
            owner = key.partition("/")[0] if "/" in key else None
            if key <= at.get("after", "") or not tally.chosen(key) or not (owner or search.everywhere):
                continue
            body = path.read_bytes()
            name = "{tenant}/*" if owner else STRAYS
            coverage = partial(_coverage, owner=owner)
            for kind, matches in (
                (PlaceKind.OBJECT_KEY, tally.matcher.in_text(key)),
                (PlaceKind.OBJECT_BODY, tally.matcher.in_bytes(body)),
            ):
                tally.add(matches, Place(kind=kind, name=name), coverage, item=key)
            tally.looked(1, len(body))
            pace(items=1, size_bytes=len(body))
            yield tally.page({"after": key})
        yield tally.page(None)

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        self.require_erasable(fence)
        gone = self.files(fence.tenant)
        for number, key in enumerate(gone, 1):
            self.put(key, None)
            progress(number)
        return len(gone)

    def capture(self, tenant: TenantId) -> Capture:
        raise refused(self.name, self.cell, NOT_BACKED_UP)

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:
        raise refused(self.name, self.cell, NOT_BACKED_UP)

    def close(self) -> None:
        """Nothing is open."""


def _coverage(tenant: TenantId, *, owner: str | None) -> Coverage:
    if owner is None:
        return Coverage.UNDOCUMENTED
    return Coverage.OWN if owner == tenant else Coverage.NEIGHBOUR


class _Listing:
    def __init__(self, source: FolderStore, target: FolderStore, tenant: TenantId) -> None:
        self._source = source
        self._target = target
        self._tenant = tenant

    def source(self) -> Mapping[str, Item[str]]:
        return _items(self._source, self._tenant)

    def target(self) -> Mapping[str, Item[str]]:
        return _items(self._target, self._tenant)

    def current(self, source: Item[str], target: Item[str]) -> bool:
        return source.version == target.version

    def mine(self, key: str) -> bool:
        return key.startswith(f"{self._tenant}/")

    def collection(self, key: str) -> str:
        return FILES


def _items(store: FolderStore, tenant: TenantId) -> Mapping[str, Item[str]]:
    return {
        key: Item(version=hashlib.sha256(body).hexdigest(), size=len(body))
        for key, body in store.files(tenant).items()
    }


class _Transfer:
    def __init__(self, source: FolderStore, target: FolderStore, allowed: Allowed) -> None:
        self._source = source
        self._target = target
        self._allowed = allowed

    def expect(self, target: Mapping[str, Item[str]], keys: Iterable[str]) -> None:
        """Nothing is written under a condition here."""

    def copy(self, keys: Sequence[str]) -> int:
        moved = 0
        for key in keys:
            body = self._source.get(key)
            self._allowed(0.0)
            self._target.put(key, body)
            moved += len(body or b"")
        return moved


class _Comparer:
    def __init__(self, source: FolderStore, target: FolderStore, tenant: TenantId) -> None:
        self._source = source
        self._target = target
        self._tenant = tenant

    def everything(self, progress: Callable[[int], None]) -> Tally:
        keys = self._source.files(self._tenant).keys() | self._target.files(self._tenant).keys()
        tally = self.these(keys)
        progress(len(tally.processed))
        return tally

    def these(self, keys: Collection[str], *, thorough: bool = True) -> Tally:
        tally = Tally()
        for key in keys:
            ours, theirs = self._source.get(key), self._target.get(key)
            if ours is None and theirs is None:
                continue
            tally.processed.add(key)
            if theirs is None:
                tally.differing[key] = DifferenceKind.MISSING
            elif ours is None:
                tally.differing[key] = DifferenceKind.EXTRA
            elif ours != theirs:
                tally.differing[key] = DifferenceKind.MISMATCHED
        return tally


class FolderCopy(JournaledCopy[FolderStore, str]):
    """Both stores' journals are beside their fences."""

    def __init__(
        self,
        *,
        link: str,
        tenant: TenantId,
        source: FolderStore,
        target: FolderStore,
        source_journal: PostgresJournal,
        target_journal: PostgresJournal,
        handover_s: float = 0.0,
    ) -> None:
        self._journals = (source_journal, target_journal)
        super().__init__(
            link=link,
            tenant=tenant,
            source=source,
            target=target,
            source_journal=source_journal,
            target_journal=target_journal,
            source_record=source.link_record(tenant),
            target_record=target.link_record(tenant),
            listing=_Listing(source, target, tenant),
            comparer=_Comparer(source, target, tenant),
            transfer=lambda allowed: _Transfer(source, target, allowed),
            batch=2,
            workers=4,
            handover_s=handover_s,
        )

    def preflight(self) -> Sequence[Finding]:
        if self._target_record.read().link or not self._target.files(self._tenant):
            return []
        return [
            Finding(
                severity=Severity.REFUSAL,
                code="target_not_empty",
                where=f"{self._target.name} in {self._target.cell}",
                message=f"there are files of {self._tenant} already",
                fix="find out whose they are",
            )
        ]

    def fingerprint(self) -> Mapping[str, str]:
        return {"files": "bytes"}

    def turned(self) -> FolderCopy:
        source_journal, target_journal = self._journals
        return FolderCopy(
            link=self._link,
            tenant=self._tenant,
            source=self._target,
            target=self._source,
            source_journal=target_journal,
            target_journal=source_journal,
        )


class FolderRig:
    """`sides`: the connection string of each side's PostgreSQL, and its folder."""

    def __init__(self, kind: str, sides: Mapping[Side, tuple[str, Path]]) -> None:
        self.kind = kind
        self._sides = sides
        self._anchors: list[PostgresStore] = []
        self._copies: list[FolderCopy] = []

    def carrier(self, side: Side, dsn: str | None = None) -> PostgresStore:
        store = PostgresStore(
            name=StoreName("postgres"),
            cell=CellName(side.value),
            dsn=Secret(dsn or self._sides[side][0]),
            tables=[ITEMS],
        )
        self._anchors.append(store)
        return store

    def beside(self, carrier: PostgresStore, *, root: Path | None = None) -> FolderStore:
        at = root or self._sides[Side(carrier.cell)][1]
        return FolderStore(carrier.cell, at, PostgresTenantFence(carrier))

    def store(self, side: Side) -> Store:
        return self.beside(self.carrier(side))

    def copy(self, tenant: TenantId, source: Side, target: Side, *, handover_s: float = 0.0) -> FolderCopy:
        ours, theirs = self.carrier(source), self.carrier(target)
        copy = FolderCopy(
            link=f"link-{tenant}",
            tenant=tenant,
            source=self.beside(ours),
            target=self.beside(theirs),
            source_journal=PostgresJournal(ours),
            target_journal=PostgresJournal(theirs),
            handover_s=handover_s,
        )
        self._copies.append(copy)
        return copy

    @contextlib.contextmanager
    def app(self, side: Side, tenant: TenantId, item: str) -> Iterator[None]:
        """The app's transaction, in which it is about to change that file."""
        with psycopg.connect(self._sides[side][0], autocommit=True) as connection:
            connection.execute("set role contract_app")
            try:
                with translating(tenant), connection.transaction():
                    touch(connection, tenant, "documents", f"{tenant}/{item}")
                    yield
            except Fenced as error:
                raise AppRefused from error

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        with self.app(side, tenant, item):
            self.plant(side, tenant, item, value)

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        with self.app(side, tenant, item):
            self.plant(side, tenant, item, None)

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        files = files_of(self._sides[side][1], tenant)
        return {key.partition("/")[2]: body.decode() for key, body in files.items()}

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        put(self._sides[side][1], f"{tenant}/{item}", None if value is None else value.encode())

    def stray(self, side: Side, text: str) -> Stray:
        (self._sides[side][1] / f"{secrets.token_hex(4)}.txt").write_text(text, "utf-8")
        return Stray(
            place=Place(kind=PlaceKind.OBJECT_BODY, name=STRAYS),
            coverage=Coverage.UNDOCUMENTED,
            surveyed=Place(kind=PlaceKind.OBJECT_KEY, name=STRAYS),
        )

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        return FILES, json.dumps(f"{tenant}/{item}")

    def leftovers(self, side: Side) -> Sequence[str]:
        dsn, root = self._sides[side]
        with psycopg.connect(dsn, autocommit=True) as connection:
            rows = [str(r[0]) for query in (LEFTOVERS, ROWS) for r in connection.execute(query.encode())]
        return [*rows, *(path.name for path in root.glob(".*"))]

    def unreachable(self) -> Store:
        return self.beside(self.carrier(Side.BLUE), root=Path("/nowhere"))

    def wrong_password(self) -> Store:
        there = self._sides[Side.BLUE][0]
        return self.beside(
            self.carrier(Side.BLUE, psycopg.conninfo.make_conninfo(there, password="wrong-password"))
        )

    def close(self) -> None:
        for copy in self._copies:
            for each in (copy, *copy.armed_reverse()):
                each.detach()
        for anchor in self._anchors:
            anchor.close()
