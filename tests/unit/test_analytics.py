"""Analytics: the names of units, values that are equal whichever engine they come from, and what the files may say."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.catalogue import (
    AnalyticsMap,
    AnalyticsTable,
    DataClass,
    Partition,
    PartitionBy,
    QualifiedName,
    load_catalogue,
)
from tenure.errors import ConfigurationError
from tenure.estate.config import load_estate
from tenure.model.names import CellName, StoreName
from tenure.stores.analytics.duckdb_file import DuckDbFile
from tenure.stores.analytics.portable import canonical, contents_of, portable
from tenure.stores.analytics.sql_warehouse import SqlWarehouse
from tenure.stores.analytics.units import Content, Unit, Units, total
from tenure.wiring.analytics import open_engine
from tests.unit.test_estate_config import CATALOGUE, GOOD

EVENTS = QualifiedName(schema="main", name="events")
ODD = QualifiedName(schema="main", name="events/2026")
PLANS = QualifiedName(schema="main", name="plans")
WITH_ANALYTICS = (
    CATALOGUE
    + """\
  analytics:
    kind: analytics
    journal: postgres
    tenant_column: tenant_id
    retention: {time_travel_days: 1, fail_safe_days: 7}
    tables:
      main.events:
        partition: {column: happened_at, by: day}
        columns: {tenant_id: tenant, happened_at: plain, who: personal}
      main.plans: {columns: {tenant_id: tenant, plan: config}}
    ignore: [main.currencies]
"""
)


def table(name: QualifiedName, column: str | None = None) -> AnalyticsTable:
    by = None if column is None else Partition(column=column, by=PartitionBy.DAY)
    return AnalyticsTable(
        name=name, tenant_column="tenant_id", columns={"tenant_id": DataClass.TENANT}, partition=by
    )


UNITS = Units([table(EVENTS, "happened_at"), table(ODD, "happened_at"), table(PLANS)])


# -- units -------------------------------------------------------------------------------------------------------


@given(st.text(), st.sampled_from([EVENTS, ODD]))
def test_a_unit_is_known_by_its_key(partition: str, name: QualifiedName) -> None:
    unit = Unit(table=name, partition=partition)
    assert UNITS.unit(UNITS.key(unit)) == unit


def test_a_table_without_partitions_is_one_unit() -> None:
    assert UNITS.key(Unit(table=PLANS)) == "main.plans"
    assert UNITS.unit("main.plans") == Unit(table=PLANS)
    assert UNITS.unit("main.plans/2026-11-23") == Unit(table=PLANS)


def test_a_key_may_name_a_whole_table() -> None:
    assert UNITS.unit("main.events") is None
    whole = UNITS.whole("main.events")
    assert whole is not None
    assert whole.name == EVENTS
    assert UNITS.whole("main.plans") is None


@pytest.mark.parametrize("key", ["", "main.event", "main.eventsx/1", "other.events/1", "/", "main.Events"])
def test_a_key_of_no_table_is_no_unit(key: str) -> None:
    assert UNITS.unit(key) is None
    assert UNITS.whole(key) is None


def test_the_digest_of_a_table_is_the_sum_of_its_units() -> None:
    parts = [Content(rows=1, size_bytes=2, digest=(1 << 128) - 1), Content(rows=2, size_bytes=3, digest=3)]
    assert total(parts) == Content(rows=3, size_bytes=5, digest=2)
    assert total([]) == Content(rows=0, size_bytes=0, digest=0)


# -- portable values ---------------------------------------------------------------------------------------------

EQUAL = [
    (5, Decimal("5.000")),
    (10**30, Decimal(10) ** 30),
    (True, 1),
    (float("nan"), float("-nan")),
    ("61f0c404-5cb3-11e7-907b-a6006ad3dba0", UUID("61f0c404-5cb3-11e7-907b-a6006ad3dba0")),
    (datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))),  # noqa: DTZ001
    (b"x", bytearray(b"x")),
    ([1, None], (1, None)),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
]
DIFFERENT: list[object] = [
    None, "", "NULL", "~", b"", 0, 0.0, -0.0, float("nan"), "0", [], [None], [[]], ["a", "b"], ["ab"], ["a, b"], {},
    {"a": "b"}, date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), Decimal("0.1"), 0.1, Decimal("NaN"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_values_of_different_engines_look_alike(one: object, other: object) -> None:
    assert canonical(one) == canonical(other)


def test_different_values_never_look_alike() -> None:
    assert len({canonical(value) for value in DIFFERENT}) == len(DIFFERENT)


@given(st.lists(st.tuples(st.text(), st.none() | st.integers()), max_size=5), st.randoms())
def test_the_order_of_rows_and_columns_does_not_count(
    rows: list[tuple[str, int | None]], random: object
) -> None:
    backwards = [(number, text) for text, number in reversed(rows)]
    assert contents_of(["t", "n"], iter(rows)) == contents_of(["n", "t"], iter(backwards))


def test_a_row_more_or_moved_text_is_another_content() -> None:
    assert contents_of(["a", "b"], iter([("x", "yz")])) != contents_of(["a", "b"], iter([("xy", "z")]))
    assert contents_of(["a"], iter([("x",)])) != contents_of(["a"], iter([("x",), ("x",)]))


@pytest.mark.parametrize(
    ("name", "common"),
    [
        *(
            (t, True)
            for t in ("BIGINT", "Nullable(Int64)", "LowCardinality(Nullable(String))", "DECIMAL(18, 3)")
        ),
        *((t, True) for t in ("DateTime64(6, 'UTC')", "TIMESTAMP WITH TIME ZONE", "VARCHAR(20)", "UUID")),
        *(
            (t, False)
            for t in ("VARCHAR[]", "Array(String)", "STRUCT(a INTEGER)", "JSON", "Int256", "INTERVAL")
        ),
    ],
)
def test_what_engines_have_in_common_is_known(name: str, common: bool) -> None:
    assert portable(name) is common


# -- the catalogue -----------------------------------------------------------------------------------------------


@pytest.fixture
def problems(tmp_path: pathlib.Path) -> Callable[[str, str], list[str]]:
    """What is wrong with the catalogue after a replacement."""

    def check(old: str, new: str) -> list[str]:
        assert old in WITH_ANALYTICS
        path = tmp_path / "catalogue.yaml"
        path.write_text(WITH_ANALYTICS.replace(old, new, 1))
        with pytest.raises(ConfigurationError) as caught:
            load_catalogue(path)
        return [problem.split(": ", 1)[1] for problem in caught.value.problems]

    return check


def test_a_catalogue_names_tables_partitions_and_retention(tmp_path: pathlib.Path) -> None:
    (tmp_path / "catalogue.yaml").write_text(WITH_ANALYTICS)
    catalogue = load_catalogue(tmp_path / "catalogue.yaml")
    found = catalogue.store(StoreName("analytics"))
    assert isinstance(found, AnalyticsMap)
    assert found.journal == "postgres"
    assert found.retention.lapses_after_days == 8
    assert found.tables[EVENTS].partition == Partition(column="happened_at", by=PartitionBy.DAY)
    assert found.tables[PLANS].partition is None
    assert found.tables[PLANS].tenant_column == "tenant_id"
    (tmp_path / "catalogue.yaml").write_text(WITH_ANALYTICS.replace("by: day", "by: month"))
    assert load_catalogue(tmp_path / "catalogue.yaml").digest != catalogue.digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("column: happened_at", "column: happend_at", "is none of the columns; did you mean 'happened_at'?"),
        (
            "column: happened_at",
            "column: tenant_id",
            "is the tenant column: all of a tenant's rows would be one",
        ),
        ("journal: postgres", "journal: redis", "must name a store of kind postgresql"),
        ("    journal: postgres\n", "", "journal: missing"),
        ("main.plans:", "t_{tenant}.plans:", "needs isolation: schema"),
        ("ignore: [main.currencies]", "ignore: [main.plans]", "is listed already"),
        ("by: day", "by: hour", "hour"),
        ("time_travel_days: 1", "time_travel_days: -1", "time_travel_days"),
    ],
)
def test_a_catalogue_that_does_not_fit_together_is_refused(
    problems: Callable[[str, str], list[str]], old: str, new: str, said: str
) -> None:
    found = problems(old, new)
    assert any(said in problem for problem in found), found


# -- the estate --------------------------------------------------------------------------------------------------


def estate_with(blue: str, green: str) -> str:
    there = GOOD
    for cell, entry in (("blue", blue), ("green", green)):
        line = f"      redis: {{kind: redis, url: {{file: secrets/{cell}-redis}}}}\n"
        assert line in there
        there = there.replace(line, f"{line}      analytics: {{kind: analytics, {entry}}}\n")
    return there


@pytest.fixture
def estate(tmp_path: pathlib.Path) -> Callable[[str, str], pathlib.Path]:
    def write(blue: str, green: str) -> pathlib.Path:
        (tmp_path / "catalogue.yaml").write_text(WITH_ANALYTICS)
        (tmp_path / "tenure.yaml").write_text(estate_with(blue, green))
        return tmp_path / "tenure.yaml"

    return write


def test_each_cell_may_have_its_own_engine(estate: Callable[[str, str], pathlib.Path]) -> None:
    path = estate(
        "engine: duckdb, path: data/blue.duckdb, wait_s: 2.5", "engine: sql, dsn: {env: TENURE_TEST_DSN}"
    )
    loaded = load_estate(path)
    settings = loaded.cells[CellName("blue")].stores[StoreName("analytics")]
    assert settings.kind == "analytics"
    engine = open_engine(settings, "analytics of blue")
    assert isinstance(engine, DuckDbFile)
    assert engine.server == str(path.parent / "data/blue.duckdb")


def test_a_warehouse_is_opened_by_its_url_and_shows_no_password(
    estate: Callable[[str, str], pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENURE_TEST_DSN", "postgresql+psycopg://u:secret@127.0.0.1:1/w")
    loaded = load_estate(estate("engine: duckdb, path: a", "engine: sql, dsn: {env: TENURE_TEST_DSN}"))
    settings = loaded.cells[CellName("green")].stores[StoreName("analytics")]
    assert settings.kind == "analytics"
    engine = open_engine(settings, "analytics of green")
    assert isinstance(engine, SqlWarehouse)
    assert engine.server == "postgresql+psycopg://127.0.0.1:1/w"


@pytest.mark.parametrize(
    ("blue", "green", "said"),
    [
        (
            "engine: duckdb",
            "engine: duckdb, path: b",
            "blue.stores.analytics.path: missing: engine duckdb needs it",
        ),
        (
            "engine: duckdb, path: a",
            "engine: duckdb, path: a",
            "is the same as cells.blue.stores.analytics.path",
        ),
        ("engine: duckdb, path: a", "engine: sql, path: b", "path: belongs to engine duckdb; here it is sql"),
        ("engine: sqlite, path: a", "engine: duckdb, path: b", "engine"),
        (
            "engine: clickhouse, url: 'http://h:8123'",
            "engine: clickhouse, url: 'http://h:8123/'",
            "green.stores.analytics.url: is the same as",
        ),
        (
            "engine: clickhouse, url: 'http://u:p@h:8123'",
            "engine: duckdb, path: b",
            "must not contain a user or a password",
        ),
    ],
)
def test_an_estate_that_does_not_fit_together_is_refused(
    estate: Callable[[str, str], pathlib.Path], blue: str, green: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_estate(estate(blue, green))
    assert any(said in problem for problem in caught.value.problems), caught.value.problems
