"""Every error code has an exit code, a page in the reference, and a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tenure.cli.main
import tenure.client  # noqa: F401
from tenure.cli.exit_codes import EXIT_CODES
from tenure.errors import TenureError

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


def subclasses(of: type[TenureError]) -> Iterator[type[TenureError]]:
    yield of
    for sub in of.__subclasses__():
        yield from subclasses(sub)


def test_every_code_has_an_exit_code_and_every_exit_code_an_error() -> None:
    assert {c.code for c in subclasses(TenureError)} == set(EXIT_CODES)


def test_every_code_is_documented_with_its_exit_code() -> None:
    rows = [
        line.split("|")
        for line in REFERENCE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    documented = {row[1].strip().strip("`"): int(row[2]) for row in rows}
    assert documented == EXIT_CODES
