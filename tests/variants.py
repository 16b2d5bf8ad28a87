"""Which of a test's parameters are variants: other arrangements or engines of a kind of store that `make test` shows
with one of them. `make variants` runs the tests with all the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def marked(kinds: Iterable[str], variants: Collection[str]) -> list[Any]:
    """The kinds as parameters. Raises `ValueError` if a variant is none of them, or all of them are."""
    every = tuple(kinds)
    unknown = set(variants) - set(every)
    if unknown or set(every) <= set(variants):
        raise ValueError(f"variants {sorted(variants)} of {every}")
    return [pytest.param(kind, marks=pytest.mark.variant) if kind in variants else kind for kind in every]
