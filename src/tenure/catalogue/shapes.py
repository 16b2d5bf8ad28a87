"""Names of single items without what may be personal in them: patterns for keys of one sort, and masked examples.

A pattern keeps the words by which apps tell sorts of keys apart, which is a guess: the first part of a key and the one
after a tenant's id, where they are plain words. Everything else is `*`. An identifier that is searched for is in
neither, unless it is a tenant's id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from typing import Final

from tenure.catalogue.patterns import PLACEHOLDER
from tenure.model.search import TENANT_KIND, Identifier

ANY: Final = "*"
_DELIMITERS: Final = re.compile(r"([:/|#])")
_PART: Final = re.compile(r"[^:/|#\s]+")
_WORD: Final = re.compile(r"[A-Za-z.][A-Za-z_.-]{0,39}")
_NUMBER: Final = re.compile(r"\d{1,20}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DIGEST_DIGITS: Final = 8


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
    return _shortened("".join(shaped))


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

    masked = _PART.sub(part, name)
    return masked if not any(value in masked for value in hidden) else f"#{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
