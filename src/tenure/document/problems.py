"""One problem of a configuration file, how its place is written, and the error that carries all of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tenure.errors import ConfigurationError

_PLAIN_PART = re.compile(r"[\w-]+")
_SHOWN = 60


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """What is wrong at one place. Lines and columns count from 1; `str` gives `file:line:column: message`."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise one `ConfigurationError` with every problem, file by file in the order of the lines; return if
    none."""
    found = list(problems)
    if not found:
        return
    files = list(dict.fromkeys(p.file for p in found))
    ordered = sorted(set(found), key=lambda p: (files.index(p.file), p.line, p.column, p.message))
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    raise ConfigurationError(
        f"{count} in {' and '.join(files)}",
        problems=tuple(str(p) for p in ordered),
        hint="docs/reference/configuration.md describes every setting",
    )


def shown(text: str) -> str:
    """Text as a message may quote it: shortened, control characters escaped."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def dotted(path: Sequence[str | int]) -> str:
    """How a message names a setting: `cells.blue.stores`, `gateway.admin[0]`, `tables.'public.documents'`."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
            continue
        name = part if _PLAIN_PART.fullmatch(part) and len(part) <= _SHOWN else shown(part)
        out += f".{name}" if out else name
    return out


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(given[:_SHOWN], list(known), n=1, cutoff=0.6)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""
