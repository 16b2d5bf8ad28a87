"""docs/preflight.md names every finding of PostgreSQL, Pinecone, the planner and capacity, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKERS = {"refusal", "warning", "info", "found"}
FILES = [*sorted((ROOT / "src/tenure/stores/postgres").glob("*.py")), ROOT / "src/tenure/plan/move.py"]
FILES += [ROOT / "src/tenure/operations/capacity.py", ROOT / "src/tenure/stores/pinecone/preflight.py"]


def codes(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        by_name = [k.value for k in node.keywords if k.arg == "code"] if node.func.id == "Finding" else []
        by_place = node.args[:1] if node.func.id in MAKERS else node.args[1:2] * (node.func.id == "_finding")
        for given in [*by_place, *by_name]:
            if isinstance(given, ast.Constant):
                yield str(given.value)


def test_the_page_names_every_finding() -> None:
    page = (ROOT / "docs/preflight.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
    made = {code for file in FILES for code in codes(file)}
    assert len(made) > 40
    assert named - {n for n in named if n.startswith("few_")} == made
