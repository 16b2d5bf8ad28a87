"""Key prefixes and names with the tenant's id in them, and patterns of keys under a prefix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from tenure.catalogue.classes import DataClass
from tenure.errors import UsageError
from tenure.model.names import TenantId

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
