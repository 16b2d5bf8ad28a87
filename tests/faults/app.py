"""An app of one tenant that writes straight to the stores of whichever cell lets it, as background jobs do, and knows
what was acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import psycopg
import redis

from rag_app.local import settings_of
from rag_app.objects import s3_client
from tenure.client import Fenced, permit, touch, translating
from tenure.model.names import CellName
from tests.estate import TestEstate

FIRST_ID: Final = 2_000_000_000
BULK: Final = 400
SOON_MS: Final = 400
LATE_MS: Final = 3_600_000
_UPSERT: Final = """
insert into documents (tenant_id, id, title, body) values (%s, %s, %s, 'x')
on conflict (tenant_id, id) do update set title = excluded.title
"""
_BULK: Final = """
insert into documents (tenant_id, id, title, body) select %s, n, %s, 'x' from generate_series(%s::int8, %s::int8) n
on conflict (tenant_id, id) do update set title = excluded.title
"""


@dataclass
class Acknowledged:
    """What is to be found at the end. Keys that expire soon are not: nobody may find them."""

    documents: dict[int, str] = field(default_factory=dict)
    keys: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Value, and whether it expires (late)."""
    objects: dict[str, str] = field(default_factory=dict)


class Cell:
    """The app's connections to one cell, with the rights of the app and not Tenure's."""

    def __init__(self, estate: TestEstate, cell: CellName, tenant: str) -> None:
        settings = settings_of(estate.local.cells[cell])
        self.dsn = settings.app_dsn
        self.sql = psycopg.connect(self.dsn, autocommit=True)
        host = settings.redis_url.rpartition("@")[2]
        self.redis: Any = redis.Redis.from_url(
            f"redis://app-{tenant}:pw-{tenant}@{host}", decode_responses=True, protocol=3
        )
        objects = settings.objects
        assert objects.app_access_key is not None
        assert objects.app_secret_key is not None
        self.bucket = objects.bucket
        self.s3 = s3_client(
            replace(objects, access_key=objects.app_access_key, secret_key=objects.app_secret_key)
        )

    def close(self) -> None:
        self.sql.close()
        self.redis.close()
        self.s3.close()


@dataclass
class LongTransaction:
    """One that is open in a cell while other things happen; what it wrote counts once it is committed."""

    sql: psycopg.Connection[Any]
    document: int
    title: str


class App:
    """Writes of one tenant. Each returns whether it was acknowledged, and `acknowledged` says what that comes to."""

    def __init__(self, estate: TestEstate, tenant: str) -> None:
        self._tenant = tenant
        self._cells = {name: Cell(estate, name, tenant) for name in (CellName("blue"), CellName("green"))}
        self._versions = 0
        self._long: list[LongTransaction] = []
        self.acknowledged = Acknowledged()

    def close(self) -> None:
        for long in self._long:
            long.sql.close()
        for cell in self._cells.values():
            cell.close()

    # -- writes ------------------------------------------------------------------------------------------------------

    def upsert(self, n: int) -> bool:
        title = self._version()

        def work(cell: Cell) -> None:
            cell.sql.execute(_UPSERT, (self._tenant, FIRST_ID + n, title))

        return self._write(work, lambda: self.acknowledged.documents.update({n: title}))

    def update(self, n: int) -> bool:
        title = self._version()
        found = 0

        def work(cell: Cell) -> None:
            nonlocal found
            change = "update documents set title = %s where tenant_id = %s and id = %s"
            found = cell.sql.execute(change, (title, self._tenant, FIRST_ID + n)).rowcount

        def note() -> None:
            assert bool(found) == (n in self.acknowledged.documents), f"document {n} was lost or came back"
            if found:
                self.acknowledged.documents[n] = title

        return self._write(work, note)

    def delete(self, n: int) -> bool:
        def work(cell: Cell) -> None:
            remove = "delete from documents where tenant_id = %s and id = %s"
            cell.sql.execute(remove, (self._tenant, FIRST_ID + n))

        return self._write(work, lambda: self.acknowledged.documents.pop(n, None))

    def bulk(self, n: int) -> bool:
        title = self._version()
        first = 1000 + n * 100  # overlaps with its neighbours

        def work(cell: Cell) -> None:
            bounds = (FIRST_ID + first, FIRST_ID + first + BULK - 1)
            cell.sql.execute(_BULK, (self._tenant, title, *bounds))

        return self._write(
            work, lambda: self.acknowledged.documents.update(dict.fromkeys(range(first, first + BULK), title))
        )

    def savepoint(self, n: int) -> bool:
        """The first write stays, the second one is rolled back to a savepoint."""
        title = self._version()

        def work(cell: Cell) -> None:
            cell.sql.execute(_UPSERT, (self._tenant, FIRST_ID + n, title))
            with cell.sql.transaction(force_rollback=True):
                cell.sql.execute(_UPSERT, (self._tenant, FIRST_ID + n, "rolled back"))
                cell.sql.execute(_UPSERT, (self._tenant, FIRST_ID + n + 500, "rolled back"))

        return self._write(work, lambda: self.acknowledged.documents.update({n: title}))

    def begin_long(self, n: int) -> bool:
        """Open a transaction that has written, without a permit of its own: the trigger's has to hold the fence up."""
        if self._long:
            return False
        title = self._version()
        for cell in self._cells.values():
            sql = psycopg.connect(cell.dsn)
            try:
                with translating(self._tenant):
                    sql.execute("set lock_timeout = '300ms'")
                    sql.execute(_UPSERT, (self._tenant, FIRST_ID + 900 + n, title))
            except (Fenced, psycopg.errors.LockNotAvailable):
                sql.close()
                continue
            self._long.append(LongTransaction(sql=sql, document=900 + n, title=title))
            return True
        return False

    def end_long(self) -> None:
        """Commit what is open. It may be refused: then it was never acknowledged."""
        while self._long:
            long = self._long.pop()
            with long.sql:
                long.sql.commit()
            self.acknowledged.documents[long.document] = long.title

    def set_key(self, n: int, *, expires: bool) -> bool:
        value = self._version()
        key = f"t:{self._tenant}:counter:k{n}"

        def work(cell: Cell) -> None:
            cell.redis.set(key, value, px=LATE_MS if expires else None)

        return self._write(work, lambda: self.acknowledged.keys.update({key: (value, expires)}))

    def set_key_for_a_moment(self, n: int) -> bool:
        key = f"t:{self._tenant}:counter:k{n}"
        value = self._version()

        def work(cell: Cell) -> None:
            cell.redis.set(key, value, px=SOON_MS)

        return self._write(work, lambda: self.acknowledged.keys.pop(key, None))

    def delete_key(self, n: int) -> bool:
        key = f"t:{self._tenant}:counter:k{n}"
        return self._write(lambda cell: cell.redis.delete(key), lambda: self.acknowledged.keys.pop(key, None))

    def put_object(self, n: int) -> bool:
        body = self._version()
        key = f"tenants/{self._tenant}/files/o{n}.txt"

        def work(cell: Cell) -> None:
            touch(cell.sql, self._tenant, "objects", key)
            cell.s3.put_object(Bucket=cell.bucket, Key=key, Body=body.encode())

        return self._write(work, lambda: self.acknowledged.objects.update({key: body}))

    def delete_object(self, n: int) -> bool:
        key = f"tenants/{self._tenant}/files/o{n}.txt"

        def work(cell: Cell) -> None:
            touch(cell.sql, self._tenant, "objects", key)
            cell.s3.delete_object(Bucket=cell.bucket, Key=key)

        return self._write(work, lambda: self.acknowledged.objects.pop(key, None))

    def _version(self) -> str:
        self._versions += 1
        return f"v{self._versions}"

    def _write(self, work: Callable[[Cell], object], note: Callable[[], object]) -> bool:
        """In a transaction with a permit, in the one cell that gives it; refused where none does."""
        for cell in self._cells.values():
            try:
                with translating(self._tenant), cell.sql.transaction():
                    permit(cell.sql, self._tenant)
                    work(cell)
            except Fenced:
                continue
            note()
            return True
        return False

    # -- what is there -----------------------------------------------------------------------------------------------

    def found(self, cell: str) -> Acknowledged:
        """What that cell holds of all that `Acknowledged` speaks of."""
        at = self._cells[CellName(cell)]
        rows = at.sql.execute(
            "select id, title from documents where tenant_id = %s and id >= %s", (self._tenant, FIRST_ID)
        ).fetchall()
        keys = sorted(at.redis.scan_iter(match=f"t:{self._tenant}:counter:k*"))
        prefix = f"tenants/{self._tenant}/files/o"
        listed = at.s3.list_objects_v2(Bucket=at.bucket, Prefix=prefix).get("Contents", [])
        names = [entry["Key"] for entry in listed]
        return Acknowledged(
            documents={n - FIRST_ID: title for n, title in rows},
            keys={k: (at.redis.get(k), at.redis.pttl(k) > SOON_MS) for k in keys},
            objects={k: at.s3.get_object(Bucket=at.bucket, Key=k)["Body"].read().decode() for k in names},
        )

    def await_expiry(self) -> None:
        time.sleep(SOON_MS / 1000 + 0.1)


@contextmanager
def app_of(estate: TestEstate, tenant: str) -> Iterator[App]:
    with ExitStack() as stack:
        app = App(estate, tenant)
        stack.callback(app.close)
        yield app
