"""Patterns for keys of one sort, masked examples, and what is put together when there is too much of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.catalogue import DataClass, KeyPattern, StoreKind, Template
from tenure.catalogue.guesses import class_of, table_entry
from tenure.catalogue.shapes import collapsed, printable, shape, shown
from tenure.model.names import StoreName, TenantId
from tenure.model.search import (
    Coverage,
    Found,
    Identifier,
    Place,
    PlaceKind,
    Search,
    tenant_identifier,
)
from tenure.operations.scan import _Merged
from tenure.operations.survey import merged
from tenure.stores.finds import Tally
from tenure.stores.keyed import Counts, KeyMap

TENANTS = frozenset({"acme", "acme2"})
ANN = Identifier(tenant=TenantId("acme"), kind="email", value="ann.lee@example.com")


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("cache:acme:doc:17", "cache:{tenant}:doc:*"),
        ("session:9f3a", "session:*"),
        ("exports/2024/acme.csv", "exports/*"),
        ("exports/acme/2024/a.csv", "exports/{tenant}/*"),
        ("acme", "{tenant}"),
        ("counter", "counter"),
        ("17", "*"),
        ("user:ann.lee@example.com:cart", "user:*"),
        ("a:acme:b:acme2:c", "a:{tenant}:b:{tenant}:*"),
        ("café:1", "*"),
        ("x\x00:1", "*"),
        ("", ""),
    ],
)
def test_a_key_is_shown_as_its_sort(key: str, pattern: str) -> None:
    assert shape(key, TENANTS) == pattern


@given(st.text(max_size=60))
def test_a_pattern_shows_no_hidden_value_and_nothing_unprintable(key: str) -> None:
    given_key = f"{key}:{ANN.value}:{key}"
    for text in (shape(given_key, TENANTS, (ANN.value,)), shown(given_key, TENANTS, (ANN,))):
        assert ANN.value not in text
        assert text == printable(text)
        text.encode()


def test_an_example_keeps_what_tells_items_apart_and_says_nothing_of_persons() -> None:
    assert shown("cache:acme:doc:17", TENANTS, ()) == "cache:acme:doc:17"
    masked = shown("user:bob.smith@example.com:cart", TENANTS, ())
    assert masked.startswith("user:#")
    assert masked.endswith(":cart")
    assert "bob" not in masked
    assert masked == shown("user:bob.smith@example.com:cart", TENANTS, ())


def test_too_many_patterns_are_put_together_and_none_is_lost() -> None:
    many = {f"user{chr(97 + n // 26)}{chr(97 + n % 26)}:x": 2 for n in range(300)}
    assert collapsed(many) == {"*": 600}
    few = {f"user:{chr(97 + n // 26)}{chr(97 + n % 26)}:*": 1 for n in range(300)}
    assert collapsed(few) == {"user:*": 300}
    assert collapsed({"a:*": 1}) == {"a:*": 1}


def keymap() -> KeyMap:
    return KeyMap(
        store=StoreName("kv"),
        kind=StoreKind.REDIS,
        prefix=Template.prefix("t:{tenant}:"),
        patterns=[KeyPattern(pattern="session:*", data_class=DataClass.PLAIN)],
        ignored=[KeyPattern(pattern="flags:*", data_class=DataClass.PLAIN)],
        reserved="tenure:",
        reserved_below="__mark",
    )


@pytest.mark.parametrize(
    ("key", "coverage"),
    [
        ("t:acme:session:1", Coverage.OWN),
        ("t:acme:other", Coverage.OWN),
        ("t:acme2:session:acme", Coverage.NEIGHBOUR),
        ("t:unknown:x", Coverage.NEIGHBOUR),
        ("flags:acme", Coverage.IGNORED),
        ("cache:acme", Coverage.UNDOCUMENTED),
        ("tt:acme:x", Coverage.UNDOCUMENTED),
        ("tenure:fence:acme", Coverage.TENURE),
        ("t:acme:__mark:1", Coverage.TENURE),
    ],
)
def test_what_a_key_is_to_a_tenant(key: str, coverage: Coverage) -> None:
    assert keymap().coverage(key, TenantId("acme")) is coverage


def test_a_proposal_goes_below_the_prefix_or_is_a_store_of_its_own() -> None:
    its = keymap()
    assert its.entry("t:{tenant}:draft:*") == {"kv": {"keys": {"draft:*": "content"}}}
    assert its.entry("cache:{tenant}:*") == {
        "kv-cache": {"kind": "redis", "prefix": "cache:{tenant}:", "keys": {"*": "content"}}
    }
    assert its.entry("cache:*") is None
    assert its.entry("{tenant}") is None


def test_counting_keys_takes_no_more_memory_than_some_patterns() -> None:
    counts = Counts(keymap(), [TenantId("acme")])
    for n in range(20_000):
        counts.add("".join(chr(97 + n // 26**i % 26) for i in range(4)))
    for _ in range(3):
        counts.add("t:acme:session:x")
    assert len(counts.unnamed) < 6000
    assert sum(counts.unnamed.values()) == 20_000
    assert counts.named == {"t:{tenant}:session:*": 3}


def found(name: str, kind: PlaceKind = PlaceKind.KEY, items: int = 1) -> Found:
    return Found(
        tenant=TenantId("acme"),
        label="tenant=acme",
        place=Place(kind=kind, name=name),
        coverage=Coverage.UNDOCUMENTED,
        items=items,
        examples=(name,),
    )


def test_findings_are_put_together_by_place_and_where_they_are_too_many_by_what_keys_begin_with() -> None:
    few = _Merged([found("a:*"), found("a:*"), found("b:*")])
    assert {(f.place.name, f.items) for f in few.all} == {("a:*", 2), ("b:*", 1)}
    many = _Merged([found(f"user:{n}:x") for n in range(1500)])
    many.add([found("public.notes.body", PlaceKind.COLUMN), found("user:later:x")])
    assert {(f.place.name, f.items) for f in many.all} == {("user:*", 1501), ("public.notes.body", 1)}
    assert all(len(f.examples) <= 3 for f in many.all)


def test_proposals_are_put_together() -> None:
    assert merged(
        [
            {"pg": {"tables": {"a.b": {"columns": {"x": "key"}}}, "ignore": ["a.c"]}},
            {
                "pg": {
                    "tables": {"a.b": {"columns": {"x": "plain", "y": "content"}}},
                    "ignore": ["a.d", "a.c"],
                }
            },
        ]
    ) == {"pg": {"tables": {"a.b": {"columns": {"x": "key", "y": "content"}}}, "ignore": ["a.c", "a.d"]}}


@pytest.mark.parametrize(
    ("column", "type_name", "expected"),
    [
        ("id", "bigint", "key"),
        ("customer_id", "text", "key"),
        ("email", "text", "personal"),
        ("full_name", "text", "personal"),
        ("iban", "text", "sensitive"),
        ("password_hash", "text", "secret"),
        ("settings", "jsonb", "config"),
        ("created_at", "timestamp with time zone", "plain"),
        ("total", "numeric(10,2)", "plain"),
        ("body", "text", "content"),
        ("anything", "bytea", "content"),
    ],
)
def test_a_class_is_guessed_on_the_careful_side(column: str, type_name: str, expected: str) -> None:
    assert class_of(column, type_name).value == expected


def test_a_proposed_table_names_the_column_that_tells_whose_a_row_is() -> None:
    columns = {"org": "text", "id": "bigint"}
    assert table_entry(columns, ("org",)) == {"columns": {"org": "tenant", "id": "key"}}
    assert table_entry({"tenant_id": "text"}) == {
        "tenant_column": "tenant_id",
        "columns": {"tenant_id": "tenant"},
    }
    assert table_entry({"tenant_id": "text"}, owned=True) == {"columns": {"tenant_id": "key"}}


def test_a_sample_is_always_the_same_and_about_its_share() -> None:
    tally = Tally(Search(identifiers=(tenant_identifier(TenantId("acme")),), sample=0.3))
    chosen = [n for n in range(10_000) if tally.chosen(f"item {n}")]
    assert chosen == [n for n in range(10_000) if tally.chosen(f"item {n}")]
    assert 2500 < len(chosen) < 3500
    with pytest.raises(ValueError, match="share"):
        Search(identifiers=(), sample=0.0)
