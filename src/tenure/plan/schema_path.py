"""How the schema of a backup gets to the schema that is live: not at all, by the app's migrations, or by no way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tenure.model.names import StoreName
from tenure.model.schema_version import SchemaVersion, Standing


class Way(StrEnum):
    """`AS_IT_IS`: the schemas are the same. `MIGRATED`: staged, and brought forward by the app's migrations. `NONE`:
    the backup cannot be restored."""

    AS_IT_IS = "as it is"
    MIGRATED = "migrated"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class SchemaFacts:
    """What is known of the schemas of one store: of the backup's, the live one's, and of the app's migrations.

    `changes` is what the two disagree on, column by column; `no_program` why the migrations cannot be run here.
    """

    store: StoreName
    backup: SchemaVersion | None
    live: SchemaVersion | None
    changes: tuple[str, ...]
    migrates: bool
    no_program: str | None = None


@dataclass(frozen=True, kw_only=True)
class SchemaPath:
    """The way from a backup's schema to the live one, for one store. `reason` says why there is none."""

    store: StoreName
    way: Way
    backup: str
    live: str
    reason: str = ""
    cure: str = ""

    def as_dict(self) -> dict[str, Any]:
        told = {"store": self.store, "way": self.way.value, "backup": self.backup, "live": self.live}
        return {**told, **({"reason": self.reason} if self.reason else {})}

    @property
    def sentence(self) -> str:
        match self.way:
            case Way.AS_IT_IS:
                return f"{self.store}: the backup has the schema that is live ({self.live})"
            case Way.MIGRATED:
                return (
                    f"{self.store}: the app's migrations bring the backup from {self.backup} to {self.live}"
                )
            case Way.NONE:
                return f"{self.store}: {self.reason}"


def schema_path(facts: SchemaFacts) -> SchemaPath:
    """The way for one store. Whether the app's migrations really lead there shows only when they run."""
    backup = str(facts.backup) if facts.backup is not None else "unknown"
    live = str(facts.live) if facts.live is not None else "unknown"

    def path(way: Way, reason: str = "", cure: str = "") -> SchemaPath:
        return SchemaPath(store=facts.store, way=way, backup=backup, live=live, reason=reason, cure=cure)

    if facts.backup is None or facts.live is None:
        if not facts.changes:
            return path(Way.AS_IT_IS)
        return path(
            Way.NONE,
            "the backup's schema is another than the live one, and its version is not known: "
            + _listed(facts.changes),
            "say in catalogue.yaml where the version is recorded (`migrations`), so that backups carry it",
        )
    standing = facts.backup.standing(facts.live)
    if standing is Standing.SAME:
        if not facts.changes:
            return path(Way.AS_IT_IS)
        return path(
            Way.NONE,
            f"both say that they are at {live}, and yet they differ: {_listed(facts.changes)}",
            "find out who changed the schema past the app's migrations",
        )
    if standing is Standing.NEWER:
        return path(
            Way.NONE,
            f"the backup is newer than the target: it was taken at {backup}, and live is {live}",
            "bring the target to that release first, or restore into a cell that has it",
        )
    if standing is Standing.APART:
        return path(
            Way.NONE,
            f"no migrations lead from {backup} to {live}: each has some that the other lacks",
            "restore with a release of the app in which both branches are merged",
        )
    if not facts.migrates:
        return path(
            Way.NONE,
            f"the backup was taken at {backup} and live is {live}, and nothing is known that migrates it",
            "name the app's own command in catalogue.yaml (`migrations.migrate.command`)",
        )
    if facts.no_program is not None:
        return path(
            Way.NONE,
            f"the backup has to be migrated from {backup} to {live}, and {facts.no_program}",
            "run the restore where the app's release is installed, or mend `migrations.migrate.command`",
        )
    return path(Way.MIGRATED)


def _listed(changes: tuple[str, ...]) -> str:
    more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
    return "; ".join(changes[:5]) + more
