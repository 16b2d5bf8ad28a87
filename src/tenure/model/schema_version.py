"""Which version of the app's schema a database has, as the app's own migrations know it, and how two versions stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tenure.errors import StoreRefused

_NUMBERS: Final = re.compile(r"(\d+)")


class MigrationTool(StrEnum):
    """Whose records say which migrations were applied."""

    ALEMBIC = "alembic"
    DJANGO = "django"
    SQL = "sql"


class Standing(StrEnum):
    """How a backup's schema stands to another one. `UNKNOWN`: only the app's migrations can tell."""

    SAME = "same"
    OLDER = "older"
    NEWER = "newer"
    APART = "apart"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class SchemaVersion:
    """What was applied, in the tool's own words: Alembic's heads, Django's migrations as `app.name` in the order in
    which they were applied, or the number or name of the last plain SQL file. Empty: nothing yet."""

    tool: MigrationTool
    applied: tuple[str, ...]

    def __str__(self) -> str:
        if not self.applied:
            return "none"
        if self.tool is MigrationTool.DJANGO:
            return ", ".join(f"{t['app']}.{t['migration']}" for t in self.targets())
        return ", ".join(self.applied)

    def standing(self, other: SchemaVersion) -> Standing:
        """How this one stands to `other`: `OLDER` if migrations lead from this one to that one."""
        if self.tool is not other.tool:
            return Standing.APART
        mine, theirs = set(self.applied), set(other.applied)
        if mine == theirs:
            return Standing.SAME
        match self.tool:
            case MigrationTool.SQL:
                return Standing.OLDER if _last(mine) < _last(theirs) else Standing.NEWER
            case MigrationTool.DJANGO if mine < theirs:
                return Standing.OLDER
            case MigrationTool.DJANGO:
                return Standing.NEWER if mine > theirs else Standing.APART
            case _:
                return Standing.UNKNOWN if mine and theirs else Standing.OLDER if theirs else Standing.NEWER

    def targets(self) -> tuple[Mapping[str, str], ...]:
        """What the app's command has to be told, call by call, to bring a database to this version."""
        if self.tool is MigrationTool.DJANGO:
            last = dict(name.split(".", 1) for name in self.applied)
            return tuple({"app": app, "migration": migration} for app, migration in last.items())
        return tuple({"version": name} for name in self.applied)

    def as_dict(self) -> dict[str, Any]:
        return {"tool": self.tool.value, "applied": list(self.applied)}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> SchemaVersion:
        """The version that `as_dict` wrote. Raises `StoreRefused` for anything else."""
        try:
            tool, applied = MigrationTool(value["tool"]), value["applied"]
        except (KeyError, ValueError, TypeError) as error:
            raise StoreRefused(f"not a version of a schema: {value!r:.100}") from error
        if not isinstance(applied, Sequence) or isinstance(applied, str):
            raise StoreRefused(f"not a version of a schema: {value!r:.100}")
        return cls(tool=tool, applied=tuple(str(name) for name in applied))


def latest(names: Sequence[str]) -> str | None:
    """The last of the names of plain SQL migrations: numbers in them count as numbers."""
    return max(names, key=_key, default=None)


def _last(names: set[str]) -> list[tuple[int, int | str]]:
    return max(map(_key, names), default=[])


def _key(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in _NUMBERS.split(name) if part]
