"""The journal is a chain: whoever changes, removes, adds or reorders an entry is found out, wherever it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tenure.errors import UsageError
from tenure.model.secret import Secret
from tenure.registry import audit, migrations
from tenure.registry.audit import Audit, Checked, Head
from tenure.registry.database import Database
from tenure.registry.registry import Registry

ODD: tuple[dict[str, Any], ...] = (
    {
        "data": {
            "text": "u\u0308 \U0001f642 \\ \" '",
            "n": 1e300,
            "big": 12345678901234567890,
            "z": None,
            "a": [1, 1.50],
        }
    },
    {"data": {}, "tenant": "acme", "operation": "op_1"},
    {"data": {"n": -0.0}, "tenant": "acme"},
    {"data": {"b": 1, "a": 2}, "operation": "op_1", "age_s": 86_400.5},
)


def fill(registry: Registry, count: int = 10) -> None:
    for n in range(count):
        registry.events.append(f"done_{n}", actor=f"a:{n}", **ODD[n % len(ODD)])


def tamper(registry: Registry, *statements: str) -> None:
    """As the owner of the database can."""
    with registry.database.transaction() as connection:
        connection.execute("alter table registry.events disable trigger user")
        for statement in statements:
            connection.execute(statement.encode())
        connection.execute("alter table registry.events enable trigger user")


def broken(registry: Registry, *heads: Head) -> list[int]:
    return [one.seq for one in registry.audit.verify(heads).breaks]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_BATCH", 4)


def test_what_was_written_is_what_is_there(registry: Registry) -> None:
    assert registry.audit.verify() == Checked(entries=0, head=None, breaks=())
    fill(registry)
    told: list[tuple[int, int]] = []
    found = registry.audit.verify(progress=lambda done, of: told.append((done, of)))
    assert (found.entries, found.breaks) == (10, ())
    assert found.head == registry.audit.head()
    assert found.head is not None
    assert found.head.seq == registry.events.last()
    assert told == [(4, 10), (8, 10), (10, 10)]
    fill(registry, 3)
    assert broken(registry, found.head, found.head) == []
    other = Head(seq=found.head.seq, hash="0" * 64)
    for heads in ((other, found.head), (found.head, other)):
        assert broken(registry, *heads) == [found.head.seq]


def test_the_chain_holds_with_many_writers_at_once(registry: Registry) -> None:
    threads = [threading.Thread(target=fill, args=(registry, 30)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = registry.audit.verify()
    assert (found.entries, found.breaks) == (120, ())


CHANGES = {
    "data": "update registry.events set data = data || '{\"x\": 1}' where seq = 5",
    "actor": "update registry.events set actor = 'somebody' where seq = 5",
    "action": "update registry.events set action = 'undone' where seq = 5",
    "time": "update registry.events set at = at + interval '1 microsecond' where seq = 5",
    "tenant": "update registry.events set tenant = 'globex' where seq = 5",
    "no operation": "update registry.events set operation = null where seq = 6",
    "between fields": "update registry.events set actor = 'a', action = ':4' || action where seq = 5",
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_entry_that_was_changed_is_named(registry: Registry, change: str) -> None:
    fill(registry)
    assert registry.events.list()[4].seq == 5
    tamper(registry, CHANGES[change])
    assert broken(registry) == [6 if change == "no operation" else 5]


def test_an_entry_that_was_removed_or_put_there_is_named(registry: Registry) -> None:
    fill(registry)
    tamper(registry, "delete from registry.events where seq = 5")
    assert broken(registry) == [6]
    tamper(
        registry,
        "insert into registry.events (seq, actor, action, hash)"
        " select 5, 'a', 'forged', hash from registry.events where seq = 4",
    )
    assert broken(registry) == [5, 6]


def test_entries_in_another_order_are_named(registry: Registry) -> None:
    fill(registry)
    tamper(
        registry,
        "update registry.events set seq = 99 where seq = 4",
        "update registry.events set seq = 4 where seq = 5",
        "update registry.events set seq = 5 where seq = 99",
    )
    assert broken(registry) == [4, 5, 6]


def test_a_log_without_its_end_or_written_anew_shows_only_against_a_head(registry: Registry) -> None:
    fill(registry)
    kept = registry.audit.head()
    assert kept is not None
    tamper(registry, "delete from registry.events where seq > 8")
    assert broken(registry) == []
    (gone,) = registry.audit.verify([kept]).breaks
    assert (gone.seq, "is gone" in gone.message) == (10, True)
    tamper(
        registry,
        "update registry.events set actor = 'somebody' where seq = 2",
        "do $$ declare one registry.events; last bytea; begin"
        " for one in select * from registry.events order by seq loop"
        " last := registry.event_hash(last, one);"
        " update registry.events set hash = last where seq = one.seq; end loop; end $$",
    )
    fill(registry, 4)
    assert broken(registry) == []
    assert broken(registry, kept) == [10]


def test_what_is_no_head_is_refused() -> None:
    head = Head(seq=7, hash="ab" * 32)
    assert Head.parse(f" {head}\n") == head
    for wrong in ("", "7", "7:abc", f"-1:{'ab' * 32}", f"7:{'AB' * 32}", f"7:{'ab' * 33}"):
        with pytest.raises(UsageError, match="is no head"):
            Head.parse(wrong)


@pytest.fixture
def older(fresh_database: Callable[..., str]) -> Iterator[Database]:
    """A control database from before there was a chain."""
    database = Database(Secret(fresh_database("control")))
    with database.dedicated() as connection:
        for migration in migrations.known()[:8]:
            migrations.apply(connection, migration)
    yield database
    database.close()


def test_a_journal_from_before_the_chain_is_chained_as_it_is(older: Database) -> None:
    with older.connection() as connection:
        for n in range(6):
            connection.execute("insert into registry.events (actor, action) values ('a', %s)", (f"done_{n}",))
    with older.dedicated() as connection:
        migrations.apply(connection, migrations.known()[8])
    found = Audit(older).verify()
    assert (found.entries, found.breaks) == (6, ())
    with older.connection() as connection, pytest.raises(Exception, match="append"):
        connection.execute("update registry.events set actor = 'b'")
