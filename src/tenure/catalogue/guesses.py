"""What a catalogue could say of a table that it does not name: guesses from names and types, for a person to correct.

A guess errs on the careful side: what might be somebody's data is called personal or content, never plain.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from tenure.catalogue.classes import DataClass
from tenure.model.search import Entry

TENANT_COLUMNS: Final = (
    "tenant_id",
    "tenant",
    "customer_id",
    "account_id",
    "org_id",
    "organisation_id",
    "company_id",
)
_BY_NAME: Final = (
    (DataClass.SECRET, re.compile(r"passw|secret|token|api_?key|credential|private_key|salt|otp")),
    (
        DataClass.SENSITIVE,
        re.compile(r"health|diagnos|iban|card_?number|ssn|passport|tax_?id|salary|religion"),
    ),
    (
        DataClass.PERSONAL,
        re.compile(
            r"mail|phone|address|birth|user|person|contact|author|owner|ip$|ip_|agent|name$|session|actor"
        ),
    ),
    (DataClass.CONFIG, re.compile(r"setting|config|preference|option|feature")),
)
_KEY: Final = re.compile(r"(^|_)(id|uuid|key|ref)$")
_PLAIN: Final = re.compile(
    r"^(bool|small|big|int|serial|numeric|decimal|real|double|float|money|date|time|interval|u?int\d|hugeint)"
)


def class_of(column: str, type_name: str) -> DataClass:
    """The likely class of a column."""
    name = column.lower()
    if _KEY.search(name):
        return DataClass.KEY
    for data_class, words in _BY_NAME:
        if words.search(name):
            return data_class
    return DataClass.PLAIN if _PLAIN.match(type_name.lower()) else DataClass.CONTENT


def tenant_column(columns: Collection[str], usual: Collection[str] = ()) -> str | None:
    """The column that likely tells whose a row is: one that other tables use for it, or one of a usual name."""
    return next((name for name in (*usual, *TENANT_COLUMNS) if name in columns), None)


def table_entry(
    columns: Mapping[str, str], usual: Collection[str] = (), *, owned: bool = False
) -> dict[str, Entry]:
    """The entry of a table under `tables`: its `columns` by name with their types. `owned`: every row is one tenant's,
    so that it needs no tenant column."""
    column = None if owned else tenant_column(columns, usual)
    classes: dict[str, Entry] = {
        name: (DataClass.TENANT if name == column else class_of(name, its)).value
        for name, its in columns.items()
    }
    return {**({"tenant_column": column} if column and column not in usual else {}), "columns": classes}
