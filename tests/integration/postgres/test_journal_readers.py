"""Several read one journal: a link, and a backup that is taken meanwhile. Neither takes away what the other needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tenure.client import touch
from tenure.errors import DeadlineExceeded, FenceRefused, StoreRefused
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import Fence
from tenure.stores.postgres import PostgresJournal, PostgresStore, PostgresTenantFence
from tests.contract.rigs.postgres import ITEMS, LEFTOVERS, ROWS
from tests.folders import prepare

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
FILES, LOGS = StoreName("files"), StoreName("logs")
READER = "backup"


@pytest.fixture
def dsn(fresh_database: Callable[..., str]) -> str:
    made = fresh_database("pg18a")
    prepare(made)
    return made


@pytest.fixture
def carrier(dsn: str) -> Iterator[PostgresStore]:
    store = PostgresStore(name=StoreName("postgres"), cell=CellName("blue"), dsn=Secret(dsn), tables=[ITEMS])
    yield store
    store.close()


@pytest.fixture
def journal(carrier: PostgresStore) -> PostgresJournal:
    return PostgresJournal(carrier)


def fence(token: int = 1, *, tenant: TenantId = ACME) -> Fence:
    return Fence(tenant=tenant, epoch=1, token=token)


def write(dsn: str, *keys: str, store: StoreName = FILES, tenant: TenantId = ACME) -> None:
    with psycopg.connect(dsn) as app:
        for key in keys:
            touch(app, tenant, store, key)


def unread(journal: PostgresJournal, store: StoreName = FILES) -> list[str]:
    return [key for _, key in journal.unread(ACME, store, READER, most=1000)]


def left(dsn: str) -> list[str]:
    with psycopg.connect(dsn, autocommit=True) as admin:
        return [str(r[0]) for query in (LEFTOVERS, ROWS) for r in admin.execute(query.encode())]


def test_a_reader_and_a_link_each_get_every_change_and_take_away_only_their_own(
    dsn: str, journal: PostgresJournal
) -> None:
    journal.begin(ACME, fence())
    write(dsn, "before")
    journal.subscribe(ACME, FILES, READER, fence())
    write(dsn, "a", "b")
    write(dsn, "elsewhere", store=LOGS)
    write(dsn, "neighbour's", tenant=GLOBEX)
    assert unread(journal) == ["a", "b"]
    pending = journal.pending(ACME, FILES)
    assert [key for _, key in pending] == ["before", "a", "b"]
    journal.settle(ACME, [row for row, _ in pending])
    assert journal.pending(ACME, FILES) == []
    assert unread(journal) == ["a", "b"]
    journal.settle(ACME, [row for row, _ in journal.unread(ACME, FILES, READER, most=1)])
    assert unread(journal) == ["b"]
    assert [key for _, key in journal.pending(ACME, LOGS)] == ["elsewhere"]


def test_without_a_link_only_the_readers_rows_are_written_and_the_last_reader_leaves_nothing(
    dsn: str, journal: PostgresJournal
) -> None:
    before = left(dsn)
    for store in (FILES, LOGS):
        journal.subscribe(ACME, store, READER, fence())
    write(dsn, "a")
    assert unread(journal) == ["a"]
    assert journal.pending(ACME, FILES) == []
    journal.unsubscribe(ACME, FILES, READER, fence())
    write(dsn, "b")
    write(dsn, "c", store=LOGS)
    assert unread(journal) == []
    assert unread(journal, LOGS) == ["c"]
    for _ in range(2):
        journal.unsubscribe(ACME, LOGS, READER, fence())
    assert left(dsn) == before


def test_a_transaction_that_is_open_when_a_reader_comes_is_waited_for(
    dsn: str, journal: PostgresJournal
) -> None:
    with psycopg.connect(dsn) as app:
        touch(app, ACME, FILES, "early")
        with pytest.raises(DeadlineExceeded, match="open transactions"):
            journal.subscribe(ACME, FILES, READER, fence(), deadline_s=0.3)
    journal.subscribe(ACME, FILES, READER, fence())
    write(dsn, "late")
    assert unread(journal) == ["late"]


def test_a_transaction_whose_snapshot_is_older_than_the_reader_is_sent_back(
    dsn: str, journal: PostgresJournal
) -> None:
    journal.begin(ACME, fence())
    with psycopg.connect(dsn) as app:
        app.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        app.execute("select 1")
        journal.subscribe(ACME, FILES, READER, fence())
        with pytest.raises(psycopg.errors.SerializationFailure):
            touch(app, ACME, FILES, "unseen")
        app.rollback()


def test_what_a_crash_has_left_goes_with_the_next_reader_of_the_name(
    dsn: str, journal: PostgresJournal
) -> None:
    journal.subscribe(ACME, FILES, READER, fence(1))
    write(dsn, "a")
    journal.subscribe(ACME, FILES, READER, fence(2))
    assert unread(journal) == []
    for stale in (journal.subscribe, journal.unsubscribe):
        with pytest.raises(FenceRefused):
            stale(ACME, FILES, READER, fence(1))
    write(dsn, "b")
    assert unread(journal) == ["b"]


def test_a_reader_counts_as_a_link_so_nobody_forgets_the_tenant_under_it(
    dsn: str, carrier: PostgresStore, journal: PostgresJournal
) -> None:
    journal.subscribe(ACME, FILES, READER, fence())
    carrier.fence(fence(), expires_in_s=None, drain_s=5.0)
    carrier.open(fence())
    write(dsn, "a")
    assert unread(journal) == ["a"]
    carrier.fence(fence(), expires_in_s=None, drain_s=5.0)
    with pytest.raises(StoreRefused, match="the backup of files"):
        carrier.retire(fence())


def test_an_older_version_without_readers_still_knows_of_copies(
    dsn: str, carrier: PostgresStore, journal: PostgresJournal
) -> None:
    anchor = PostgresTenantFence(carrier)
    anchor.join(fence(), FILES, "link-acme")
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("drop table tenure.journal_reader")
    journal.unsubscribe(ACME, FILES, READER, fence())
    assert anchor.copier(ACME, FILES).link == "link-acme"
    with pytest.raises(StoreRefused, match="link-acme"):
        carrier.retire(fence())
