"""CloudWatch Logs without a server: batches, filter patterns, names, keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.catalogue import NamePattern
from tenure.errors import UsageError
from tenure.model.matching import needles
from tenure.model.names import TenantId
from tenure.model.search import tenant_identifier
from tenure.stores.cloudwatch import filters
from tenure.stores.cloudwatch.events import (
    BATCH_BYTES,
    BATCH_EVENTS,
    BATCH_SPAN_MS,
    HOUR_MS,
    Event,
    Stream,
    batches,
)
from tenure.stores.cloudwatch.hour_keys import key_of, parsed


@given(
    st.lists(
        st.tuples(st.integers(0, 5 * BATCH_SPAN_MS), st.integers(0, 400_000)).map(
            lambda pair: Event(pair[0], "ü" * (pair[1] // 2))
        ),
        max_size=12,
    )
)
def test_every_batch_keeps_the_limits_of_putlogevents_and_no_event_is_lost(events: list[Event]) -> None:
    made = list(batches(events))
    assert sorted(e for batch in made for e in batch) == sorted(events)
    for batch in made:
        assert [e.timestamp for e in batch] == sorted(e.timestamp for e in batch)
        assert sum(e.size_bytes for e in batch) <= BATCH_BYTES
        assert batch[-1].timestamp - batch[0].timestamp < BATCH_SPAN_MS


def test_a_batch_has_at_most_ten_thousand_events() -> None:
    assert [len(b) for b in batches(Event(n, "x") for n in range(BATCH_EVENTS + 1))] == [BATCH_EVENTS, 1]


@pytest.mark.parametrize(
    ("texts", "pattern"),
    [
        (["acme"], "%acme%"),
        (["acme", "acme", "b"], "%acme|b%"),
        (["a.b"], r"%a\.b%"),
        (["Zm9v+/=="], r"%Zm9v\+/==%"),
        (["a*[b]{c}^$?|\\"], r"%a\*\[b\]\{c\}\^\$\?\|\\%"),
        ([], None),
        (["a", "with%percent"], None),
        (["größer"], None),
        (["x" * 2000], None),
        (["(a)"], None),
    ],
)
def test_a_filter_pattern_lets_through_what_holds_a_text_or_is_none(
    texts: list[str], pattern: str | None
) -> None:
    assert filters.any_of(texts) == pattern


def test_every_tenant_id_has_a_filter_pattern() -> None:
    for tenant in ("acme", "a", "A-1_b.c", "x" * 63):
        pattern = filters.any_of(needles(tenant_identifier(TenantId(tenant))))
        assert pattern is not None
        assert pattern.startswith("%")


def test_a_key_names_the_hour_in_utc_and_nothing_else_is_a_key() -> None:
    stream = Stream("/app/acme", "2026/11/23/[$LATEST]0a")
    key = key_of(stream, 1_795_446_000_000 + 59 * 60_000)
    assert key == "/app/acme:2026/11/23/[$LATEST]0a:2026-11-23T15"
    assert parsed(key) == (stream, 1_795_446_000_000 // HOUR_MS * HOUR_MS)
    assert parsed("/app/acme:web") == (Stream("/app/acme", "web"), None)
    for wrong in ("", "/app/acme", ":web", "/app/acme::2026-11-23T15", "/app/acme:web:yesterday"):
        assert parsed(wrong) is None


@pytest.mark.parametrize(
    ("pattern", "name", "tenant"),
    [
        ("/app/{tenant}", "/app/acme", "acme"),
        ("/app/{tenant}", "/app/acme/web", None),
        ("/app/{tenant}", "/app/", None),
        ("/app/{tenant}/*", "/app/acme/web/1", "acme"),
        ("/app/{tenant}/*", "/app/acme", None),
        ("/app/{tenant}-logs", "/app/a-b-logs", "a-b"),
        ("/app/all", "/app/all", None),
    ],
)
def test_a_name_tells_whose_it_is(pattern: str, name: str, tenant: str | None) -> None:
    assert NamePattern.parse(pattern).tenant_of(name) == tenant


@given(
    st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,12}\Z"),
    st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,12}\Z"),
)
def test_no_name_is_two_tenants(one: str, other: str) -> None:
    for text in ("/app/{tenant}", "/app/{tenant}/*", "{tenant}/*"):
        pattern = NamePattern.parse(text)
        name = pattern.of(TenantId(one)).text.replace("*", "x/y")
        assert pattern.tenant_of(name) == one
        assert pattern.of(TenantId(other)).matches(name) == (one == other)


@pytest.mark.parametrize("text", ["", "a*", "a*b", "/x*", "a b", "{tenant}{tenant}", "{other}", "a?"])
def test_a_name_pattern_that_could_mean_several_things_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        NamePattern.parse(text)
