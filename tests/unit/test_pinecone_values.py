"""Records are equal to the bit or not at all, batches fit the vendor's limits, and a listing goes on after any id."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.errors import StoreRefused
from tenure.stores.pinecone.client import Page
from tenure.stores.pinecone.comparison import merged
from tenure.stores.pinecone.errors import TokenRefused
from tenure.stores.pinecone.find import pattern
from tenure.stores.pinecone.listing import beginnings, listed, probes
from tenure.stores.pinecone.records import (
    FETCH_LINE_BYTES,
    UPSERT_BYTES,
    UPSERT_RECORDS,
    Record,
    bits,
    fetches,
    upserts,
)

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
IDS = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=4)


@given(st.lists(FLOATS, max_size=8))
def test_values_survive_json_to_the_bit(values: list[float]) -> None:
    through = json.loads(json.dumps(values))
    assert bits(through) == bits(values) == struct.pack(f"<{len(values)}f", *values)


@given(FLOATS.filter(lambda v: v not in (0.0, math.inf)))
def test_the_next_number_of_32_bits_is_another_one(value: float) -> None:
    (number,) = struct.unpack("<I", struct.pack("<f", value))
    (beside,) = struct.unpack("<f", struct.pack("<I", number - 1))
    one, other = Record(id="a", values=[value]), Record(id="a", values=[beside])
    assert one.canonical != other.canonical
    assert one.digest != other.digest


def test_what_makes_two_records_differ() -> None:
    base = Record(id="a", values=[1.0], sparse=((3, 0.5),), metadata={"n": 1, "t": ["x", "y"], "open": True})
    same = Record(
        id="a", values=[1.0], sparse=((3, 0.5),), metadata={"open": True, "t": ["x", "y"], "n": 1.0}
    )
    assert base.canonical == same.canonical
    for other in (
        Record(id="b", values=[1.0], sparse=base.sparse, metadata=base.metadata),
        Record(id="a", values=[-1.0], sparse=base.sparse, metadata=base.metadata),
        Record(id="a", values=[1.0], metadata=base.metadata),
        Record(id="a", values=[1.0], sparse=((4, 0.5),), metadata=base.metadata),
        Record(id="a", values=[1.0], sparse=((3, 0.25),), metadata=base.metadata),
        Record(id="a", values=[1.0], sparse=base.sparse, metadata={**base.metadata, "n": 2}),
        Record(id="a", values=[1.0], sparse=base.sparse, metadata={**base.metadata, "open": 1}),
        Record(id="a", values=[1.0], sparse=base.sparse, metadata={**base.metadata, "t": ["y", "x"]}),
        Record(id="a", values=[1.0], sparse=base.sparse, metadata={**base.metadata, "n": "1"}),
    ):
        assert other.canonical != base.canonical
    assert Record(id="a", values=[0.0]).canonical != Record(id="a", values=[-0.0]).canonical


@given(st.lists(st.integers(0, 30_000), max_size=60))
def test_batches_of_upserts_fit_and_leave_nothing_out(sizes: list[int]) -> None:
    records = [
        Record(id=str(n), values=[0.5] * (size % 97), metadata={"t": "x" * size})
        for n, size in enumerate(sizes)
    ]
    batches = list(upserts(records))
    assert [record for batch in batches for record in batch] == records
    for batch in batches:
        assert len(batch) <= UPSERT_RECORDS
        assert len(batch) == 1 or sum(record.wire_bytes for record in batch) <= UPSERT_BYTES


@given(
    st.lists(
        st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=512), max_size=80
    )
)
def test_batches_of_fetches_fit_into_a_line(ids: list[str]) -> None:
    batches = list(fetches(ids, most=50))
    assert [one for batch in batches for one in batch] == ids
    for batch in batches:
        assert len(batch) <= 50
        assert len(batch) == 1 or sum(5 + len(one) for one in batch) <= FETCH_LINE_BYTES


class Service:
    """Lists in order, `size` ids a page; refuses the tokens of these pages, once each."""

    def __init__(self, ids: set[str], *, size: int = 3, refuses: set[int] | None = None) -> None:
        self.ids = sorted(ids)
        self.size = size
        self.refuses = refuses or set()
        self.asked = 0

    def page(self, namespace: str, *, prefix: str = "", token: str | None = None) -> Page:
        if token is not None:
            self.asked += 1
            if self.asked in self.refuses:
                raise TokenRefused("expired")
        here = [one for one in self.ids if one.startswith(prefix) and (token is None or one > token)]
        page = here[: self.size]
        return Page(ids=page, token=page[-1] if len(here) > self.size else None)


@given(st.sets(IDS, max_size=40), st.sets(st.integers(1, 12), max_size=5))
def test_a_listing_gives_each_id_once_whatever_tokens_expire(ids: set[str], refuses: set[int]) -> None:
    found = [one for page in listed(Service(ids, refuses=refuses), "ns") for one in page]
    assert found == sorted(ids)


@given(st.sets(IDS, max_size=30), IDS)
def test_a_listing_begins_after_any_id(ids: set[str], after: str) -> None:
    found = [one for page in listed(Service(ids), "ns", after=after) for one in page]
    assert found == sorted(one for one in ids if one > after)


@given(IDS, IDS)
def test_every_later_id_begins_in_one_of_the_ways_and_no_earlier_one_does(last: str, other: str) -> None:
    ways = list(beginnings(last))
    assert len(ways) == probes(last)
    assert ways[1:] == sorted(ways[1:])
    hits = [way for way in ways if other.startswith(way)]
    assert bool(hits) == (other >= last)
    assert len(hits) <= 1


def test_a_listing_out_of_order_is_refused() -> None:
    service = Service({"a", "b", "c"})
    service.ids = ["b", "a", "c"]
    with pytest.raises(StoreRefused):
        list(listed(service, "ns"))


@given(st.sets(IDS, max_size=20), st.sets(IDS, max_size=20), st.integers(1, 5))
def test_two_listings_are_merged_in_order(ours: set[str], theirs: set[str], size: int) -> None:
    def pages(ids: set[str]) -> Iterator[list[str]]:
        ordered = sorted(ids)
        return (ordered[n : n + size] for n in range(0, len(ordered), size))

    assert list(merged(pages(ours), pages(theirs))) == sorted(ours | theirs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("old-acme", "old-{tenant}"),
        ("acme", "{tenant}"),
        ("acme-corp-2024", "{tenant}-2024"),
        ("acme2", "acme2"),
        ("ACME_x", "ACME_x"),
        ("scratch", "scratch"),
    ],
)
def test_a_namespaces_pattern_has_the_tenant_where_its_id_stands_alone(name: str, expected: str) -> None:
    seen = pattern(name, {"acme", "acme-corp"})
    assert seen == expected or (expected in ("acme2", "ACME_x") and "{tenant}" not in seen)
