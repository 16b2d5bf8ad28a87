"""`docs/faults.md` has a row for every kind of store and, in each of its cells, tests that exist or a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tenure.catalogue import StoreKind

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "faults.md"
FAULTS = 5
_TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows() -> dict[str, list[str]]:
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(cells[0]) == FAULTS + 1
    return {first: rest for first, *rest in cells[1:]}


def named_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_kind_of_store_has_a_row() -> None:
    assert set(rows()) == {kind.value for kind in StoreKind}


@pytest.mark.parametrize("kind", StoreKind)
def test_each_fault_is_shown_or_cannot_happen(kind: StoreKind) -> None:
    row = rows()[kind.value]
    assert len(row) == FAULTS
    for cell in row:
        named = _TEST.findall(cell)
        if not named:
            assert re.fullmatch(r"- .{20,}", cell), f"{kind}: neither a test nor a reason: {cell}"
        assert cell.count("::") == len(named), f"{kind}: not readable: {cell}"
        for file, test in named:
            assert test in named_in(TESTS / file), f"{kind}: there is no {file}::{test}"
