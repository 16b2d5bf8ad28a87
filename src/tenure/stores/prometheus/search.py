"""Where identifiers appear in Prometheus, and which metrics the catalogue does not name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Final

from tenure.catalogue import KeyPattern
from tenure.catalogue.shapes import shown
from tenure.model.matching import Match, Matcher
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import (
    Coverage,
    Entry,
    FindPage,
    Found,
    Gone,
    Place,
    PlaceKind,
    Search,
    Survey,
    Surveyed,
)
from tenure.stores.contract import Pace
from tenure.stores.prometheus.api import PrometheusApi, selector

NAME: Final = "__name__"

Position = tuple[str, int, int]
"""The last label that was looked at, and the items and bytes up to there."""


class SeriesSearch:
    """Searches and surveys one server."""

    def __init__(
        self, api: PrometheusApi, *, label: str, metrics: Sequence[KeyPattern], ignore: Sequence[KeyPattern]
    ) -> None:
        self._api = api
        self._label = label
        self._metrics = tuple(metrics)
        self._ignore = tuple(ignore)

    def find(self, search: Search, position: Position | None, pace: Pace) -> Iterator[FindPage]:
        """See `Store.find`. Label by label, in the order of their names."""
        last, items, size_bytes = position if position is not None else ("", 0, 0)
        matcher = Matcher(search.identifiers, search.known)
        names = sorted(name for name in self._api.labels() if name > last)
        for n, label in enumerate(names, 1):
            found: dict[tuple[object, ...], Found] = {}
            values = self._api.values(label)
            pace(items=len(values), size_bytes=sum(map(len, values)))
            for value in values:
                if search.sample is not None and _share(f"{label}\0{value}") >= search.sample:
                    continue
                items, size_bytes = items + 1, size_bytes + len(value.encode())
                for match in matcher.in_text(value) | matcher.in_text(label):
                    for one in self._found(label, value, match, search):
                        found[one.key] = one if one.key not in found else found[one.key].merged(one)
            cursor = json.dumps([label, items, size_bytes]) if n < len(names) else None
            yield FindPage(found=tuple(found.values()), items=items, size_bytes=size_bytes, cursor=cursor)
        if not names:
            yield FindPage(items=items, size_bytes=size_bytes, cursor=None)

    def _found(self, label: str, value: str, match: Match, search: Search) -> Iterator[Found]:
        """One finding per metric whose series have that value."""
        tenants = search.known | search.tenants
        for series in self._api.series(selector(**{label: value})):
            name = series.get(NAME, "")
            coverage = self._coverage(series, match.identifier.tenant)
            if not search.everywhere and coverage is Coverage.UNDOCUMENTED:
                continue
            text = f"{name}:{label}:{value}"
            yield Found(
                tenant=match.identifier.tenant,
                label=match.identifier.label,
                place=Place(kind=PlaceKind.SERIES, name=f"{name}:{label}" if label != NAME else name),
                coverage=coverage,
                items=1,
                examples=(shown(text, tenants, search.identifiers),),
                encodings=(match.encoding,),
                entry=self._entry(series) if coverage is Coverage.UNDOCUMENTED else None,
            )

    def _coverage(self, series: dict[str, str], tenant: TenantId) -> Coverage:
        name = series.get(NAME, "")
        if any(p.matches(name) for p in self._metrics) and series.get(self._label):
            return Coverage.OWN if series[self._label] == tenant else Coverage.NEIGHBOUR
        return Coverage.IGNORED if any(p.matches(name) for p in self._ignore) else Coverage.UNDOCUMENTED

    def _entry(self, series: dict[str, str]) -> dict[str, Entry]:
        name = series.get(NAME, "")
        return {"metrics": {name: "personal"}} if series.get(self._label) else {"ignore": [name]}

    def survey(self, store: StoreName, cell: CellName, pace: Pace) -> Survey:
        """See `Store.survey`. Every name of a metric that neither `metrics` nor `ignore` has is not classified."""
        names = self._api.values(NAME)
        told = set(self._api.values(NAME, f'{{{self._label}!=""}}'))
        pace(items=len(names), size_bytes=sum(map(len, names)))
        places = tuple(self._surveyed(name, told=name in told) for name in sorted(names))
        gone = tuple(
            Gone(place=Place(kind=PlaceKind.SERIES, name=p.pattern), where=f"metrics.{p.pattern}")
            for p in self._metrics
            if not any(p.matches(name) for name in told)
        )
        return Survey(store=store, cell=cell, places=places, gone=gone)

    def _surveyed(self, name: str, *, told: bool) -> Surveyed:
        place = Place(kind=PlaceKind.SERIES, name=name)
        ignored = any(p.matches(name) for p in self._ignore)
        if any(p.matches(name) for p in self._metrics) or (ignored and not told):
            return Surveyed(place=place, classified=True)
        entry: dict[str, Entry] = {"metrics": {name: "plain"}} if told else {"ignore": [name]}
        remark = f"is ignored, but has the label {self._label}" if ignored else ""
        return Surveyed(place=place, classified=False, entry=entry, remark=remark)


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
