"""Keys in one flat space, of Redis or of a bucket, against the catalogue: whose a key is, and how a sort is named."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenure.catalogue import DataClass, KeyPattern, StoreKind, Template
from tenure.catalogue.patterns import DELIMITERS, PLACEHOLDER
from tenure.catalogue.shapes import ANY, collapsed, shape
from tenure.model.names import StoreName, TenantId
from tenure.model.search import Coverage, Entry, Gone, Place, PlaceKind, Surveyed

NO_TENANT: Final = "no tenant's id is in the key: only if it holds no tenant's data, it can be ignored"
MOST_AT_ONCE: Final = 5000
"""More patterns than so many are put together while keys are counted."""
_WORD_LENGTH: Final = 20


def patterns(texts: Sequence[str]) -> tuple[KeyPattern, ...]:
    """Patterns to tell keys apart; what they hold does not matter here."""
    return tuple(KeyPattern(pattern=text, data_class=DataClass.PLAIN) for text in texts)


@dataclass(frozen=True, kw_only=True)
class KeyMap:
    """The catalogue's entry of a store of keys. `patterns` are of keys below the prefix, `ignored` of whole keys that
    hold no tenant's data. Keys that begin with `reserved`, or below a prefix with `reserved_below`, are Tenure's."""

    store: StoreName
    kind: StoreKind
    prefix: Template
    patterns: Sequence[KeyPattern]
    ignored: Sequence[KeyPattern]
    reserved: str
    reserved_below: str | None = None

    def coverage(self, key: str, tenant: TenantId) -> Coverage:
        """What a key is to a tenant."""
        if self.is_tenures(key):
            return Coverage.TENURE
        owned = self.prefix.owner_of(key)
        if owned is not None:
            return Coverage.OWN if owned[0] == tenant else Coverage.NEIGHBOUR
        return Coverage.IGNORED if self.is_ignored(key) else Coverage.UNDOCUMENTED

    def is_tenures(self, key: str) -> bool:
        if key.startswith(self.reserved):
            return True
        owned = self.prefix.owner_of(key) if self.reserved_below is not None else None
        return owned is not None and owned[1].startswith(self.reserved_below or "")

    def is_ignored(self, key: str) -> bool:
        return any(p.matches(key) for p in self.ignored)

    def is_owned(self, key: str) -> bool:
        return self.prefix.owner_of(key) is not None

    def pattern(self, key: str, tenants: Collection[str], hidden: Collection[str]) -> tuple[str, bool]:
        """How the catalogue calls keys like this one, or would; and whether it does."""
        owned = self.prefix.owner_of(key)
        if owned is None:
            named = next((p.pattern for p in self.ignored if p.matches(key)), None)
            return named or shape(key, tenants, hidden), named is not None
        named = next((p.pattern for p in self.patterns if p.matches(owned[1])), None)
        return f"{self.prefix.text}{named or shape(owned[1], tenants, hidden)}", named is not None

    def entry(self, pattern: str, *, elsewhere: str = "") -> dict[str, Entry] | None:
        """What the catalogue could say of a pattern that it does not name; None where no tenant is in it. `elsewhere`
        is a word for the bucket, if that is not the store's own: then it would be a store of its own."""
        if pattern.startswith(self.prefix.text) and not elsewhere:
            return {self.store: {"keys": {pattern.removeprefix(self.prefix.text) or ANY: "content"}}}
        before, found, after = pattern.partition(PLACEHOLDER)
        if not found or after[:1] not in tuple(DELIMITERS):
            return None
        name = f"{self.store}-{_word(elsewhere or before)}"[:31]
        prefix = f"{before}{found}{after[0]}"
        return {name: {"kind": self.kind.value, "prefix": prefix, "keys": {after[1:] or ANY: "content"}}}

    def surveyed(
        self, kind: PlaceKind, named: Mapping[str, int], unnamed: Mapping[str, int]
    ) -> tuple[Surveyed, ...]:
        """The places of a survey, from the counts of keys by pattern."""
        places = [
            Surveyed(place=Place(kind=kind, name=name), classified=True, items=items)
            for name, items in named.items()
        ]
        for name, items in collapsed(unnamed).items():
            entry = self.entry(name)
            ignore: dict[str, Entry] = {self.store: {"ignore": [name]}}
            places.append(
                Surveyed(
                    place=Place(kind=kind, name=name),
                    classified=False,
                    items=items,
                    entry=entry or ignore,
                    remark="" if entry else NO_TENANT,
                )
            )
        return tuple(sorted(places, key=lambda s: s.place))

    def gone(self, kind: PlaceKind, named: Collection[str]) -> tuple[Gone, ...]:
        """The catalogue's patterns with no key under them; none where no tenant has any key at all."""
        if not named:
            return ()
        return tuple(
            Gone(
                place=Place(kind=kind, name=f"{self.prefix.text}{p.pattern}"),
                where=f"keys.{p.pattern}",
                empty=True,
            )
            for p in self.patterns
            if f"{self.prefix.text}{p.pattern}" not in named
        )


class Counts:
    """Keys counted by pattern, those that the catalogue names apart from those that it does not."""

    def __init__(self, keymap: KeyMap, tenants: Collection[TenantId]) -> None:
        self._keymap: Final = keymap
        self._tenants: Final = frozenset(tenants)
        self.named: Final[dict[str, int]] = {}
        self.unnamed: dict[str, int] = {}

    def add(self, key: str) -> None:
        if self._keymap.is_tenures(key):
            return
        pattern, named = self._keymap.pattern(key, self._tenants, ())
        counts = self.named if named else self.unnamed
        counts[pattern] = counts.get(pattern, 0) + 1
        if len(self.unnamed) > MOST_AT_ONCE:
            self.unnamed = collapsed(self.unnamed)


def _word(text: str) -> str:
    return "".join(c for c in text.lower() if c.isascii() and c.isalnum())[:_WORD_LENGTH] or "other"
