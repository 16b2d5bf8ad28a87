"""What a search in PostgreSQL can see, what it says it cannot, and that nothing is lost between its pages."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import (
    Coverage,
    FindPage,
    Found,
    Identifier,
    PlaceKind,
    Search,
    tenant_identifier,
)
from tenure.model.secret import Secret
from tenure.stores import bodies
from tenure.stores.postgres import PostgresStore, TenantTable

ACME, ACME2 = TenantId("acme"), TenantId("acme2")
DOCUMENTS = TenantTable(schema="public", name="documents", tenant_column="tenant_id")
OWN = TenantTable(schema="t_{tenant}", name="notes")
KNOWN = frozenset({ACME, ACME2})


@pytest.fixture
def dsn(fresh_database: Callable[..., str]) -> str:
    made = fresh_database("pg18a")
    run(made, "create table public.documents (tenant_id text, id bigint, body text)")
    return made


@pytest.fixture
def stores() -> Iterator[list[PostgresStore]]:
    made: list[PostgresStore] = []
    yield made
    for store in made:
        store.close()


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def store(made: list[PostgresStore], dsn: str, **options: object) -> PostgresStore:
    arguments: dict[str, object] = {
        "name": StoreName("postgres"),
        "cell": CellName("blue"),
        "dsn": Secret(dsn),
        "tables": [DOCUMENTS],
        "columns": {DOCUMENTS: frozenset({"tenant_id", "id", "body"}), OWN: frozenset({"body"})},
    }
    made.append(PostgresStore(**{**arguments, **options}))  # type: ignore[arg-type]
    return made[-1]


def search(**options: object) -> Search:
    given: dict[str, object] = {"identifiers": (tenant_identifier(ACME),), "known": KNOWN}
    return Search(**{**given, **options})  # type: ignore[arg-type]


def here(pages: list[FindPage]) -> dict[str, int]:
    """What was found in the store's own database, by place; other tests use the same server."""
    found: dict[str, int] = {}
    for its in (f for page in pages for f in page.found):
        if ": " not in its.place.name and its.place.kind is PlaceKind.COLUMN:
            found[its.place.name] = found.get(its.place.name, 0) + its.items
    return found


def skipped(pages: list[FindPage]) -> set[tuple[str, str]]:
    return {(str(s.place), s.reason) for page in pages for s in page.skipped if ": " not in s.place.name}


LARGE = """
create table public.large (id bigint, note text);
insert into public.large select n, case when n %% 1000 = 0 then 'for acme' else 'for acme2' end || repeat(' x', 200)
    from generate_series(1, 20000) n;
"""


def test_a_search_of_a_large_table_goes_on_from_each_page_even_where_the_table_was_rewritten(
    dsn: str, stores: list[PostgresStore]
) -> None:
    run(dsn, LARGE.replace("%%", "%"))
    pages = list(store(stores, dsn).find(search()))
    assert here(pages) == {"public.large.note": 20}
    rows = [n for n, page in enumerate(pages) if page.cursor and '"block"' in page.cursor]
    assert len(rows) > 2, "the table took several pages"
    middle = rows[len(rows) // 2]
    rest = list(store(stores, dsn).find(search(), cursor=pages[middle].cursor))
    assert here([*pages[: middle + 1], *rest]) == {"public.large.note": 20}
    assert 0 < here(rest)["public.large.note"] < 20, "it did not begin anew"
    run(dsn, "vacuum full public.large")
    anew = list(store(stores, dsn).find(search(), cursor=pages[middle].cursor))
    assert here(anew) == {"public.large.note": 20}


def test_a_sample_looks_at_its_share_and_always_at_the_same(dsn: str, stores: list[PostgresStore]) -> None:
    run(dsn, LARGE.replace("%%", "%"), "analyze public.large")
    whole = list(store(stores, dsn).find(search(everywhere=True)))[-1]
    first = list(store(stores, dsn).find(search(sample=0.3)))
    again = list(store(stores, dsn).find(search(sample=0.3)))
    assert here(first) == here(again)
    assert 0 < here(first)["public.large.note"] < 20
    assert first[-1].items < whole.items
    assert whole.bytes_total is not None


def test_what_a_login_may_not_read_is_skipped_and_never_clean(
    dsn: str, stores: list[PostgresStore], fresh_database: Callable[..., str]
) -> None:
    closed = fresh_database("pg18a")
    name = psycopg.conninfo.conninfo_to_dict(closed)["dbname"]
    run(
        dsn,
        "create table public.closed (note text); insert into public.closed values ('for acme')",
        "create table public.filtered (note text); insert into public.filtered values ('for acme')",
        "alter table public.filtered enable row level security",
        "do $$ begin create role find_reader login; exception when duplicate_object then null; end $$",
        "grant select on public.documents, public.filtered to find_reader",
        f'revoke connect on database "{name}" from public',
    )
    limited = psycopg.conninfo.make_conninfo(dsn, options="-c role=find_reader")
    pages = list(store(stores, limited).find(search()))
    assert here(pages) == {}
    said = {str(s.place): s.reason for page in pages for s in page.skipped}
    assert said["table public.closed"] == "the login may not read it"
    assert "row security" in said["table public.filtered"]
    assert said[f"database {name}"] == "the login may not enter it"
    assert len(list(store(stores, dsn).find(search()))) > 0


def test_values_over_the_limit_and_closed_containers_are_said(dsn: str, stores: list[PostgresStore]) -> None:
    run(dsn, "create table public.files (id bigint, body bytea, note text, many bytea[])")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for n, (body, note) in enumerate(
            (
                (b"x" * 3000 + b" acme", "y" * 3000 + " acme"),
                (b"PAR1 and the rest", "short"),
                (gzip.compress(b"an acme"), "for acme"),
                ("for acme".encode("utf-16"), None),
            )
        ):
            connection.execute("insert into public.files values (%s, %s, %s, %s)", (n, body, note, [b"acme"]))
    pages = list(store(stores, dsn).find(search(body_limit_bytes=1000)))
    assert here(pages) == {"public.files.body": 2, "public.files.note": 1}
    assert ("column public.files.body", bodies.TOO_LONG) in skipped(pages)
    assert ("column public.files.note", bodies.TOO_LONG) in skipped(pages)
    assert any("Parquet" in reason for place, reason in skipped(pages) if place == "column public.files.body")
    assert ("column public.files.many", "an array of bytes") in skipped(pages)


def test_more_identifiers_than_a_server_is_given_are_found_all_the_same(
    dsn: str, stores: list[PostgresStore]
) -> None:
    run(
        dsn,
        "create table public.notes (id bigint, note text, raw bytea)",
        "insert into public.notes select n, 'for tenant' || n || ' only', ('x tenant' || n)::bytea"
        " from generate_series(1, 300) n",
    )
    tenants = [TenantId(f"tenant{n}") for n in range(1, 301)]
    what = Search(identifiers=tuple(map(tenant_identifier, tenants)), known=frozenset(tenants))
    found = [f for page in store(stores, dsn).find(what) for f in page.found if ": " not in f.place.name]
    notes = {f.tenant for f in found if f.place.name == "public.notes.note"}
    assert notes == {f.tenant for f in found if f.place.name == "public.notes.raw"} == set(tenants)
    assert all(f.items == 1 for f in found)


def test_numbers_and_uuids_are_looked_at_where_the_identifier_is_one(
    dsn: str, stores: list[PostgresStore]
) -> None:
    uuid = "0189f7ea-ae2c-7809-8aeb-b819cf5e9e7f"
    run(
        dsn,
        "create table public.facts (n bigint, amount numeric, u uuid, at date)",
        f"insert into public.facts values (4711, 4711, '{uuid}', '2024-01-01'), (47110, 1, null, null)",
    )
    for value, places in ((uuid, {"public.facts.u"}), ("4711", {"public.facts.n", "public.facts.amount"})):
        identifier = Identifier(tenant=ACME, kind="customer", value=value)
        pages = list(store(stores, dsn).find(search(identifiers=(identifier,))))
        assert set(here(pages)) == places
        assert set(here(pages).values()) == {1}


@pytest.mark.parametrize("more", [0, 5])
def test_few_and_several_identifiers_lead_to_the_same_rows(
    dsn: str, stores: list[PostgresStore], more: int
) -> None:
    run(
        dsn,
        "create table public.loose (note text)",
        "insert into public.loose values ('for acme'), ('for ACME'), ('for acme2')",
    )
    others = [Identifier(tenant=ACME, kind="customer", value=f"number {n}000") for n in range(more)]
    pages = list(store(stores, dsn).find(search(identifiers=(tenant_identifier(ACME), *others))))
    assert here(pages) == {"public.loose.note": 1}


def test_tenants_of_their_own_schemas_are_told_apart(dsn: str, stores: list[PostgresStore]) -> None:
    for tenant in KNOWN:
        run(
            dsn,
            f"create schema t_{tenant}",
            f"create table t_{tenant}.notes (body text)",
            f"insert into t_{tenant}.notes values ('about acme')",
            f"create table t_{tenant}.extra (body text); insert into t_{tenant}.extra values ('x acme')",
        )
    its = store(stores, dsn, tables=[OWN], ignore=[DOCUMENTS])
    found: dict[tuple[str, Coverage], int] = {}
    for f in (f for page in its.find(search()) for f in page.found if ": " not in f.place.name):
        found[str(f.place), f.coverage] = found.get((str(f.place), f.coverage), 0) + f.items
    assert found == {
        ("schema t_{tenant}", Coverage.OWN): 1,
        ("table t_{tenant}.notes", Coverage.OWN): 1,
        ("column t_{tenant}.notes.body", Coverage.NEIGHBOUR): 1,
        ("column t_{tenant}.extra.body", Coverage.UNDOCUMENTED): 2,
    }
    survey = its.survey(KNOWN)
    assert [str(p.place) for p in survey.unclassified] == ["table t_{tenant}.extra"]
    assert survey.unclassified[0].entry == {
        "postgres": {"tables": {"t_{tenant}.extra": {"columns": {"body": "content"}}}}
    }


def test_what_is_gone_is_named(dsn: str, stores: list[PostgresStore]) -> None:
    gone = TenantTable(schema="public", name="gone", tenant_column="tenant_id")
    its = store(
        stores,
        dsn,
        tables=[DOCUMENTS, gone],
        columns={DOCUMENTS: frozenset({"tenant_id", "id", "body", "title"}), gone: frozenset({"tenant_id"})},
    )
    assert {(str(g.place), g.where) for g in its.survey(KNOWN).gone} == {
        ("table public.gone", "tables.public.gone"),
        ("column public.documents.title", "tables.public.documents.columns.title"),
    }


def test_the_control_database_beside_it_is_tenures_own(
    dsn: str, stores: list[PostgresStore], fresh_database: Callable[..., str]
) -> None:
    control = fresh_database("pg18a")
    name = psycopg.conninfo.conninfo_to_dict(control)["dbname"]
    run(
        control,
        "create schema registry",
        *(f"create table registry.{t} (tenant text)" for t in ("migrations", "operations", "placements")),
        "insert into registry.placements values ('acme')",
        "create table public.other (note text); insert into public.other values ('acme')",
    )
    found: list[Found] = [f for page in store(stores, dsn).find(search()) for f in page.found]
    its = {(f.place.name, f.coverage) for f in found if f.place.name.startswith(f"{name}: ")}
    assert its == {
        (f"{name}: registry.placements.tenant", Coverage.TENURE),
        (f"{name}: public.other.note", Coverage.UNDOCUMENTED),
    }


def test_databases_of_other_stores_are_left_to_them(
    dsn: str, stores: list[PostgresStore], fresh_database: Callable[..., str]
) -> None:
    other = fresh_database("pg18a")
    name = str(psycopg.conninfo.conninfo_to_dict(other)["dbname"])
    run(other, "create table public.other (note text); insert into public.other values ('acme')")

    def places(**options: object) -> set[str]:
        pages = store(stores, dsn, **options).find(search())
        return {f.place.name for page in pages for f in page.found if f.place.name.startswith(f"{name}: ")}

    assert places() == {f"{name}: public.other.note"}
    assert places(others=lambda: frozenset({name})) == set()
