"""Key prefixes and names with the tenant's id in them, and patterns of keys under a prefix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from tenure.catalogue.classes import DataClass
from tenure.errors import UsageError
from tenure.model.names import TENANT_ID, TenantId

PLACEHOLDER: Final = "{tenant}"
DELIMITERS: Final = ":/"
_WILDCARD: Final = re.compile(r"[*?\[\]\\]")
_BLANK: Final = re.compile(r"[\s\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Template:
    """Text with `{tenant}` in it exactly once, so that different tenants always get different texts."""

    text: str

    def __post_init__(self) -> None:
        if self.text.count(PLACEHOLDER) != 1:
            raise UsageError(f"must contain {PLACEHOLDER} exactly once")
        rest = self.text.replace(PLACEHOLDER, "")
        if "{" in rest or "}" in rest:
            raise UsageError(f"must contain no other braces than {PLACEHOLDER}")
        if _BLANK.search(rest):
            raise UsageError("must contain no blanks or control characters")
        if _WILDCARD.search(rest):
            raise UsageError("must contain none of * ? [ ] \\, which stores read as wildcards")

    @classmethod
    def name(cls, text: str) -> Self:
        """A name that is compared as a whole, such as a user's. Raises `UsageError`."""
        return cls(text=text)

    @classmethod
    def prefix(cls, text: str) -> Self:
        """A prefix of keys. No tenant's prefix is the beginning of another tenant's prefix. Raises
        `UsageError`.

        That needs a delimiter after the id which no id can contain (`tenure.model.names`).
        """
        template = cls(text=text)
        after = text.partition(PLACEHOLDER)[2]
        if not after or after[0] not in DELIMITERS:
            raise UsageError(
                f"must have ':' or '/' right after {PLACEHOLDER}: tenant ids contain neither, so that the "
                "prefix of 'acme' can never match the keys of 'acme2'"
            )
        return template

    def expand(self, tenant: TenantId) -> str:
        return self.text.replace(PLACEHOLDER, tenant)

    def tenant_of(self, text: str) -> TenantId | None:
        """The tenant for which this template gives exactly this text, whether or not there is such a tenant."""
        found = re.fullmatch(self._expression, text)
        return TenantId(found[1]) if found else None

    def owner_of(self, key: str) -> tuple[TenantId, str] | None:
        """The tenant under whose prefix a key lies, whether or not there is such a tenant, and the rest of the key."""
        found = re.match(self._expression, key)
        return (TenantId(found[1]), key[found.end() :]) if found else None

    @property
    def _expression(self) -> str:
        before, after = (re.escape(part) for part in self.text.split(PLACEHOLDER))
        return f"{before}({TENANT_ID.pattern}){after}"

    def meets(self, other: Self) -> bool:
        """Whether this template may give one tenant the text that `other` gives to another tenant.

        `{tenant}` and `{tenant}_old` do: the tenant `acme_old` has by the first what `acme` has by the second. What
        has to be added to one to get the other is then something that ids may contain.
        """
        if self.text == other.text:
            return False
        (mine, my_end), (theirs, their_end) = (its.text.split(PLACEHOLDER, 1) for its in (self, other))
        nested = (mine.startswith(theirs) or theirs.startswith(mine)) and (
            my_end.endswith(their_end) or their_end.endswith(my_end)
        )
        before = max(mine, theirs, key=len)[min(len(mine), len(theirs)) :]
        after = max(my_end, their_end, key=len)
        after = after[: len(after) - min(len(my_end), len(their_end))]
        return nested and all(TENANT_ID.fullmatch(f"a{part}") for part in (before, after))


@dataclass(frozen=True, kw_only=True)
class KeyPattern:
    """Keys below a tenant's prefix, and what they hold. `*` stands for any characters, also none; nothing
    else is special."""

    pattern: str
    data_class: DataClass

    def matches(self, key: str) -> bool:
        """Whether the key, without the tenant's prefix, is one of these. Time grows with the product of
        the lengths at most, whatever the pattern."""
        first, *rest = self.pattern.split("*")
        if not rest:
            return key == first
        *middle, last = rest
        end = len(key) - len(last)
        if not key.startswith(first) or not key.endswith(last) or end < len(first):
            return False
        at = len(first)
        for part in middle:
            found = key.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    def covers(self, other: KeyPattern) -> bool:
        """Whether every key that `other` matches is matched by this one as well."""
        return self.matches(other.pattern)
