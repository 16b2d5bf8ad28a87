"""A table's name with its schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from tenure.catalogue.patterns import PLACEHOLDER, Template
from tenure.errors import UsageError

MAX_IDENTIFIER_BYTES: Final = 63
_UNQUOTED: Final = re.compile(r"[a-z_][a-z0-9_$]*")
_PART: Final = r'(?:"(?:[^"]|"")+"|[^".]+)'
_NAME: Final = re.compile(rf"({_PART})\.({_PART})", re.DOTALL)


@dataclass(frozen=True, kw_only=True, order=True)
class QualifiedName:
    """`schema` and `name` exactly as the server stores them. Use `psycopg.sql.Identifier(q.schema, q.name)`
    in SQL.

    `str` gives the form the catalogue uses (`public.documents`, `"My Schema"."T"`); `parse` reads it back. In the
    catalogue a schema may be a template (`t_{tenant}.documents`): each tenant has one of its own.
    """

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `schema.table`, parts quoted as in SQL where they are not plain lower-case words. Raises
        `UsageError`."""
        parts = _NAME.fullmatch(text)
        if not parts:
            raise UsageError("is not a table name: write schema.table, such as public.documents")
        found = cls(schema=_identifier(parts[1]), name=_identifier(parts[2]))
        if PLACEHOLDER in found.name:
            raise UsageError(f"must have {PLACEHOLDER} in the schema only, such as t_{PLACEHOLDER}.documents")
        if found.own_schema:
            Template.name(found.schema)
        return found

    @property
    def own_schema(self) -> bool:
        """Whether each tenant has a schema of its own for it."""
        return PLACEHOLDER in self.schema

    def __str__(self) -> str:
        return f"{_quoted(self.schema)}.{_quoted(self.name)}"


def _identifier(part: str) -> str:
    name = part[1:-1].replace('""', '"') if part.startswith('"') else part
    if not part.startswith('"') and not _plain(part):
        raise UsageError(
            f"{part!r:.60} is no plain lower-case name: if the server really calls it so, quote it, "
            'as in \'"My Schema"."T"\''
        )
    check_identifier(name)
    return name


def check_identifier(name: str) -> None:
    """Raise `UsageError` if PostgreSQL cannot have a name like this."""
    if not name or "\0" in name:
        raise UsageError("must not be empty")
    if len(name.encode()) > MAX_IDENTIFIER_BYTES:
        raise UsageError(f"is longer than the {MAX_IDENTIFIER_BYTES} bytes that PostgreSQL allows for a name")


def _plain(part: str) -> bool:
    return _UNQUOTED.fullmatch(part.replace(PLACEHOLDER, "t")) is not None


def _quoted(part: str) -> str:
    if _plain(part):
        return part
    escaped = part.replace('"', '""')
    return f'"{escaped}"'
