"""A comparison names every row that differs, and nothing else; a repair mends exactly those."""

from __future__ import annotations

import json
import threading

import pytest

from tenure.errors import EvidenceStale
from tenure.model.comparison import Comparison, Difference, DifferenceKind
from tenure.stores.postgres import PostgresLiveCopy
from tenure.stores.postgres.guard import MOST_LOGGED
from tests.integration.postgres.cells import ACME, NEIGHBOUR, Cells, fence

M, X, N = DifferenceKind.MISMATCHED, DifferenceKind.EXTRA, DifferenceKind.MISSING

# One change per row of public.kinds, from 1 on: every type, and values that an equality of the type calls equal.
CHANGES = (
    "f8 = '-0.0'",
    "f8 = 'NaN'",
    "f8 = 'Infinity'",
    "f8 = null",
    "n = 1.5",
    """j = '{"b": 2, "a": 1}'""",
    """jb = '{"a": 1, "b": 3}'""",
    "e = 'green'",
    "es = '{green,red}'",
    "v = '[1,2,3.0000002]'",
    "x = 'a c'",
    "p = '(1,2.5)'",
    "i = '24 hours'",
    "b = '\\x00fe'",
    "a = '{x,\"NULL\"}'",
)


def found(comparison: Comparison) -> set[tuple[str, str, DifferenceKind]]:
    assert comparison.processed == comparison.matching + len(comparison.differences)
    return {(d.collection.removeprefix("public."), d.key, d.kind) for d in comparison.differences}


def kind_key(n: int) -> str:
    return json.dumps(["acme", str(n)])


@pytest.fixture
def copy(cells: Cells) -> PostgresLiveCopy:
    cells.run(cells.blue, "update public.kinds set f8 = 0.0 where tenant_id = 'acme' and id = 1")
    return cells.link()


def test_equal_sides_match_and_every_row_is_counted(cells: Cells, copy: PostgresLiveCopy) -> None:
    seen: list[int] = []
    comparison = copy.compare(progress=seen.append)
    assert comparison.equal
    assert comparison.processed == comparison.matching == 300 + 300 + 30 + 20 == seen[-1]


def test_differences_of_every_type_are_named_and_mended(cells: Cells, copy: PostgresLiveCopy) -> None:
    neighbour = cells.blue.inventory(NEIGHBOUR)
    copy.compare()
    cells.past_the_fence(
        cells.green,
        *(
            f"update public.kinds set {change} where tenant_id = 'acme' and id = {n}"
            for n, change in enumerate(CHANGES, 1)
        ),
        "delete from public.kinds where tenant_id = 'acme' and id = 20",
        "insert into public.kinds (tenant_id, id) values ('acme', 99)",
        "insert into public.kinds (tenant_id, id) values ('globex', 98)",
        "update public.visits set n = n + 1000 where tenant_id = 'acme' and day = '2026-01-05'",
    )
    comparison = copy.compare()
    assert found(comparison) == {
        *(("kinds", kind_key(n), M) for n in range(1, len(CHANGES) + 1)),
        ("kinds", kind_key(20), N),
        ("kinds", kind_key(99), X),
        ("visits", '["acme", "2026-01-05", "16"]', N),
        ("visits", '["acme", "2026-01-05", "1016"]', X),
    }
    assert copy.repair(comparison.differences, fence()) == len(comparison.differences)
    again = copy.compare()
    assert again.equal
    assert again.processed == 650
    assert cells.rows(cells.green, "select count(*) from public.kinds where tenant_id = 'globex'") == [(1,)]
    assert cells.blue.inventory(NEIGHBOUR) == neighbour


def test_a_comparison_that_found_differences_is_no_evidence(cells: Cells, copy: PostgresLiveCopy) -> None:
    assert copy.compare().equal
    cells.past_the_fence(cells.green, "update public.kinds set n = 7 where tenant_id = 'acme' and id = 3")
    differences = copy.compare().differences
    with pytest.raises(EvidenceStale):
        copy.compare_changed()
    assert copy.repair(differences, fence()) == 1
    with pytest.raises(EvidenceStale):
        copy.compare_changed()
    assert copy.compare().equal
    assert copy.compare_changed().equal


def test_two_values_that_change_places_are_seen(cells: Cells, copy: PostgresLiveCopy) -> None:
    """A sum of hashes that are linear in the columns would not see it."""
    cells.past_the_fence(
        cells.green,
        "update public.parts set body = case id when 1 then 'body 2' else 'body 1' end"
        " where tenant_id = 'acme' and id in (1, 2)",
        "update public.parts set document_id = case id when 3 then 4 else 3 end"
        " where tenant_id = 'acme' and id in (3, 4)",
    )
    assert {key for _, key, _ in found(copy.compare())} == {kind_key(n) for n in (1, 2, 3, 4)}


def test_texts_differ_by_every_byte_and_by_whether_they_are_there(
    cells: Cells, copy: PostgresLiveCopy
) -> None:
    changed = {1: "null", 2: "''", 3: "body || ' '", 4: "upper(body)", 5: "E'e\\u0301'", 6: "E'\\u00e9'"}
    cells.run(cells.blue, *(f"update public.parts set body = '' where id = {n}" for n in (1, 5)))
    cells.run(cells.blue, "update public.parts set body = null where id in (2, 6)")
    copy.seal(copy.mark(), timeout_s=20)
    assert copy.compare().equal
    cells.past_the_fence(
        cells.green,
        *(
            f"update public.parts set body = {body} where tenant_id = 'acme' and id = {n}"
            for n, body in changed.items()
        ),
    )
    assert {key for _, key, _ in found(copy.compare())} == {kind_key(n) for n in changed}


def test_the_settings_of_a_server_do_not_make_rows_differ(cells: Cells, copy: PostgresLiveCopy) -> None:
    name = cells.rows(cells.green, "select current_database()")[0][0]
    for setting in (
        "datestyle = 'SQL, DMY'",
        "timezone = 'Asia/Kolkata'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
    ):
        cells.run(cells.green, f'alter database "{name}" set {setting}')
    cells.green.close()
    assert copy.compare().equal
    assert cells.blue.inventory(ACME).collections.keys() == cells.green.inventory(ACME).collections.keys()
    for collection, there in cells.green.inventory(ACME).collections.items():
        assert there.digest == cells.blue.inventory(ACME).collections[collection].digest


def test_changes_under_way_are_no_differences_but_planted_ones_are(
    cells: Cells, copy: PostgresLiveCopy
) -> None:
    stop = threading.Event()

    def write() -> None:
        app = cells.connect(cells.blue)
        n = 10_000
        while not stop.wait(0.001):
            n += 1
            app.execute("insert into public.parts values ('acme', %s, null, 'new')", (n,))
            app.execute(
                "update public.documents set title = %s where tenant_id = 'acme' and id = %s",
                (str(n), n % 300),
            )
            app.execute("delete from public.parts where tenant_id = 'acme' and id = %s", (n - 5,))

    writing = cells.in_background(write)
    try:
        cells.past_the_fence(cells.green, "update public.kinds set n = 7 where tenant_id = 'acme' and id = 3")
        comparisons = [copy.compare() for _ in range(5)]
        assert [found(c) for c in comparisons] == [{("kinds", kind_key(3), M)}] * 5
        assert comparisons[-1].changed_meanwhile
        assert copy.repair(comparisons[0].differences, fence()) == 1
        assert copy.compare().equal
    finally:
        stop.set()
        writing.result()
    cells.blue.fence(fence(2), expires_in_s=None, drain_s=5)
    copy.seal(copy.mark(), timeout_s=20)
    changed = copy.compare_changed()
    assert changed.equal
    assert changed.processed
    assert copy.compare_changed().processed == 0


def test_what_is_mended_while_the_same_rows_change_ends_up_equal(
    cells: Cells, copy: PostgresLiveCopy
) -> None:
    stop = threading.Event()

    def write() -> None:
        app = cells.connect(cells.blue)
        n = 0
        while not stop.wait(0.001):
            n += 1
            app.execute("delete from public.parts where tenant_id = 'acme' and id = 1")
            app.execute("insert into public.parts values ('acme', 1, null, %s)", (f"version {n}",))
            app.execute(
                "update public.parts set body = %s where tenant_id = 'acme' and id = 2", (f"version {n}",)
            )

    copy.compare()
    cells.past_the_fence(
        cells.green, "update public.parts set body = 'wrong' where tenant_id = 'acme' and id in (1, 2, 3)"
    )
    differences = copy.compare().differences
    assert len(differences) == 3
    writing = cells.in_background(write)
    try:
        for _ in range(10):
            copy.repair(differences, fence())
    finally:
        stop.set()
        writing.result()
    copy.seal(copy.mark(), timeout_s=20)
    assert copy.compare().equal


def test_a_repair_does_not_flow_back(cells: Cells, copy: PostgresLiveCopy) -> None:
    reverse = copy.arm_reverse(fence())
    copy.compare()
    before = cells.rows(cells.blue, "select xmin::text, * from public.documents order by 1, 2, 3")
    cells.past_the_fence(cells.green, "update public.documents set title = 'wrong' where tenant_id = 'acme'")
    assert copy.repair(copy.compare().differences, fence()) == 300
    reverse.seal(reverse.mark(), timeout_s=20)
    assert cells.rows(cells.blue, "select xmin::text, * from public.documents order by 1, 2, 3") == before


def test_a_resync_mends_many_rows_with_several_workers(
    cells: Cells, copy: PostgresLiveCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure.stores.postgres.repair.REPAIR_BATCH", 20)
    cells.past_the_fence(
        cells.green,
        "update public.documents set title = 'wrong' where tenant_id = 'acme' and id % 2 = 0",
        "delete from public.parts where tenant_id = 'acme' and id % 3 = 0",
        "insert into public.visits select 'acme', '2026-03-01', i from generate_series(1, 100) i",
    )
    copy.resync(fence(), workers=3)
    assert copy.compare().equal
    assert not [n for n in cells.leftovers(cells.green) if n.startswith("origin")]


def test_a_key_that_names_another_tenants_row_repairs_nothing(cells: Cells, copy: PostgresLiveCopy) -> None:
    cells.run(cells.green, "insert into public.parts values ('globex', 1, null, 'of the neighbour')")
    key = json.dumps(["globex", "1"])
    assert copy.repair([Difference(collection="public.parts", key=key, kind=X)], fence()) == 0
    assert cells.rows(cells.green, "select body from public.parts where tenant_id = 'globex'") == [
        ("of the neighbour",)
    ]


BULK = "insert into public.parts select 'acme', n, null, 'new' from generate_series({}, {}) n"


def recorded(cells: Cells) -> tuple[int, int]:
    """How many changes are remembered one by one, and how many times a relation as a whole."""
    rows = cells.rows(
        cells.blue,
        "select (select count(*) from tenure.touched) + (select count(*) from tenure.touched_log),"
        " (select count(*) from tenure.touched_in_bulk)",
    )
    return int(rows[0][0]), int(rows[0][1])


def test_a_bulk_write_is_remembered_as_a_whole_and_takes_no_more_room_the_next_time(
    cells: Cells, copy: PostgresLiveCopy
) -> None:
    copy.compare()
    cells.run(cells.blue, "insert into public.parts values ('acme', 9999, null, 'one')")
    assert recorded(cells) == (1, 0)
    cells.run(cells.blue, BULK.format(20_001, 23_000))
    some, in_bulk = recorded(cells)
    assert 3 * 64 < some - 1 <= 4 * 64
    assert in_bulk == 1
    for _ in range(3):
        cells.run(cells.blue, "update public.parts set body = 'newer' where tenant_id = 'acme' and id = 9999")
        cells.run(cells.blue, "delete from public.parts where tenant_id = 'acme' and id > 20000")
        cells.run(cells.blue, BULK.format(20_001, 23_000))
    many, in_bulk = recorded(cells)
    assert many - some - 3 <= 6 * 4 * 64
    assert in_bulk == 1
    cells.run(cells.blue, BULK.format(30_001, 30_100), BULK.replace("acme", "globex").format(30_001, 33_000))
    assert recorded(cells) == (many + 100, 1)
    cells.run(cells.blue, "update public.parts set id = id + 70000 where tenant_id = 'acme' and id > 30090")
    assert recorded(cells) == (many + 120, 1)
    app = cells.connect(cells.blue)
    with app.transaction():
        app.execute("savepoint undone")
        app.execute(BULK.format(40_001, 43_000).encode())
        app.execute("rollback to savepoint undone")
        app.execute(BULK.format(50_001, 50_010).encode())
    assert recorded(cells) == (many + 130, 1)


def test_many_single_changes_are_remembered_by_their_keys_and_take_no_more_room_the_next_time(
    cells: Cells, copy: PostgresLiveCopy
) -> None:
    copy.compare()
    body = "update public.parts set body = 'newer' where tenant_id = 'acme' and id = 1"
    cells.run(cells.blue, body)
    gate = cells.rows(cells.blue, "select tenure.gate('acme')::text")[0][0]
    cells.run(cells.blue, f"select setval('{gate}', {MOST_LOGGED - 2})")
    cells.run(cells.blue, *[body] * 10)
    logged = int(cells.rows(cells.blue, "select count(*) from tenure.touched_log")[0][0])
    assert logged <= 3
    assert recorded(cells) == (logged + 1, 0)
    cells.past_the_fence(cells.green, "update public.parts set body = '' where tenant_id = 'acme' and id = 1")
    copy.seal(copy.mark(), timeout_s=20)
    assert found(copy.compare_changed()) == {("parts", kind_key(1), M)}
    cells.run(cells.blue, body.replace("newer", "newest"))
    copy.seal(copy.mark(), timeout_s=20)
    assert copy.compare_changed().equal
    assert recorded(cells) == (0, 0)
    cells.run(cells.blue, *[body] * 3)
    assert cells.rows(cells.blue, "select count(*) from tenure.touched_log") == [(2,)]


def test_only_the_change_that_was_read_is_settled(cells: Cells, copy: PostgresLiveCopy) -> None:
    copy.compare()
    change = "update public.parts set body = 'newer' where tenant_id = 'acme' and id = 1"
    logged = "select xact::text from tenure.touched_log order by xact"
    cells.run(cells.blue, *[change] * 2)
    read = str(cells.rows(cells.blue, logged)[0][0])
    cells.run(cells.blue, change)
    seen = json.dumps([["public.parts", ["acme", "1"], None, read]])
    left = [row for row in cells.rows(cells.blue, logged) if row != (read,)]
    cells.run(cells.blue, f"select tenure.settle('acme', '{seen}')")
    assert cells.rows(cells.blue, logged) == left
    assert left


def test_a_change_that_is_still_open_when_others_are_settled_stays_remembered(
    cells: Cells, copy: PostgresLiveCopy
) -> None:
    copy.compare()
    change = "update public.parts set body = 'newer' where tenant_id = 'acme' and id = {}"
    cells.run(cells.blue, change.format(1))
    app = cells.connect(cells.blue)
    with app.transaction():
        app.execute(change.format(2).encode())
        cells.run(cells.blue, change.format(1))
        copy.seal(copy.mark(), timeout_s=20)
        assert copy.compare_changed().processed == 1
    cells.past_the_fence(cells.green, "update public.parts set body = '' where tenant_id = 'acme' and id = 2")
    copy.seal(copy.mark(), timeout_s=20)
    cells.past_the_fence(cells.green, "update public.parts set body = '' where tenant_id = 'acme' and id = 2")
    assert found(copy.compare_changed()) == {("parts", kind_key(2), M)}


def test_after_a_bulk_write_the_whole_relation_is_compared_again(
    cells: Cells, copy: PostgresLiveCopy
) -> None:
    copy.compare()
    cells.run(
        cells.blue,
        BULK.format(20_001, 21_000),
        "update public.kinds set n = 2 where tenant_id = 'acme' and id = 1",
    )
    cells.past_the_fence(cells.green, "update public.parts set body = '' where tenant_id = 'acme' and id = 7")
    copy.seal(copy.mark(), timeout_s=20)
    for _ in range(2):
        seen = copy.compare_changed()
        assert found(seen) == {("parts", kind_key(7), M)}
        assert recorded(cells)[1] == 1, "what differs stays remembered"
    assert copy.repair(seen.differences, fence()) == 1
    seen = copy.compare_changed()
    assert seen.equal
    assert seen.processed == 300 + 1000
    assert recorded(cells) == (0, 0)
    assert copy.compare_changed().processed == 0


def test_a_comparison_during_bulk_writes_names_what_was_planted_and_nothing_else(
    cells: Cells, copy: PostgresLiveCopy
) -> None:
    cells.past_the_fence(cells.green, "update public.parts set body = '' where tenant_id = 'acme' and id = 7")
    stop = threading.Event()

    def write() -> None:
        app = cells.connect(cells.blue)
        while not stop.wait(0.3):
            app.execute(b"delete from public.parts where tenant_id = 'acme' and id > 20000")
            app.execute(BULK.format(20_001, 24_000).encode())

    writing = cells.in_background(write)
    try:
        comparisons = [copy.compare() for _ in range(4)]
    finally:
        stop.set()
        writing.result()
    assert {d for c in comparisons for d in found(c)} <= {("parts", kind_key(7), M)}
    assert found(copy.compare()) == {("parts", kind_key(7), M)}


def test_inside_a_hold_a_relation_that_takes_too_long_is_not_compared_whole(
    cells: Cells, copy: PostgresLiveCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert copy.compare().equal
    cells.run(cells.blue, BULK.format(20_001, 21_000))
    cells.blue.fence(fence(2), expires_in_s=20, drain_s=5)
    copy.seal(copy.mark(), timeout_s=15)
    with monkeypatch.context() as patched:
        patched.setattr("tenure.stores.postgres.verification.SHARE_OF_HOLD", 0.0)
        with pytest.raises(EvidenceStale, match=r"public\.parts of acme changed in bulk"):
            copy.compare_changed()
    assert copy.compare_changed().processed == 300 + 1000
