"""Whether the catalogue says everything: what exists in the stores of the cells against what it classifies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tenure.errors import TenureError
from tenure.model.names import CellName, StoreName
from tenure.model.search import Entry, Gone, Place, Skipped, Survey, Surveyed
from tenure.operations.deps import Deps

AT_ONCE: Final = 8


class Wrong(StrEnum):
    """What may be wrong between the catalogue and a store."""

    UNCLASSIFIED = "unclassified"
    """It exists and the catalogue does not say what it holds."""
    GONE = "gone"
    """The catalogue names it and it does not exist."""
    EMPTY = "empty"
    """The catalogue has a pattern under which nothing lies now."""
    UNSEEN = "unseen"
    """The store could not be looked at: nothing is known of it."""


@dataclass(frozen=True, kw_only=True, order=True)
class Issue:
    """One thing that is wrong, in so many cells, with how to mend it."""

    store: StoreName
    wrong: Wrong
    place: str
    message: str
    fix: str
    cells: tuple[CellName, ...]
    items: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "wrong": self.wrong,
            "place": self.place,
            "message": self.message,
            "fix": self.fix,
            "cells": list(self.cells),
            "items": self.items,
        }


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check found. `proposal` is what the catalogue could say of what it does not name; `skipped` is what the
    login was not allowed to see."""

    cells: tuple[CellName, ...]
    places: int
    issues: tuple[Issue, ...]
    proposal: Mapping[str, Entry]
    skipped: tuple[tuple[CellName, StoreName, Skipped], ...]


def check(deps: Deps, cells: Sequence[CellName]) -> CheckReport:
    """Survey every store of these cells, in parallel. One that cannot be looked at is an issue, and ends nothing."""
    tenants = frozenset(t.id for t in deps.registry.tenants.list())
    wanted = [(cell, store) for cell in cells for store in deps.factory.names()]

    def look(at: tuple[CellName, StoreName]) -> Survey | TenureError:
        try:
            return deps.factory.store(*at).survey(tenants)
        except TenureError as error:
            return error

    with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="survey") as pool:
        looked = dict(zip(wanted, pool.map(look, wanted), strict=True))
    surveys = [its for its in looked.values() if isinstance(its, Survey)]
    issues = [
        Issue(
            store=store,
            wrong=Wrong.UNSEEN,
            place=store,
            message=its.message,
            fix=its.hint or "see to it that it can be reached, and check again",
            cells=(cell,),
        )
        for (cell, store), its in looked.items()
        if isinstance(its, TenureError)
    ]
    for store in deps.factory.names():
        issues += _issues([its for its in surveys if its.store == store])
    return CheckReport(
        cells=tuple(cells),
        places=sum(len(its.places) for its in surveys),
        issues=tuple(sorted(issues)),
        proposal=merged(p.entry for its in surveys for p in its.unclassified if p.entry is not None),
        skipped=tuple((its.cell, its.store, s) for its in surveys for s in its.skipped),
    )


def _issues(surveys: Sequence[Survey]) -> list[Issue]:
    """What is wrong with one store, the same thing in several cells once. Empty is what is so in each."""
    unclassified: dict[Place, list[tuple[CellName, Surveyed]]] = {}
    gone: dict[Place, list[tuple[CellName, Gone]]] = {}
    for its in surveys:
        for place in its.unclassified:
            unclassified.setdefault(place.place, []).append((its.cell, place))
        for missing in its.gone:
            gone.setdefault(missing.place, []).append((its.cell, missing))
    return [
        *(_unclassified(surveys[0].store, place, seen) for place, seen in unclassified.items()),
        *(
            _gone(surveys, place, seen)
            for place, seen in gone.items()
            if len(seen) == len(surveys) or not all(its.empty for _, its in seen)
        ),
    ]


def _unclassified(store: StoreName, place: Place, seen: Sequence[tuple[CellName, Surveyed]]) -> Issue:
    items = sum(its.items or 0 for _, its in seen)
    remark = next((its.remark for _, its in seen if its.remark), "")
    return Issue(
        store=store,
        wrong=Wrong.UNCLASSIFIED,
        place=str(place),
        message=f"exists, and the catalogue does not say what it holds{f' ({remark})' if remark else ''}",
        fix="add the entry proposed below to the catalogue, with the classes corrected"
        if any(its.entry for _, its in seen)
        else "say in the catalogue what it holds",
        cells=tuple(sorted(cell for cell, _ in seen)),
        items=items,
    )


def _gone(surveys: Sequence[Survey], place: Place, seen: Sequence[tuple[CellName, Gone]]) -> Issue:
    store, cells = surveys[0].store, tuple(sorted(cell for cell, _ in seen))
    where = seen[0][1].where
    if all(its.empty for _, its in seen):
        return Issue(
            store=store,
            wrong=Wrong.EMPTY,
            place=str(place),
            message="nothing lies there now",
            fix=f"remove stores.{store}.{where} from the catalogue if nothing will again; --allow-empty lets it pass",
            cells=cells,
        )
    others = sorted({its.cell for its in surveys} - {*cells})
    fix = f"remove stores.{store}.{where} from the catalogue, or create it"
    if others and where.count(".columns.") == 0:
        fix = f"create it in {', '.join(cells)}, or set stores.{store}.{where}.cells to [{', '.join(others)}]"
    return Issue(
        store=store,
        wrong=Wrong.GONE,
        place=str(place),
        message="is in the catalogue and does not exist",
        fix=fix,
        cells=cells,
    )


def merged(entries: Iterable[Mapping[str, Entry]]) -> dict[str, Entry]:
    """Proposed entries as one: mappings are put together, lists too, and of two texts the first stays."""
    whole: dict[str, Entry] = {}
    for entry in entries:
        whole = _together(whole, entry)
    return whole


def _together(one: Mapping[str, Entry], other: Mapping[str, Entry]) -> dict[str, Entry]:
    found = dict(one)
    for key, value in other.items():
        before = found.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            found[key] = _together(before, value)
        elif isinstance(before, list | tuple) and isinstance(value, list | tuple):
            found[key] = list(dict.fromkeys([*before, *value]))
        else:
            found.setdefault(key, value)
    return found
