"""The ids of a namespace in the order of their bytes, from any id on; an expired page token costs no id.

The service lists ids "in sorted order (bitwise C collation)", and can list those that begin in a certain way: whoever
has lost the token goes on by beginnings. https://docs.pinecone.io/reference/api/latest/data-plane/list
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from tenure.errors import StoreRefused
from tenure.stores.pinecone.client import Page
from tenure.stores.pinecone.errors import TokenRefused

LAST_CHARACTER: Final = 0x7F
"""Ids are ASCII."""


class Pages(Protocol):
    """What lists a page (`IndexClient.page`)."""

    def page(self, namespace: str, *, prefix: str = "", token: str | None = None) -> Page: ...


def listed(pages: Pages, namespace: str, *, after: str = "") -> Iterator[list[str]]:
    """The ids after `after`, page by page, each id once.

    Where a token is refused, the listing goes on after the last id: from the beginning again if that takes fewer
    requests, else by beginnings of ids. Raises `StoreRefused` if the service does not keep to the order.
    """
    done = refusals = 0
    last = after
    while True:
        plain = not last or (refusals == 1 and done <= probes(last))
        try:
            for found in _walk(pages, namespace, [""] if plain else beginnings(last)):
                done += 1
                new = [one for one in found if one > last] if last else found
                if new != sorted(set(new)):
                    raise StoreRefused(f"the ids of {namespace} are not listed in order")
                if new:
                    last = new[-1]
                    yield new
        except TokenRefused:
            refusals += 1
            continue
        return


def _walk(pages: Pages, namespace: str, prefixes: Iterator[str] | list[str]) -> Iterator[list[str]]:
    for prefix in prefixes:
        token: str | None = None
        while True:
            page = pages.page(namespace, prefix=prefix, token=token)
            yield list(page.ids)
            token = page.token
            if token is None:
                break


def beginnings(last: str) -> Iterator[str]:
    """What the ids after `last` begin with, in order: first those that go on where it ends."""
    yield last
    for at in range(len(last) - 1, -1, -1):
        for code in range(ord(last[at]) + 1, LAST_CHARACTER + 1):
            yield last[:at] + chr(code)


def probes(last: str) -> int:
    """How many beginnings that are."""
    return 1 + sum(LAST_CHARACTER - ord(one) for one in last)
