"""Raising a sequence of the target never gives out a number twice, whatever neighbours draw meanwhile."""

from __future__ import annotations

import threading
import time

import pytest

from tenure.stores.postgres import cell_schema, marks
from tests.integration.postgres.cells import Cells

COLUMN = "public.documents.id"
SEQUENCE = "public.documents_id_seq"
MARGIN = marks.SEQUENCE_MARGIN
STRESS_S = 2.0
RAISES = 20
DRAWN = 10_000
"""At least so many raises, and numbers drawn meanwhile, however slow the machine is."""


@pytest.fixture
def target(cells: Cells) -> Cells:
    cell_schema.install(cells.green.pool)
    return cells


def change(cells: Cells, setting: str) -> None:
    cells.run(cells.green, f"alter sequence {SEQUENCE} {setting}")


def raise_to(cells: Cells, wanted: int) -> int:
    """Raise the sequence, and say what the next number is."""
    marks.raise_sequences(cells.green.pool, cells.green.tables, {COLUMN: wanted})
    return int(cells.rows(cells.green, f"select nextval('{SEQUENCE}')")[0][0])


@pytest.mark.parametrize(
    ("setting", "gap"),
    [
        ("cache 1", 10),
        ("cache 20", 10),
        ("increment 7", 10),
        ("increment 7 cache 3", 300),
        ("cache 1", 3 * MARGIN),
    ],
)
def test_neighbours_draw_no_number_twice_while_a_sequence_is_raised(
    target: Cells, setting: str, gap: int
) -> None:
    change(target, setting)
    drawn: list[list[int]] = [[], []]
    stop = threading.Event()

    def draw(mine: list[int]) -> None:
        app = target.connect(target.green)
        while not stop.is_set():
            rows = app.execute(f"select nextval('{SEQUENCE}') from generate_series(1, 2000)".encode())
            mine += [n for (n,) in rows]

    drawing = [target.in_background(lambda mine=mine: draw(mine)) for mine in drawn]  # type: ignore[misc]
    raised, enough_at = 0, time.monotonic() + STRESS_S
    try:
        while time.monotonic() < enough_at or raised <= RAISES or sum(map(len, drawn)) <= DRAWN:
            wanted = int(target.rows(target.green, f"select last_value from {SEQUENCE}")[0][0]) + gap
            assert raise_to(target, wanted) > wanted
            raised += 1
    finally:
        stop.set()
        for thread in drawing:
            thread.result(timeout=10)
    numbers = [n for mine in drawn for n in mine]
    assert len(set(numbers)) == len(numbers)
    for mine in drawn:
        assert mine == sorted(mine)


def test_what_is_a_little_behind_is_drawn_and_what_is_far_behind_jumps(target: Cells) -> None:
    assert raise_to(target, 1) == 2
    assert raise_to(target, MARGIN) == MARGIN + 1
    assert raise_to(target, 5) == MARGIN + 2
    far = 10 * MARGIN
    assert raise_to(target, far) == far + MARGIN + 1
    change(target, "increment 10")
    near = raise_to(target, far) + 5 * MARGIN
    assert near < raise_to(target, near) <= near + 20


def test_a_sequence_that_starts_higher_up_is_not_set_back(target: Cells) -> None:
    change(target, "restart 1000000")
    assert raise_to(target, 500) >= 1_000_000


@pytest.mark.parametrize("setting", ["maxvalue 1000", "maxvalue 1000 cycle", "maxvalue 1000 increment 7"])
def test_a_sequence_too_short_for_the_number_is_raised_to_its_end(target: Cells, setting: str) -> None:
    change(target, setting)
    marks.raise_sequences(target.green.pool, target.green.tables, {COLUMN: 2000})
    assert target.rows(target.green, f"select last_value from {SEQUENCE}") == [(1000,)]


def test_two_columns_with_one_sequence_raise_it_to_the_greater_number(target: Cells) -> None:
    target.run(target.green, f"alter table public.parts add column n bigint default nextval('{SEQUENCE}')")
    wanted = {"public.parts.n": 50, COLUMN: 60_000}
    for first in ({COLUMN: 70_000, "public.parts.n": 500}, wanted):
        marks.raise_sequences(target.green.pool, target.green.tables, first)
    assert raise_to(target, 1) >= 70_000


def test_raising_is_quick_enough_for_the_hold(target: Cells) -> None:
    raise_to(target, 1)
    began = time.monotonic()
    raise_to(target, MARGIN)
    assert time.monotonic() - began < 0.5
