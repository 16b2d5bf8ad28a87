"""Names of single items without what may be personal in them: patterns for keys of one sort, and masked examples.

A pattern keeps the words by which apps tell sorts of keys apart, which is a guess: the first part of a key and the one
after a tenant's id, where they are plain words. Everything else is `*`. An identifier that is searched for is in
neither, unless it is a tenant's id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from tenure.catalogue.patterns import PLACEHOLDER
from tenure.model.search import TENANT_KIND, Identifier

ANY: Final = "*"
MOST_PATTERNS: Final = 100
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_DELIMITERS: Final = re.compile(r"([:/|#])")
_PART: Final = re.compile(r"[^:/|#\s]+")
_WORD: Final = re.compile(r"[A-Za-z.][A-Za-z_.-]{0,39}")
_NUMBER: Final = re.compile(r"\d{1,20}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DIGEST_DIGITS: Final = 8


def printable(name: str) -> str:
    """The name with control characters, and bytes that were no UTF-8, as escapes."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", name)


def collapsed(counts: Mapping[str, int], most: int = MOST_PATTERNS) -> dict[str, int]:
    """The counts by pattern with patterns put together where they are too many to be sorts of keys: by what they begin
    with, and in the end all of them."""
    if len(counts) <= most:
        return dict(counts)
    fewer: dict[str, int] = {}
    for pattern, count in counts.items():
        together = coarser(pattern)
        fewer[together] = fewer.get(together, 0) + count
    return fewer if len(fewer) <= most else {ANY: sum(counts.values())}


def coarser(pattern: str) -> str:
    """A pattern of which there are too many: only what it begins with stays, or nothing where no delimiter follows."""
    parts = _DELIMITERS.split(pattern, maxsplit=1)
    return f"{parts[0]}{parts[1]}{ANY}" if len(parts) == 3 else ANY


def shape(key: str, tenants: Collection[str], hidden: Collection[str] = ()) -> str:
    """The pattern of keys like this one: `cache:acme:doc:17` is `cache:{tenant}:doc:*`.

    `hidden` are values that must not be shown. Equal patterns for keys of one sort, whatever the order they come in.
    """
    parts = _DELIMITERS.split(key)
    shaped: list[str] = []
    keeps = True
    for n, part in enumerate(parts):
        if n % 2:
            shaped.append(part)
            continue
        last = n == len(parts) - 1
        if part in tenants:
            shaped.append(PLACEHOLDER)
            keeps = True
        elif keeps and (not last or n == 0) and _WORD.fullmatch(part) and part not in hidden:
            shaped.append(part)
            keeps = False
        else:
            shaped.append(ANY if part else "")
            keeps = False
    return printable(_shortened("".join(shaped)))


def _shortened(pattern: str) -> str:
    """Everything after the first `*` that no tenant's id follows is that `*`."""
    head, found, tail = pattern.rpartition(PLACEHOLDER)
    kept, star, _ = tail.partition(ANY)
    return f"{head}{found}{kept}{star}"


def shown(name: str, tenants: Collection[str], identifiers: Iterable[Identifier]) -> str:
    """An item's name with everything in it that may be personal replaced by a digest, so that an operator who sees the
    item can tell that this is it. Tenants' ids, plain words, numbers and UUIDs stay."""
    hidden = tuple(i.value for i in identifiers if i.kind != TENANT_KIND)

    def part(found: re.Match[str]) -> str:
        text = found[0]
        if text in tenants or _NUMBER.fullmatch(text):
            return text
        if _WORD.fullmatch(text) and not any(value in text for value in hidden):
            return text
        return f"#{_digest(text)}"

    masked = printable(_PART.sub(part, name))
    return masked if not any(value in masked for value in hidden) else f"#{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
