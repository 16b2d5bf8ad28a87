"""What may be written in `catalogue.yaml` where a name, a column, a pattern or a class is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, Field

from tenure.catalogue.classes import DataClass
from tenure.catalogue.patterns import Template
from tenure.catalogue.qualified_name import QualifiedName, check_identifier
from tenure.document import Described, read_only, refuse
from tenure.errors import UsageError
from tenure.model.names import CellName, StoreName, cell_name

STORE_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,30}")
OWN_SCHEMAS: Final = {"tenure", "pg_catalog", "information_schema"}
T = TypeVar("T")


def converted(convert: Callable[[str], T]) -> Callable[[str], T]:
    """A validator of a conversion that raises `UsageError`."""

    def validator(text: str) -> T:
        try:
            return convert(text)
        except UsageError as error:
            raise refuse(error.message) from error

    return validator


def _store_name(text: str) -> StoreName:
    if not STORE_NAME.fullmatch(text):
        raise refuse(
            "is not a store name: 1 to 31 lower-case letters, digits, '_' or '-', starting with a letter"
        )
    return StoreName(text)


def _table_name(text: str) -> str:
    name = converted(QualifiedName.parse)(text)
    if name.schema in OWN_SCHEMAS:
        raise refuse(f"the schema {name.schema} holds no tenants' data")
    return text


def _identifier(text: str) -> str:
    converted(check_identifier)(text)
    return text


def _prefix(text: str) -> str:
    converted(Template.prefix)(text)
    return text


def _name(text: str) -> str:
    converted(Template.name)(text)
    return text


def _field(text: str) -> str:
    if not text or text.startswith("$"):
        raise refuse("is not a metadata field: not empty, and not beginning with '$'")
    return text


def _pattern(text: str) -> str:
    if not text:
        raise refuse("must not be empty")
    return text


Name = Annotated[StoreName, AfterValidator(_store_name), Described(words="store name")]
CellKey = Annotated[CellName, AfterValidator(converted(cell_name)), Described(words="cell name")]
TableName = Annotated[str, AfterValidator(_table_name), Described(words="`schema.table`")]
Identifier = Annotated[str, AfterValidator(_identifier), Described(words="column name")]
Class = Annotated[DataClass, Field(strict=False), Described(words="[class](#classes-of-data)")]
Pattern = Annotated[str, AfterValidator(_pattern), Described(words="pattern")]
FieldName = Annotated[str, AfterValidator(_field), Described(words="metadata field")]
Prefix = Annotated[str, AfterValidator(_prefix), Described(words="text with `{tenant}`")]
User = Annotated[str, AfterValidator(_name), Described(words="text with `{tenant}`")]
Columns = Annotated[Mapping[Identifier, Class], Field(min_length=1), AfterValidator(read_only)]
Keys = Annotated[Mapping[Pattern, Class], Field(min_length=1), AfterValidator(read_only)]
