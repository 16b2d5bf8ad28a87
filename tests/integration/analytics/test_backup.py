"""Backups of warehouses: every value of every type comes back, also under another name, and a table that is not as it
was is told or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tenure.catalogue import AnalyticsTable
from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.finding import Severity
from tenure.model.names import TenantId
from tenure.stores.analytics import AnalyticsStore, clickhouse_packs, exported
from tenure.stores.analytics.packs import head_of
from tenure.stores.analytics.units import Content
from tenure.stores.contract import Fence
from tenure.stores.records import Record
from tests.contract.memory_backup import MemoryBackup
from tests.contract.rigs import analytics as rigs
from tests.contract.rigs.protocol import Side
from tests.integration.analytics.test_exactness import TYPES, make_table
from tests.variants import marked
from tests.warehouses import Warehouse

ACME, OTHER, NEIGHBOUR = TenantId("acme"), TenantId("zeta"), TenantId("acme1")
BLUE, GREEN = Side.BLUE, Side.GREEN
Make = Callable[[str, str], Warehouse]


def fence(token: int = 10) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def filled(warehouse: Warehouse, engine: str, tenant: TenantId) -> tuple[AnalyticsTable, list[str]]:
    """A table with a column of every type, and rows with every value of it; with the partition of each row."""
    kinds = [kind for kind, _ in TYPES[engine]]
    table = make_table(warehouse, engine, ", ".join(f"v{n} {kind}" for n, kind in enumerate(kinds)))
    parts = [f"p{m % 3}" for m in range(max(len(values) for _, values in TYPES[engine]))]
    for m, part in enumerate(parts):
        row = ", ".join(values[m % len(values)] for _, values in TYPES[engine])
        warehouse.run(f"insert into {table.name} values ('{tenant}', '{part}', {row})")
    return table, parts


SHOWN: dict[str, list[Any]] = {
    "duckdb": [
        "170141183460469231731687303715884105727",
        "0101",
        {"k": 1.0},
        "2026-01-01 00:00:00.123456789",
    ],
    "clickhouse": [2**128 - 1, {"hex": "fffe00"}, {"a": 1, "b": []}, "2001:db8::1"],
    "postgresql": ["123456789012345678901234567890.0123456789", "{{1,2},{3,4}}", "10.0.0.1/8"],
    "sqlite": [9223372036854775807, "AP8=", "whatever the app wrote"],
}


@pytest.mark.parametrize("engine", marked(TYPES, TYPES.keys() - {"duckdb"}))
def test_what_is_in_a_backup_is_read_without_the_engine(warehouse: Make, engine: str) -> None:
    """For a portable export: every row, each value as JSON has it."""
    one = warehouse(engine, "one")
    table, parts = filled(one, engine, ACME)
    source = one.engine()
    seen: list[Any] = []
    for pack in source.packs(table, ACME, sorted(set(parts))):
        head = head_of(pack, source.dialect)
        record = Record(key=b"unit", head=head, body=iter(list(pack.body)))
        rows = [row.values for row in exported._rows(record, "analytics")]
        assert len(rows) == pack.content.rows
        assert {row["part"] for row in rows} == {pack.partition}
        assert json.loads(json.dumps(rows)) is not None
        seen += [value for row in rows for value in row.values()]
    for value in SHOWN[engine]:
        assert value in seen
    source.close()


@pytest.mark.parametrize("engine", marked(TYPES, TYPES.keys() - {"duckdb"}))
def test_every_value_of_every_type_comes_back_as_it_was(warehouse: Make, engine: str) -> None:
    """Into another warehouse, and under another name; the stamps say so, and are of nothing but the values."""
    one, other = warehouse(engine, "one"), warehouse(engine, "other")
    kinds = [kind for kind, _ in TYPES[engine]]
    table, parts = filled(one, engine, ACME)
    filled(other, engine, NEIGHBOUR)
    count = len(parts)
    source, target = one.engine(), other.engine()
    names = sorted(set(parts))
    before = target.contents(table, NEIGHBOUR, names)
    stamps: dict[str, Content] = {}
    for tenant in (ACME, OTHER):
        with target.bring(table, tenant) as brought:
            for pack in source.packs(table, ACME, [*names, "nothing"]):
                stamps[pack.partition] = pack.others
                brought.add(pack.form, pack.columns, pack.content.rows, list(pack.body))
            target.replace(table, tenant, names, brought, lambda: None)
    assert set(stamps) == set(names)
    # Python cannot hold each of these: some need a library of time zones, others are before its first year.
    shown = ", ".join(
        f"v{n}::varchar" if kind in ("timestamptz", "timetz") or engine == "postgresql" else f"v{n}"
        for n, kind in enumerate(kinds)
    )
    query = f"select part, {shown} from {table.name} where tenant_id = '{{}}'"
    there = sorted(map(repr, one.rows(query.format(ACME))))
    assert len(there) == count
    assert sorted(map(repr, other.rows(query.format(ACME)))) == there
    assert sorted(map(repr, other.rows(query.format(OTHER)))) == there
    assert target.contents(table, ACME, names) == source.contents(table, ACME, names)
    others = ["part", *(f"v{n}" for n in range(len(kinds)))]
    for tenant in (ACME, OTHER):
        assert target.contents(table, tenant, names, only=others) == stamps
    assert target.contents(table, NEIGHBOUR, names) == before
    for opened in (source, target):
        opened.close()


@pytest.fixture(params=marked(rigs.KINDS, rigs.VARIANTS))
def rig(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = rigs.make(request.param, request)
    yield made
    made.close()


def taken(store: AnalyticsStore) -> MemoryBackup:
    backup, capture = MemoryBackup(ACME), store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    store.fence(fence(), expires_in_s=None, drain_s=5.0)
    capture.pin(backup, fence())
    store.open(fence())
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    return backup


def test_a_column_that_came_since_is_no_difference_and_one_that_is_gone_is_refused(rig: Any) -> None:
    for item in "ab":
        rig.write(BLUE, ACME, item, f"acme {item}")
    backup, there = taken(rig.store(BLUE)), rig.store(GREEN)
    table, later = rig.table.name, "Nullable(String)" if "clickhouse" in rig.kind else "text"
    rig.warehouses[GREEN].run(f"alter table {table} add column later {later}")
    there.fence(fence(), expires_in_s=None, drain_s=5.0)
    restoring = there.restoring(ACME, ACME)
    assert not [f for f in restoring.preflight(backup) if f.severity is Severity.REFUSAL]
    assert restoring.load(backup, fence()).items == 2
    assert not list(restoring.differences(backup))
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
    rig.warehouses[GREEN].run(f"alter table {table} drop column value")
    told = [f for f in restoring.preflight(backup) if f.severity is Severity.REFUSAL]
    assert [f.code for f in told] == ["analytics_columns_differ"]
    assert "value" in told[0].message
    both = [
        Difference(collection=c, key=k, kind=DifferenceKind.MISMATCHED)
        for c, k in (rig.difference_key(ACME, item) for item in "ab")
    ]
    before = rig.warehouses[GREEN].rows(f"select count(*) from {table}")
    with pytest.raises(StoreRefused):
        restoring.apply(backup, both, fence())
    assert rig.warehouses[GREEN].rows(f"select count(*) from {table}") == before


def test_a_whole_table_that_the_app_names_is_taken_again_with_what_is_gone_of_it(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for item in "abc":
        rig.write(BLUE, ACME, item, f"acme {item}")
    store, backup = rig.store(BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    monkeypatch.setattr(rig, "key", lambda _item: str(rig.table.name))
    rig.write(BLUE, ACME, "a", "changed")
    rig.delete(BLUE, ACME, "b")
    rig.write(BLUE, ACME, "new", "new")
    expected = rig.read(BLUE, ACME)
    store.fence(fence(), expires_in_s=None, drain_s=5.0)
    capture.pin(backup, fence())
    store.open(fence())
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    there = rig.store(GREEN)
    there.fence(fence(), expires_in_s=None, drain_s=5.0)
    there.restoring(ACME, ACME).load(backup, fence())
    assert rig.read(GREEN, ACME) == expected == {"a": "changed", "c": "acme c", "new": "new"}


def test_a_unit_that_changes_while_the_tenant_is_fenced_gives_no_point(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something writes past the permit: while nobody waits it is taken again, under the fence it is an error."""
    rig: Any = rigs.make("analytics-clickhouse", request)
    try:
        rig.write(BLUE, ACME, "a", "acme a")
        store, backup = rig.store(BLUE), MemoryBackup(ACME)
        capture = store.capture(ACME)
        capture.start(fence())
        sums, looks = clickhouse_packs._Units.sums, iter(range(1000))

        def restless(*given: Any) -> dict[str, tuple[Content, Content]]:
            n = next(looks)
            return {
                part: (replace(content, digest=content.digest + n), others)
                for part, (content, others) in sums(*given).items()
            }

        with monkeypatch.context() as patched:
            patched.setattr(clickhouse_packs._Units, "sums", restless)
            capture.first_pass(backup)
            assert capture.settle(backup) == 1
            store.fence(fence(), expires_in_s=None, drain_s=5.0)
            with pytest.raises(StoreUnavailable, match="no point"):
                capture.pin(backup, fence())
        capture.pin(backup, fence())
        store.open(fence())
        backup.complete(store.name, capture.rest(backup))
        capture.close(fence())
        (facts,) = backup.collections()
        assert facts.digest == store.inventory(ACME).collections[facts.collection].digest
    finally:
        rig.close()


def test_a_backup_of_another_kind_of_engine_is_refused(request: pytest.FixtureRequest) -> None:
    here: Any = rigs.make("analytics-duckdb", request)
    elsewhere: Any = rigs.make("analytics-sql", request)
    try:
        here.write(BLUE, ACME, "a", "acme a")
        backup = taken(here.store(BLUE))
        there = elsewhere.store(GREEN)
        restoring = there.restoring(ACME, ACME)
        assert "analytics_dialect_differs" in {f.code for f in restoring.preflight(backup)}
        there.fence(fence(), expires_in_s=None, drain_s=5.0)
        with pytest.raises(StoreRefused):
            restoring.load(backup, fence())
        assert not elsewhere.read(GREEN, ACME)
    finally:
        here.close()
        elsewhere.close()


def test_a_units_columns_may_not_change_in_the_middle_of_a_backup(rig: Any) -> None:
    for item in "ab":
        rig.write(BLUE, ACME, item, f"acme {item}")
    store, backup = rig.store(BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    later = "Nullable(String)" if "clickhouse" in rig.kind else "text"
    rig.warehouses[BLUE].run(f"alter table {rig.table.name} add column later {later}")
    with rig.app(BLUE, ACME, "a"):
        pass  # the app has named the partition: it is taken again
    with pytest.raises(StoreRefused, match="columns"):
        capture.settle(backup)
    capture.close(fence())
