"""Records in streams come back as they were written, torn streams are told, and late ones count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.errors import StoreRefused
from tenure.stores.records import MOST_WHOLE, Abandoned, Latest, Record, RecordWriter, records


class Stream:
    """What a sink gives, as far as a record writer needs it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.items: int | None = None

    def write(self, data: bytes | memoryview) -> None:
        self.written += data

    def close(self, *, items: int | None = None) -> Any:
        self.items = items

    def blocks(self, size: int = 7) -> Iterator[bytes]:
        for n in range(0, len(self.written), size):
            yield bytes(self.written[n : n + size])

    def records(self, size: int = 7) -> Iterator[Record]:
        return records(self.blocks(size), "a test")


def written(*frames: tuple[bytes, bytes | None]) -> Stream:
    stream = Stream()
    writer = RecordWriter(stream)  # type: ignore[arg-type]
    for key, body in frames:
        if body is None:
            writer.gone(key)
        else:
            writer.item(key, {"length": len(body)}, body)
    writer.close()
    return stream


ITEMS = st.lists(st.tuples(st.binary(max_size=20), st.none() | st.binary(max_size=60)), max_size=12)


@given(ITEMS, st.integers(1, 100))
def test_what_was_written_is_read_in_blocks_of_any_size(
    items: list[tuple[bytes, bytes | None]], size: int
) -> None:
    stream = written(*items)
    found = [(r.key, None if r.gone else r.whole()) for r in stream.records(size)]
    assert found == items
    assert stream.items == len(items)


@given(ITEMS, st.data())
def test_a_stream_that_ends_early_is_torn(
    items: list[tuple[bytes, bytes | None]], data: st.DataObject
) -> None:
    stream = written(*items)
    length = data.draw(st.integers(0, len(stream.written) - 1))
    with pytest.raises(StoreRefused, match="not a whole stream"):
        list(records(iter([bytes(stream.written[:length])]), "a test"))


def test_a_frame_that_was_cut_out_is_told() -> None:
    one, both = written((b"a", b"1")), written((b"a", b"1"), (b"b", b"2"))
    end = len(one.written) - 14
    cut = both.written[:end] + both.written[-14:]
    with pytest.raises(StoreRefused, match="1 frames, and its end speaks of b'2'"):
        list(records(iter([bytes(cut)]), "a test"))


def test_long_bodies_come_in_parts_and_may_be_passed_over() -> None:
    body = os.urandom(3 * MOST_WHOLE + 5)
    stream = written((b"long", body), (b"next", b"x"))
    first, second = list(stream.records(100_000))
    assert [first.key, second.key] == [b"long", b"next"]
    parts = list(next(stream.records(100_000)).body)
    assert b"".join(parts) == body
    assert max(map(len, parts)) <= MOST_WHOLE


def test_a_body_that_broke_off_is_no_item_and_the_next_one_counts() -> None:
    def breaking() -> Iterator[bytes]:
        yield b"some"
        raise OSError

    base, late = Stream(), Stream()
    writer = RecordWriter(base)  # type: ignore[arg-type]
    with pytest.raises(OSError):  # noqa: PT011 - any will do
        writer.long(b"a", {}, breaking())
    writer.item(b"b", {}, b"2")
    writer.close()
    again = RecordWriter(late)  # type: ignore[arg-type]
    again.item(b"a", {}, b"whole")
    with pytest.raises(OSError):  # noqa: PT011
        again.long(b"a", {}, breaking())
    again.close()
    with pytest.raises(Abandoned):
        next(base.records()).whole()
    with Latest() as index:
        found = {r.key: r.whole() for r in index.merged(base.records, late.records)}
    assert found == {b"a": b"whole", b"b": b"2"}


@given(ITEMS, ITEMS)
def test_late_counts_more_than_base_and_later_more_than_earlier(
    base: list[tuple[bytes, bytes | None]], late: list[tuple[bytes, bytes | None]]
) -> None:
    first = {key: body for key, body in base if body is not None}
    streams = written(*first.items()), written(*late)
    expected = {key: body for key, body in {**first, **dict(late)}.items() if body is not None}
    with Latest() as index:
        found = [(r.key, r.whole()) for r in index.merged(streams[0].records, streams[1].records)]
    assert len(found) == len(dict(found))
    assert dict(found) == expected
