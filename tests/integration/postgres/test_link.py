"""A whole link between PostgreSQL 16 and 18: copy, switches both ways under writers, and nothing left of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from tenure.errors import DeadlineExceeded, EvidenceStale, FenceRefused, StoreRefused, StoreUnavailable
from tenure.model.names import StoreName, TenantId
from tenure.operations.schema_change import schema_changes
from tenure.stores.postgres import PostgresJournal, PostgresLiveCopy, PostgresStore, replication
from tests.integration.postgres.cells import (
    ACME,
    NEIGHBOUR,
    SCHEMA,
    TABLES,
    Cells,
    eventually,
    fence,
    make_store,
)


def digests(store: PostgresStore, tenant: TenantId = ACME) -> dict[str, str]:
    return {name: c.digest for name, c in store.inventory(tenant).collections.items()}


def switch(copy: PostgresLiveCopy, token: int) -> None:
    """The hold: fence, mark, seal, last comparison, fence made permanent, open."""
    copy.source.fence(fence(token), expires_in_s=10, drain_s=5)
    copy.seal(copy.mark(), timeout_s=20)
    assert copy.compare_changed().equal
    copy.source.fence(fence(token), expires_in_s=None, drain_s=1)
    copy.target.open(fence(token))


class Writers:
    """Three apps that insert numbered rows wherever the tenant is served, and remember what was acknowledged."""

    def __init__(self, cells: Cells) -> None:
        self.acknowledged: list[int] = []
        self.refused = 0
        self._cells = cells
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(3)]
        for thread in self._threads:
            thread.start()

    def _write(self, n: int) -> None:
        apps = [self._cells.connect(s) for s in (self._cells.blue, self._cells.green)]
        key = 1_000_000 * (n + 1)
        while not self._stop.wait(0.002):
            key += 1
            while True:
                try:
                    with apps[0].transaction():
                        apps[0].execute(
                            "insert into public.parts values ('acme', %s, null, 'written')", (key,)
                        )
                        self._stop.wait(0.003)  # a transaction that is open when the fence goes down
                    break
                except psycopg.DatabaseError as error:
                    if error.sqlstate != "TN001":
                        raise
                    self.refused += 1
                    apps.reverse()
                    if self._stop.wait(0.002):
                        return
            self.acknowledged.append(key)

    def stop(self) -> set[int]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return set(self.acknowledged)


def test_ten_switches_under_writers_lose_no_acknowledged_write(cells: Cells) -> None:
    neighbours = digests(cells.blue, NEIGHBOUR)
    forward = cells.link()
    assert forward.compare().equal
    back = forward.arm_reverse(fence())
    assert back.compare().equal
    writers = Writers(cells)
    try:
        for token in range(2, 12):
            before = len(writers.acknowledged)
            eventually(lambda n=before: len(writers.acknowledged) > n + 20, "writers get on")  # type: ignore[misc]
            switch(forward if token % 2 == 0 else back, token)
    finally:
        acknowledged = writers.stop()
    assert writers.refused
    forward.seal(forward.mark(), timeout_s=20)
    back.seal(back.mark(), timeout_s=20)
    for store in (cells.blue, cells.green):
        ids = {r[0] for r in cells.rows(store, "select id from public.parts where id > 1000000")}
        assert ids >= acknowledged
    assert digests(cells.blue) == digests(cells.green)
    assert digests(cells.blue, NEIGHBOUR) == neighbours
    assert cells.green.inventory(NEIGHBOUR).items == 0


def test_a_completed_link_leaves_nothing_but_the_tenant_in_its_new_cell(cells: Cells) -> None:
    before = digests(cells.blue)
    forward = cells.link()
    forward.compare()
    forward.arm_reverse(fence())
    switch(forward, 2)
    forward.detach()
    for copy in (cells.copy(cells.green, cells.blue), cells.copy(), cells.copy()):
        copy.stop(fence(2))
    assert not cells.blue.fence_state(ACME).writable
    assert cells.blue.erase(fence(2)) > 0
    cells.blue.open(fence(2))
    assert cells.leftovers(cells.blue) == []
    assert cells.leftovers(cells.green) == []
    assert cells.blue.inventory(ACME).items == 0
    assert digests(cells.green) == before
    cells.run(cells.green, "insert into public.parts values ('acme', 9999, null, 'lives here')")


def test_erasing_is_refused_while_a_link_is_there(cells: Cells) -> None:
    forward = cells.link()
    with pytest.raises(StoreRefused, match="link"):
        cells.green.erase(fence())
    forward.stop(fence())
    assert cells.green.erase(fence()) > 0


def test_what_a_session_with_an_origin_deletes_does_not_flow_to_the_other_side(
    cells: Cells,
) -> None:
    forward = cells.link()
    reverse = forward.arm_reverse(fence())
    before = digests(cells.blue)
    cells.past_the_fence(cells.green, "delete from public.parts where tenant_id = 'acme'")
    reverse.seal(reverse.mark(), timeout_s=20)
    assert digests(cells.blue) == before


def test_erasing_refuses_to_leave_rows_of_unknown_tables_without_what_they_refer_to(cells: Cells) -> None:
    cells.run(
        cells.blue,
        "create table public.notes (id int primary key, t text, d bigint,"
        " foreign key (t, d) references public.documents (tenant_id, id))",
        "insert into public.notes select 1, tenant_id, id from public.documents where tenant_id = 'acme' limit 1",
    )
    cells.blue.fence(fence(), expires_in_s=None, drain_s=1)
    with pytest.raises(StoreRefused, match=r"public\.notes"):
        cells.blue.erase(fence())
    cells.run(cells.blue, "delete from public.notes")
    assert cells.blue.erase(fence()) > 0


def test_an_erasure_stops_when_the_fence_is_lifted_under_it(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure.stores.postgres.repair.ERASE_BATCH", 10)
    cells.blue.fence(fence(), expires_in_s=None, drain_s=1)
    items = cells.blue.inventory(ACME).items
    with pytest.raises(FenceRefused):
        cells.blue.erase(fence(), progress=lambda _items: cells.blue.open(fence(2)))
    assert cells.blue.inventory(ACME).items == items - 10


def test_sequences_of_the_target_are_raised_and_never_lowered(cells: Cells) -> None:
    def value(store: PostgresStore) -> int:
        return int(cells.rows(store, "select last_value from public.documents_id_seq")[0][0])

    forward = cells.link()
    forward.seal(forward.mark(), timeout_s=20)
    assert value(cells.green) >= value(cells.blue)
    cells.run(cells.green, "select setval('public.documents_id_seq', 5000000)")
    forward.seal(forward.mark(), timeout_s=20)
    assert value(cells.green) == 5000000


def test_a_schema_change_during_a_link_shows_in_the_fingerprint(cells: Cells) -> None:
    copy = cells.link()
    before = copy.fingerprint()
    for store in (cells.blue, cells.green):
        cells.run(store, "alter table public.parts add column note text")
    cells.run(cells.blue, "alter table public.parts alter column body set not null")
    assert schema_changes(before, copy.fingerprint()) == [
        "public.parts, column body was text and is text not null",
        "public.parts, column note (text) was added",
    ]
    cells.run(cells.blue, "alter table public.parts alter column note type varchar(5)")
    with pytest.raises(StoreRefused, match="column note: character varying"):
        copy.compare()


def test_starting_a_link_waits_for_long_transactions_only_so_long_and_names_them(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure.stores.postgres.replication.SLOT_DEADLINE_S", 0.5)
    cells.green.fence(fence(), expires_in_s=None, drain_s=1)
    cells.run(cells.blue, "create table public.other (id int)")
    busy = cells.connect(cells.blue)
    with busy.transaction():
        busy.execute("insert into public.other values (1)")
        with pytest.raises(DeadlineExceeded, match=f"pid {busy.info.backend_pid}"):
            cells.copy().start(fence())
    assert not [n for n in cells.leftovers(cells.blue) if n.startswith("slot")]
    cells.link()


def test_a_conflict_on_the_target_is_reported_and_not_waited_for(cells: Cells) -> None:
    copy = cells.link()
    cells.past_the_fence(cells.green, "insert into public.parts values ('acme', 7777, null, 'in the way')")
    cells.run(cells.blue, "insert into public.parts values ('acme', 7777, null, 'original')")
    mark = copy.mark()
    with pytest.raises(StoreRefused, match="appl"):
        copy.seal(mark, timeout_s=15)
    with pytest.raises(StoreRefused):
        eventually(lambda: copy.progress() is None, "the copy reports that it cannot go on", 10)
    copy.stop(fence())


def test_a_seal_that_takes_too_long_ends_in_time(cells: Cells) -> None:
    copy = cells.link()
    locker = cells.connect(cells.green)
    with locker.transaction():
        locker.execute("lock table public.parts in share mode")
        cells.run(cells.blue, "insert into public.parts values ('acme', 7777, null, 'has to wait')")
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            copy.seal(copy.mark(), timeout_s=0.5)
        assert time.monotonic() - began < 2
    copy.seal(copy.mark(), timeout_s=10)


def test_what_a_crash_has_left_is_removed(cells: Cells) -> None:
    cells.link()
    cells.copy().arm_reverse(fence())
    cells.run(
        cells.blue,
        *(f"select pg_replication_origin_create('{cells.copy().direction}_repair_0')" for _ in "1"),
    )
    subscription = cells.rows(
        cells.green, "select subname from pg_subscription where subname like 'tenure%'"
    )[0][0]
    for statement in ("disable", "set (slot_name = none)"):
        cells.run(cells.green, f"alter subscription {subscription} {statement}")
    cells.run(cells.green, f"drop subscription {subscription}")
    cells.copy(cells.green, cells.blue).stop(fence())
    cells.copy().stop(fence())
    cells.green.erase(fence())
    cells.green.open(fence())
    assert cells.leftovers(cells.blue) == []
    assert cells.leftovers(cells.green) == []


def test_slots_of_interrupted_table_copies_go_but_not_those_of_another_server(cells: Cells) -> None:
    copy = cells.link()
    oid = cells.rows(
        cells.green, f"select oid::int8 from pg_subscription where subname = '{copy.direction}'"
    )[0][0]
    ours = replication.system_identifier(cells.green.pool)
    for subscriber in (ours, 7_000_000_000_000_000_001):
        cells.run(
            cells.blue,
            f"select pg_create_logical_replication_slot('pg_{oid}_sync_16999_{subscriber}', 'pgoutput')",
        )
    copy.stop(fence())
    theirs = f"pg_{oid}_sync_16999_7000000000000000001"
    assert cells.leftovers(cells.blue) == [f"slot {theirs}"]
    cells.run(cells.blue, f"select pg_drop_replication_slot('{theirs}')")


def test_an_unreachable_side_is_reported_and_the_other_cleaned(cells: Cells) -> None:
    forward = cells.link()
    forward.detach()
    gone = make_store("blue", "host=127.0.0.1 port=1 dbname=none user=none")
    with pytest.raises(StoreUnavailable):
        PostgresLiveCopy(link="test", source=gone, target=cells.green, tenant=ACME).stop(fence())
    assert not [n for n in cells.leftovers(cells.green) if n.startswith("subscription")]
    cells.copy().stop(fence())
    assert cells.leftovers(cells.blue) == []


def test_a_link_can_follow_between_two_databases_of_one_server(
    cells: Cells, fresh_database: Callable[..., str]
) -> None:
    dsn = fresh_database("pg16")
    cells.run(cells.blue, "delete from public.kinds")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
    there = make_store("red", dsn, TABLES)
    there.fence(fence(), expires_in_s=None, drain_s=1)
    copy = PostgresLiveCopy(link="test", source=cells.blue, target=there, tenant=ACME)
    copy.start(fence())
    eventually(lambda: copy.progress().following, "the copy follows")
    assert copy.compare().equal
    copy.arm_reverse(fence()).stop(fence())
    copy.stop(fence())
    there.close()


def test_the_journal_gives_what_was_touched_and_forgets_what_was_settled(cells: Cells) -> None:
    journal = PostgresJournal(cells.blue)
    objects = StoreName("objects")
    cells.blue.fence(fence(tenant=NEIGHBOUR), expires_in_s=None, drain_s=1)
    cells.run(cells.blue, "select tenure.touch('acme', 'objects', 'before')")
    journal.begin(ACME, fence())
    copy = cells.link()
    journal.begin(ACME, fence())
    for key in ("a", "b", "a"):
        cells.run(cells.blue, f"select tenure.touch('acme', 'objects', '{key}')")
    assert journal.pending(ACME, copy.source.name) == []
    first = journal.pending(ACME, objects)
    assert [key for _, key in first] == ["a", "b", "a"]
    journal.settle(ACME, [first[0][0], first[1][0]])
    assert journal.pending(ACME, objects) == first[2:]
    copy.stop(fence())
    assert journal.pending(ACME, objects) == []


def test_changes_without_a_comparison_are_no_evidence(cells: Cells) -> None:
    copy = cells.link()
    with pytest.raises(EvidenceStale):
        copy.compare_changed()
    copy.compare()
    assert copy.compare_changed().equal
    cells.run(
        cells.blue,
        *(
            f"drop trigger {r[0]} on public.parts"
            for r in cells.rows(
                cells.blue,
                "select tgname from pg_trigger where tgrelid = 'public.parts'::regclass and tgname like 'tenure%'",
            )
        ),
    )
    cells.blue.fence(fence(2), expires_in_s=10, drain_s=1)
    with pytest.raises(EvidenceStale):
        copy.compare_changed()


def test_a_direction_says_what_keeps_it_from_following_and_what_it_makes_the_source_keep(
    cells: Cells,
) -> None:
    copy = cells.link()
    direction = copy.direction
    eventually(lambda: copy.standing().problem is None, "it follows")
    cells.run(cells.green, f"alter subscription {direction} disable")
    kept = copy.standing().retained_bytes
    cells.run(cells.blue, "select pg_logical_emit_message(false, 'test', repeat('x', 3000000))")
    seen = copy.standing()
    assert seen.problem is not None
    assert "disabled" in seen.problem
    assert not seen.lost
    assert seen.retained_bytes >= kept + 3_000_000
    assert seen.lag_bytes is not None
    assert seen.lag_bytes >= 3_000_000
    eventually(
        lambda: (
            not cells.rows(
                cells.blue, f"select from pg_replication_slots where active and slot_name = '{direction}'"
            )
        ),
        "the slot is free",
    )
    cells.run(cells.blue, f"select pg_drop_replication_slot('{direction}')")
    gone = copy.standing()
    assert gone.lost
    assert "is gone" in str(gone.problem)
    copy.stop(fence())
