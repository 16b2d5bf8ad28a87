"""What a column or key holds, for comparing, cloning and erasing."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class DataClass(StrEnum):
    TENANT = "tenant"
    KEY = "key"
    PLAIN = "plain"
    PERSONAL = "personal"
    SENSITIVE = "sensitive"
    CONTENT = "content"
    SECRET = "secret"  # noqa: S105
    CONFIG = "config"


MEANING: Final = {
    DataClass.TENANT: "the tenant's id",
    DataClass.KEY: "identifies a row, or refers to one",
    DataClass.PLAIN: "says nothing about a person: counters, times, states",
    DataClass.PERSONAL: "identifies a person: names, addresses, e-mail, session data",
    DataClass.SENSITIVE: "personal and specially protected: health, finance, government ids",
    DataClass.CONTENT: "what the tenant's users wrote or uploaded, and what was derived from it",
    DataClass.SECRET: "credentials, tokens, keys",
    DataClass.CONFIG: "settings of the tenant",
}
