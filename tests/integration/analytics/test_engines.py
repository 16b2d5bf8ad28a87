"""Partitions, names, other kinds of engine, preflight, what a warehouse holds and where identifiers are in it: the same
promises of every engine."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable

import psycopg
import pytest

from tenure.catalogue import (
    AnalyticsMap,
    AnalyticsTable,
    DataClass,
    Partition,
    PartitionBy,
    QualifiedName,
    Retention,
)
from tenure.client import touch
from tenure.errors import StoreRefused
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Identifier, PlaceKind, Search, tenant_identifier
from tenure.stores.analytics import AnalyticsStore, Engine
from tenure.stores.analytics.clickhouse_server import ClickHouseServer
from tenure.stores.analytics.portable import portable_contents
from tenure.stores.analytics.preflight import findings
from tenure.stores.contract import unhurried
from tests.contract.rigs import analytics as rigs
from tests.contract.rigs.protocol import Side
from tests.contract.test_store_contract import linked, sealed
from tests.integration.analytics.conftest import ENGINES
from tests.integration.analytics.test_exactness import END, carry
from tests.integration.analytics.test_faults import table_of
from tests.warehouses import Warehouse

ACME, OTHER = TenantId("acme"), TenantId("acme1")
Make = Callable[[str, str], Warehouse]
TIME = {
    "duckdb": "timestamptz",
    "clickhouse": "Nullable(DateTime64(6, 'UTC'))",
    "postgresql": "timestamptz",
    "sqlite": "timestamp",
}
TEXT = {"clickhouse": "String"}


def events(warehouse: Warehouse, engine: str, by: PartitionBy = PartitionBy.DAY) -> AnalyticsTable:
    text = TEXT.get(engine, "text")
    warehouse.run(
        f"create table {warehouse.schema}.events (tenant_id {text}, happened {TIME[engine]}, note {text})"
        f"{END.get(engine, '')}"
    )
    return AnalyticsTable(
        name=QualifiedName(schema=warehouse.schema, name="events"),
        tenant_column="tenant_id",
        columns={"tenant_id": DataClass.TENANT, "happened": DataClass.PLAIN, "note": DataClass.CONTENT},
        partition=Partition(column="happened", by=by),
    )


def put(warehouse: Warehouse, table: AnalyticsTable, tenant: str, when: str, note: str) -> None:
    at = "null" if when == "null" else f"'{when}'"
    warehouse.run(f"insert into {table.name} values ('{tenant}', {at}, '{note}')")


# -- partitions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_days_and_months_are_those_of_utc_and_rows_without_any_are_a_partition(
    warehouse: Make, engine: str
) -> None:
    made = warehouse(engine, "one")
    table = events(made, engine)
    for when in ("2026-02-28 23:59:59.999999", "2026-03-01 00:00:00", "2026-03-01 12:00:00", "null"):
        put(made, table, ACME, when, when)
    put(made, table, OTHER, "2026-03-01 00:00:00", "a neighbour")
    with contextlib.closing(made.engine()) as opened:
        assert opened.partitions(table, ACME) == {"": 1, "2026-02-28": 1, "2026-03-01": 2}
        found = opened.contents(table, ACME, ["2026-03-01", "", "2020-01-01"])
        assert {p: c.rows for p, c in found.items()} == {"": 1, "2026-03-01": 2}
        months = AnalyticsTable(
            name=table.name,
            tenant_column="tenant_id",
            columns=table.columns,
            partition=Partition(column="happened", by=PartitionBy.MONTH),
        )
        assert opened.partitions(months, ACME) == {"": 1, "2026-02": 1, "2026-03": 2}
        whole = AnalyticsTable(name=table.name, tenant_column="tenant_id", columns=table.columns)
        assert opened.partitions(whole, ACME) == {"": 4}
        assert opened.contents(whole, ACME, [""])[""].rows == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_a_partition_is_replaced_and_nothing_else(warehouse: Make, engine: str) -> None:
    one, other = warehouse(engine, "one"), warehouse(engine, "other")
    table = events(one, engine)
    events(other, engine)
    put(one, table, ACME, "2026-03-01 00:00:00", "new")
    put(one, table, ACME, "2026-03-02 00:00:00", "not copied")
    for tenant in (ACME, OTHER):
        put(other, table, tenant, "2026-03-01 00:00:00", "old")
        put(other, table, tenant, "2026-03-03 00:00:00", "stays")
    with contextlib.closing(one.engine()) as source, contextlib.closing(other.engine()) as target:
        carry(table, source, target, ["2026-03-01"])
        query = f"select tenant_id, note from {table.name} order by tenant_id, note"
        expected = [("acme", "new"), ("acme", "stays"), ("acme1", "old"), ("acme1", "stays")]
        assert [tuple(row) for row in other.rows(query)] == expected
        one.run(f"delete from {table.name} where note = 'new'")
        carry(table, source, target, ["2026-03-01"])
        assert [tuple(row) for row in other.rows(query)] == expected[1:]


QUOTE = {"clickhouse": "`"}


@pytest.mark.parametrize("engine", ENGINES)
def test_names_are_quoted_by_the_engine(warehouse: Make, engine: str) -> None:
    strange = "Odd \"name\" 'x' {y} $z ; drop--"
    if engine == "clickhouse":
        quoted = f"`{strange}`"
        text, end = "String", " engine = MergeTree order by tuple()"
    else:
        quoted = '"' + strange.replace('"', '""') + '"'
        text, end = "text", ""
    made = [warehouse(engine, "one"), warehouse(engine, "other")]
    schema = made[0].schema
    table = AnalyticsTable(
        name=QualifiedName(schema=schema, name=strange),
        tenant_column=strange,
        columns={strange: DataClass.TENANT, "select": DataClass.CONTENT},
        partition=Partition(column="select", by=PartitionBy.VALUE),
    )
    select = "`select`" if engine == "clickhouse" else '"select"'
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(each.engine())) for each in made]
        for each in made:
            each.run(f"create table {schema}.{quoted} ({quoted} {text}, {select} {text}){end}")
        made[0].run(f"insert into {schema}.{quoted} values ('acme', 'it''s %s {{x}} $y')")
        carry(table, opened[0], opened[1], ["it's %s {x} $y"])
        assert opened[0].partitions(table, ACME) == {"it's %s {x} $y": 1}
        assert opened[1].contents(table, ACME, ["it's %s {x} $y"]) == opened[0].contents(
            table, ACME, ["it's %s {x} $y"]
        )
        assert table.name in opened[0].tables({schema})
        assert opened[1].erase(table, ACME, lambda _rows: None) == 1


# -- other engines -----------------------------------------------------------------------------------------------

COMMON = {
    "duckdb": "tenant_id text, happened timestamptz, n bigint, d decimal(18, 3), f double, b boolean, day date, t text",
    "clickhouse": "tenant_id String, happened DateTime64(6, 'UTC'), n Nullable(Int64), d Decimal(18, 3), f Float64,"
    " b Bool, day Date32, t Nullable(String)",
    "postgresql": "tenant_id text, happened timestamptz, n bigint, d decimal(18, 3), f double precision, b boolean,"
    " day date, t text",
}
ROWS = (
    "('{t}', '2026-01-01 00:00:00.000001', 9007199254740993, 0.001, 0.1, true, '2026-02-28', 'ä')",
    "('{t}', '2026-01-01 23:59:59', null, -12345678901234.567, -0.0, false, '1970-01-01', null)",
    "('{t}', '2026-01-01 23:59:59', 0, 0, {nan}, false, '1970-01-01', '')",
)
PAIRS = [
    ("duckdb", "clickhouse"),
    ("clickhouse", "duckdb"),
    ("postgresql", "duckdb"),
    ("duckdb", "postgresql"),
    ("clickhouse", "postgresql"),
    ("postgresql", "clickhouse"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_rows_of_common_types_go_from_one_kind_of_engine_to_another(
    warehouse: Make, one: str, other: str
) -> None:
    made = {kind: warehouse(kind, "one") for kind in (one, other)}
    tables = {}
    for kind, each in made.items():
        each.run(f"create table {each.schema}.facts ({COMMON[kind]}){END.get(kind, '')}")
        tables[kind] = AnalyticsTable(
            name=QualifiedName(schema=each.schema, name="facts"),
            tenant_column="tenant_id",
            columns={"tenant_id": DataClass.TENANT},
            partition=Partition(column="happened", by=PartitionBy.DAY),
        )
    nan = "nan" if one == "clickhouse" else "'nan'"
    for row in ROWS:
        made[one].run(f"insert into {tables[one].name} values {row.format(t=ACME, nan=nan)}")
    day = "2026-01-01"
    with contextlib.closing(made[one].engine()) as source, contextlib.closing(made[other].engine()) as target:
        for _ in range(2):
            with source.rows(tables[one], ACME, [day]) as rows:
                target.replace(tables[other], ACME, [day], rows, lambda: None)
        sent = portable_contents(source, tables[one], ACME, [day])
        assert portable_contents(target, tables[other], ACME, [day]) == sent
        assert sent[day].rows == 3
        made[other].run(f"insert into {tables[other].name} values {ROWS[0].format(t=ACME, nan=nan)}")
        assert portable_contents(target, tables[other], ACME, [day]) != sent


# -- preflight ---------------------------------------------------------------------------------------------------


def test_preflight_names_what_stands_in_the_way(request: pytest.FixtureRequest) -> None:
    rig = rigs.make("analytics-duckdb", request)
    assert isinstance(rig, rigs.AnalyticsRig)
    try:

        def codes() -> set[str]:
            return {
                f.code for f in rig.copy(ACME, Side.BLUE, Side.GREEN).preflight() if f.severity == "refusal"
            }

        assert codes() == set()
        rig.warehouses[Side.GREEN].run("alter table main.items add column more text")
        assert codes() == {"analytics_columns_differ"}
        rig.warehouses[Side.GREEN].run("drop table main.items")
        assert codes() == {"analytics_table_missing"}
        ours = rig.store(Side.BLUE)
        same = findings(ACME, ours, rig.beside(rig.carrier(Side.GREEN), ours.engine), linked=False)
        assert [f.code for f in same] == ["analytics_same_place"]
    finally:
        rig.close()


def test_a_key_of_a_whole_table_copies_all_its_partitions(request: pytest.FixtureRequest) -> None:
    rig = rigs.make("analytics-duckdb", request)
    assert isinstance(rig, rigs.AnalyticsRig)
    try:
        for item in "abc":
            rig.plant(Side.BLUE, ACME, item, "planted")
        copy = linked(rig)
        with rig.app(Side.BLUE, ACME, "d"):
            for item in "abcde":
                rig.plant(Side.BLUE, ACME, item, "changed in bulk")
        with psycopg.connect(rig.homes[Side.BLUE]) as connection:
            touch(connection, ACME, rigs.NAME, "main.items")
        sealed(copy)
        assert rig.read(Side.GREEN, ACME) == rig.read(Side.BLUE, ACME)
    finally:
        rig.close()


def test_a_store_says_when_the_last_copy_lapses(request: pytest.FixtureRequest) -> None:
    rig = rigs.make("analytics-duckdb", request)
    assert isinstance(rig, rigs.AnalyticsRig)
    try:
        rig.map = AnalyticsMap(
            name=rigs.NAME,
            journal=StoreName("postgres"),
            tables=rig.map.tables,
            retention=Retention(time_travel_days=1, fail_safe_days=7),
        )
        capabilities = rig.store(Side.BLUE).capabilities
        assert capabilities.lapses_after_days == 8
        assert capabilities.fenced_with == "postgres"
        assert capabilities.residue
    finally:
        rig.close()


# -- survey and find ---------------------------------------------------------------------------------------------


def _store(
    warehouse: Warehouse, engine: Engine, table: AnalyticsTable, ignore: frozenset[QualifiedName]
) -> AnalyticsStore:
    where = AnalyticsMap(
        name=StoreName("analytics"), journal=StoreName("postgres"), tables={table.name: table}, ignore=ignore
    )
    # Neither a survey nor a search asks for the fence.
    return AnalyticsStore(
        name=where.name,
        cell=CellName("blue"),
        where=where,
        engine=engine,
        anchor=None,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_survey_names_what_is_not_classified_and_what_is_gone(warehouse: Make, engine: str) -> None:
    made = warehouse(engine, "one")
    events(made, engine)
    text, end = TEXT.get(engine, "text"), END.get(engine, "")
    made.run(
        f"create table {made.schema}.invoices (tenant_id {text}, total {text}){end}",
        f"create table {made.schema}.currencies (tenant_id {text}){end}",
    )
    table = AnalyticsTable(
        name=QualifiedName(schema=made.schema, name="events"),
        tenant_column="tenant_id",
        columns={"tenant_id": DataClass.TENANT, "note": DataClass.CONTENT, "dropped": DataClass.PLAIN},
    )
    ignored = frozenset({QualifiedName(schema=made.schema, name="currencies")})
    with contextlib.closing(made.engine()) as opened:
        seen = _store(made, opened, table, ignored).survey([ACME])
    assert {str(p.place) for p in seen.unclassified} == {
        f"table {made.schema}.invoices",
        f"column {made.schema}.events.happened",
    }
    proposed = next(p.entry for p in seen.unclassified if p.place.kind is PlaceKind.TABLE)
    columns = {"columns": {"tenant_id": "tenant", "total": "content"}}
    assert proposed == {"analytics": {"tables": {f"{made.schema}.invoices": columns}}}
    assert [(str(g.place), g.where) for g in seen.gone] == [
        (f"column {made.schema}.events.dropped", f"tables.{made.schema}.events.columns.dropped")
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_identifiers_are_found_wherever_they_are_and_no_neighbours(warehouse: Make, engine: str) -> None:
    made = warehouse(engine, "one")
    table = events(made, engine)
    text, end = TEXT.get(engine, "text"), END.get(engine, "").replace("tenant_id", "note")
    number = "Int32" if engine == "clickhouse" else "integer"
    made.run(f"create table {made.schema}.undocumented (n {number}, note {text}){end}")
    other = QualifiedName(schema=made.schema, name="undocumented")
    for name, tenant in (("mine", ACME), ("theirs", "acme1")):
        made.run(f"create view {made.schema}.{name} as select n from {other} where note = '{tenant}'")
    put(made, table, ACME, "2026-01-01 00:00:00", "from ann@acme.example")
    put(made, table, OTHER, "2026-01-01 00:00:00", "asks about acme, and not about ACME or xacme")
    put(made, table, OTHER, "2026-01-01 00:00:00", "acme1 acme-corp ACME")
    made.run(
        f"insert into {other} values (1, 'b:YWNtZSBpcyBoZXJl')", f"insert into {other} values (2, 'nothing')"
    )
    person = Identifier(tenant=ACME, kind="email", value="ann@acme.example")
    search = Search(
        identifiers=(tenant_identifier(ACME), person),
        known=frozenset({ACME, OTHER, TenantId("acme-corp"), TenantId("ACME")}),
    )
    with contextlib.closing(made.engine()) as opened:
        store = _store(made, opened, table, frozenset())
        pages = list(store.find(search))
        resumed = list(store.find(search, cursor=pages[0].cursor, pace=unhurried))
    found = {
        (f.label.partition("=")[0], str(f.place), f.coverage): f.items for page in pages for f in page.found
    }
    name = f"{made.schema}.events"
    assert found == {
        ("tenant", f"column {name}.tenant_id", Coverage.OWN): 1,
        ("tenant", f"column {name}.note", Coverage.NEIGHBOUR): 1,
        ("email", f"column {name}.note", Coverage.OWN): 1,
        ("tenant", f"column {other}.note", Coverage.UNDOCUMENTED): 1,
        ("tenant", f"definition {made.schema}.view mine", Coverage.UNDOCUMENTED): 1,
    }
    assert pages[-1].cursor is None
    assert sum(f.items for p in pages for f in p.found if f.coverage is not Coverage.OWN) == 3
    assert [p.found for p in resumed] == [p.found for p in pages[1:]]
    assert resumed[-1].items == pages[-1].items == pages[-1].items_total


BYTES = {"duckdb": "blob", "postgresql": "bytea", "sqlite": "blob"}


@pytest.mark.parametrize("engine", BYTES)
def test_identifiers_are_found_in_bytes_packed_or_not(warehouse: Make, engine: str) -> None:
    made = warehouse(engine, "one")
    table = events(made, engine)
    other = QualifiedName(schema=made.schema, name="undocumented")
    made.run(f"create table {other} (n integer, raw {BYTES[engine]}, packed {BYTES[engine]})")
    literal = {"duckdb": "from_hex('{}')", "postgresql": "decode('{}', 'hex')", "sqlite": "x'{}'"}[engine]

    def bytes_of(content: bytes) -> str:
        return literal.format(content.hex())

    for n, text in enumerate((b"of acme, here", b"of acme1 and ACME"), 1):
        packed = gzip.compress(text)
        made.run(f"insert into {other} values ({n}, {bytes_of(text)}, {bytes_of(packed)})")
    search = Search(
        identifiers=(tenant_identifier(ACME),), known=frozenset({ACME, TenantId("acme1"), TenantId("ACME")})
    )
    with contextlib.closing(made.engine()) as opened:
        pages = list(_store(made, opened, table, frozenset()).find(search))
    found = {(str(f.place), f.items) for page in pages for f in page.found}
    assert found == {(f"column {other}.raw", 1), (f"column {other}.packed", 1)}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_search_leaves_no_table_out_whose_name_is_quoted(warehouse: Make, engine: str) -> None:
    made = warehouse(engine, "one")
    table = events(made, engine)
    text, end = TEXT.get(engine, "text"), END.get(engine, "").replace("tenant_id", "note")
    for name in ("later notes", "undocumented"):
        other = QualifiedName(schema=made.schema, name=name)
        made.run(f"create table {other} (note {text}){end}", f"insert into {other} values ('of acme')")
    put(made, table, ACME, "2026-01-01 00:00:00", "nothing")
    search = Search(identifiers=(tenant_identifier(ACME),), known=frozenset({ACME, OTHER}))
    with contextlib.closing(made.engine()) as opened:
        store = _store(made, opened, table, frozenset())
        pages = list(store.find(search))
        seen = {str(f.place) for page in pages for f in page.found}
        assert {f'column {made.schema}."later notes".note', f"column {made.schema}.undocumented.note"} <= seen
        for n, page in enumerate(pages[:-1], 1):
            resumed = list(store.find(search, cursor=page.cursor, pace=unhurried))
            assert [p.found for p in resumed] == [p.found for p in pages[n:]]


def hazards(made: Warehouse, name: str) -> set[tuple[str, bool]]:
    table = AnalyticsTable(
        name=QualifiedName(schema=made.schema, name=name),
        tenant_column="tenant_id",
        columns={"tenant_id": DataClass.TENANT},
    )
    with contextlib.closing(made.engine()) as opened:
        return {(h.code, h.refuses) for h in opened.hazards(table)}


def test_a_replica_is_brought_up_to_date_before_it_is_read(
    warehouse: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine in this process cannot replicate: that it refuses the statement shows that it was asked first."""
    made = warehouse("clickhouse", "one")
    table = events(made, "clickhouse")
    put(made, table, ACME, "2026-01-01 00:00:00", "one")
    with contextlib.closing(made.engine()) as opened:
        assert opened.partitions(table, ACME) == {"2026-01-01": 1}
        monkeypatch.setattr(ClickHouseServer, "_facts", lambda *_: ("ReplicatedMergeTree", ()))
        for read in (
            lambda: opened.partitions(table, ACME),
            lambda: opened.contents(table, ACME, ["2026-01-01"]),
            lambda: list(opened.texts(table.name, ["note"], ["one"])),
            # One that lags behind would count nothing, and delete nothing.
            lambda: opened.erase(table, ACME, lambda _rows: None),
        ):
            with pytest.raises(StoreRefused, match=r"(?i)replicated"):
                read()


def test_a_table_of_tenants_that_the_catalogue_does_not_name_is_refused_by_preflight(
    request: pytest.FixtureRequest,
) -> None:
    rig = rigs.make("analytics-duckdb", request)
    assert isinstance(rig, rigs.AnalyticsRig)
    try:
        rig.warehouses[Side.BLUE].run("create table main.forgotten (tenant_id text, n integer)")
        refused = [f for f in rig.copy(ACME, Side.BLUE, Side.GREEN).preflight() if f.severity == "refusal"]
        assert [(f.code, f.where.rpartition(", ")[2]) for f in refused] == [
            ("analytics_table_unnamed", "main.forgotten")
        ]
    finally:
        rig.close()


def test_clickhouse_says_which_tables_cannot_be_moved_or_feed_views(warehouse: Make) -> None:
    made = warehouse("clickhouse", "one")
    made.run(
        f"create table {made.schema}.logged (tenant_id String) engine = Log",
        f"create table {made.schema}.fed (tenant_id String) engine = MergeTree order by tenant_id",
        f"create table {made.schema}.counts (tenant_id String, n UInt64) engine = SummingMergeTree order by tenant_id",
        f"create materialized view {made.schema}.counting to {made.schema}.counts"
        f" as select tenant_id, count() as n from {made.schema}.fed group by tenant_id",
    )
    assert hazards(made, "logged") == {("analytics_engine", True)}
    assert hazards(made, "fed") == {("analytics_view_fires", False)}
    assert hazards(made, "counts") == set()


def test_duckdb_says_which_tables_it_cannot_replace_or_compare(warehouse: Make) -> None:
    made = warehouse("duckdb", "one")
    made.run(
        "create table main.parents (tenant_id text primary key)",
        "create table main.children (tenant_id text references main.parents (tenant_id))",
        "create table main.mixed (tenant_id text, v union(n integer, s varchar)[])",
    )
    assert hazards(made, "parents") == set()
    assert hazards(made, "children") == {("analytics_foreign_key", True)}
    assert hazards(made, "mixed") == {("analytics_type_unseen", True)}


def test_a_neighbour_whose_id_differs_in_case_only_is_nobody_elses(warehouse: Make) -> None:
    """Whatever the tenant column's collation takes for equal."""
    one = warehouse("sqlite", "one")
    one.run(
        f"create table {one.schema}.facts (tenant_id text collate nocase, part text, n integer)",
        f"insert into {one.schema}.facts values ('acme', 'p', 1), ('Acme', 'p', 2), ('ACME', 'q', 3)",
    )
    table, opened = table_of(one.schema), one.engine()
    assert opened.partitions(table, ACME) == {"p": 1}
    assert opened.contents(table, ACME, ["p"])["p"].rows == 1
    with opened.rows(table, ACME, ["p", "q"]) as rows:
        opened.replace(table, ACME, ["p", "q"], rows, lambda: None)
    assert opened.erase(table, ACME, lambda _items: None) == 1
    assert sorted(int(n) for (n,) in one.rows(f"select n from {one.schema}.facts")) == [2, 3]
