"""How far a first pass has come, in the order of all keys."""

from __future__ import annotations

import pytest

from tenure.stores.journaled import checkpoint
from tenure.stores.journaled.checkpoint import EVERYTHING, Checkpoint, slices

KEYS = ["b", "\u00fc", "a/2", "a/10", "", "Z"]


def test_the_parts_of_a_pass_are_all_keys_in_order_and_each_ends_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "SLICE", 2)
    parts = list(slices(KEYS))
    ordered = [key for part, _ in parts for key in part]
    assert ordered == sorted(KEYS)
    assert [len(part) for part, _ in parts] == [2, 2, 2]
    for n, (_, behind) in enumerate(parts, 1):
        assert [behind.passed(key) for key in ordered] == [True] * 2 * n + [False] * (6 - 2 * n)


def test_before_the_first_part_nothing_is_passed_and_in_the_end_everything() -> None:
    assert not any(map(Checkpoint().passed, KEYS))
    assert all(map(EVERYTHING.passed, KEYS))
    assert not list(slices([]))


def test_a_key_that_looks_like_a_point_is_a_key() -> None:
    assert not Checkpoint(">*").passed("b")
    assert Checkpoint(">*").passed("*")
