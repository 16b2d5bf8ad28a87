"""What every store's `find` shares: tallying the matches of a page, choosing a sample, and cursors as texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tenure.catalogue.shapes import shown
from tenure.errors import UsageError
from tenure.model.matching import Encoding, Match, Matcher
from tenure.model.names import TenantId
from tenure.model.search import TENANT_KIND, Coverage, Entry, FindPage, Found, Place, Search, Skipped

_HASHED: Final = 1 << 64


class Tally:
    """The matches of one page at a time, merged by place, and the counts of the whole search. For one thread."""

    def __init__(self, search: Search, *, items: int = 0, size_bytes: int = 0) -> None:
        """`items` and `size_bytes` are those of the pages before, of a search that is resumed."""
        self.search: Final = search
        self.matcher: Final = Matcher(search.identifiers, search.known)
        self.items = items
        self.size_bytes = size_bytes
        self.items_total: int | None = None
        self.bytes_total: int | None = None
        self._found: dict[object, Found] = {}
        self._skipped: dict[object, Skipped] = {}

    def looked(self, items: int, size_bytes: int) -> None:
        """So much more has been looked at."""
        self.items += items
        self.size_bytes += size_bytes

    def add(
        self,
        matches: Iterable[Match],
        place: Place,
        coverage: Callable[[TenantId], Coverage],
        *,
        item: str = "",
        entry: Mapping[str, Entry] | None = None,
    ) -> None:
        """One item of that place in which these were found. `coverage` says what the item is to a tenant; `item` names
        it, unmasked; `entry` is for places that the catalogue does not name."""
        encodings: dict[tuple[TenantId, str], set[str]] = {}
        for match in matches:
            key = (match.identifier.tenant, match.identifier.label)
            encodings.setdefault(key, set()).add(match.encoding.value)
        for (tenant, label), forms in encodings.items():
            its = coverage(tenant)
            self._merge(
                Found(
                    tenant=tenant,
                    label=label,
                    place=place,
                    coverage=its,
                    items=1,
                    examples=(self.masked(item),) if item else (),
                    encodings=tuple(sorted(forms)),
                    entry=entry if its is Coverage.UNDOCUMENTED else None,
                )
            )

    def own(self, tenant: TenantId, place: Place, items: int) -> None:
        """So many items of the place are the tenant's by the catalogue, whatever is in them. Counts only where the
        tenant's id is searched for."""
        for identifier in self.search.identifiers:
            if identifier.tenant == tenant and identifier.kind == TENANT_KIND and items:
                self._merge(
                    Found(
                        tenant=tenant,
                        label=identifier.label,
                        place=place,
                        coverage=Coverage.OWN,
                        items=items,
                        encodings=(Encoding.PLAIN.value,),
                    )
                )

    def _merge(self, found: Found) -> None:
        before = self._found.get(found.key)
        self._found[found.key] = before.merged(found) if before else found

    def skip(self, place: Place, reason: str, *, items: int = 1, size_bytes: int = 0) -> None:
        """So much of the place cannot be looked at. `reason` is the same for all that is skipped for it."""
        skipped = Skipped(place=place, reason=reason, items=items, size_bytes=size_bytes)
        before = self._skipped.get((place, reason))
        self._skipped[(place, reason)] = before.merged(skipped) if before else skipped

    def masked(self, name: str) -> str:
        """The name of an item as reports may show it."""
        return shown(name, self.search.known | self.search.tenants, self.search.identifiers)

    def clean(self, name: str) -> str:
        """The name of a place as reports may show it: without identifiers of persons that are searched for."""
        hidden = any(i.kind != TENANT_KIND and i.value in name for i in self.search.identifiers)
        return self.masked(name) if hidden else name

    def chosen(self, item: str | bytes) -> bool:
        """Whether the item is in the sample: always the same for the same item."""
        share = self.search.sample
        if share is None:
            return True
        name = item if isinstance(item, bytes) else item.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") < share * _HASHED

    def page(self, cursor: Mapping[str, Any] | None) -> FindPage:
        """The page with everything since the last one. `cursor` is what `position` gives back to go on after it; None
        at the end."""
        found, self._found = tuple(self._found.values()), {}
        skipped, self._skipped = tuple(self._skipped.values()), {}
        at = None if cursor is None else {**cursor, "looked": [self.items, self.size_bytes]}
        return FindPage(
            found=found,
            skipped=skipped,
            items=self.items,
            size_bytes=self.size_bytes,
            items_total=self.items_total,
            bytes_total=self.bytes_total,
            cursor=None if at is None else json.dumps(at, sort_keys=True),
        )


def resumed(search: Search, cursor: str | None) -> tuple[Tally, dict[str, Any]]:
    """A tally that counts on from a cursor that `Tally.page` made, and where that was; empty for a new search.

    Raises `UsageError` for anything else.
    """
    if cursor is None:
        return Tally(search), {}
    try:
        at = json.loads(cursor)
        items, size_bytes = at.pop("looked")
        return Tally(search, items=int(items), size_bytes=int(size_bytes)), at
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UsageError("this is not a cursor of a search of this store") from None
