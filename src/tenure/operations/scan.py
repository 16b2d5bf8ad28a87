"""Looks for tenants' identifiers in every store of every cell, and says which of the places are nobody's to move, back
up or erase. How far it is, is kept in the control database after every page: a scan that was interrupted or killed goes
on from there, and nothing is counted twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Final

from tenure.catalogue.shapes import coarser
from tenure.engine.observer import Observer, PhaseChanged, Progressed, nobody
from tenure.engine.rates import Rates, left_s
from tenure.errors import Interrupted, TenureError, UsageError
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import (
    DEFAULT_BODY_LIMIT_BYTES,
    FindPage,
    Found,
    Identifier,
    PlaceKind,
    Search,
    Skipped,
)
from tenure.operations.deps import Deps
from tenure.registry.scans import Scan, ScanPart

AT_ONCE: Final = 16
SAVE_EVERY_S: Final = 0.5
MOST_PLACES: Final = 1000
"""Findings of one store that are told apart: keys without any structure would give one each."""
_KEYED: Final = frozenset(
    {
        PlaceKind.KEY,
        PlaceKind.VALUE,
        PlaceKind.OBJECT_KEY,
        PlaceKind.OBJECT_BODY,
        PlaceKind.OBJECT_METADATA,
        PlaceKind.OBJECT_TAGS,
        PlaceKind.OLD_VERSION,
        PlaceKind.DELETE_MARKER,
        PlaceKind.UPLOAD,
    }
)
LOOK_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class ScanRequest:
    """What to look for, where and how. `rate_bytes_per_s` is what each store is read with at most; None: no limit."""

    tenants: tuple[TenantId, ...]
    identifiers: tuple[Identifier, ...]
    where: tuple[tuple[CellName, StoreName], ...]
    sample: float | None = None
    rate_bytes_per_s: float | None = None
    body_limit_bytes: int = DEFAULT_BODY_LIMIT_BYTES

    def kept(self) -> dict[str, Any]:
        """As the control database keeps it: identifiers by label only."""
        return {
            "tenants": sorted(self.tenants),
            "labels": sorted(i.label for i in self.identifiers),
            "sample": self.sample,
            "body_limit_bytes": self.body_limit_bytes,
        }


class Pacer:
    """A `Pace` for one store: so many bytes per second on average, and an end when the scan is to stop."""

    def __init__(self, rate_bytes_per_s: float | None, stop: threading.Event) -> None:
        self._rate = rate_bytes_per_s
        self._stop = stop
        self._began = time.monotonic()
        self._read = 0
        self._lock = threading.Lock()

    def __call__(self, *, items: int, size_bytes: int) -> None:
        del items
        if self._stop.is_set():
            raise Interrupted("the scan is to stop")
        if self._rate is None:
            return
        with self._lock:
            self._read += size_bytes
            ahead_s = self._read / self._rate - (time.monotonic() - self._began)
        if ahead_s > 0 and self._stop.wait(ahead_s):
            raise Interrupted("the scan is to stop")


class ScanRun:
    """One process's work on a scan."""

    def __init__(self, deps: Deps, scan: Scan, request: ScanRequest, observer: Observer = nobody) -> None:
        self._deps = deps
        self._scan = scan
        self._request = request
        self._observer = observer
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._rates = Rates()
        known = frozenset(t.id for t in deps.registry.tenants.list())
        self._search = Search(
            identifiers=request.identifiers,
            known=known,
            sample=request.sample,
            body_limit_bytes=request.body_limit_bytes,
        )

    def run(self, check: Callable[[], None] = lambda: None) -> Scan:
        """Search every store that is not done, in parallel; return the scan as it is kept then. A store that fails is
        noted and ends nothing. Ctrl-C raises `Interrupted` when every store has stopped after its page; so does what
        `check` raises, which is called again and again."""
        scans = self._deps.registry.scans
        with scans.hold(self._scan.id):
            open_parts = [part for part in self._scan.parts if part.state != "done"]
            self._observer(
                PhaseChanged(
                    operation=self._scan.id,
                    step="scan",
                    phase=f"scan {self._scan.id}: {len(open_parts)} of {len(self._scan.parts)} store(s) to search",
                )
            )
            with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="scan") as pool:
                futures = [pool.submit(self._part, part) for part in open_parts]
                try:
                    while not all(future.done() for future in futures):
                        check()
                        wait(futures, timeout=LOOK_S)
                except KeyboardInterrupt as error:
                    self._stop.set()
                    wait(futures)
                    raise Interrupted(
                        f"the scan {self._scan.id} was interrupted",
                        hint=f"tenure catalogue scan --resume {self._scan.id}",
                    ) from error
                except BaseException:
                    self._stop.set()
                    wait(futures)
                    raise
                for future in futures:
                    future.result()
            after = scans.get(self._scan.id)
            if all(part.state == "done" for part in after.parts):
                scans.finish(self._scan.id)
            return scans.get(self._scan.id)

    def _part(self, part: ScanPart) -> None:
        """One store to its end. Everything that a page brought is kept together with where the next one begins."""
        scans, found, skipped = self._deps.registry.scans, _Merged(part.found), _Merged(part.skipped)
        part = replace(part, state="running", problem=None)
        saved = time.monotonic()
        try:
            store = self._deps.factory.store(part.cell, part.store)
            pace = Pacer(self._request.rate_bytes_per_s, self._stop)
            scans.save(self._scan.id, part)
            for page in store.find(self._search, cursor=part.cursor, pace=pace):
                found.add(page.found)
                skipped.add(page.skipped)
                part = _after(part, page, found.all, skipped.all)
                self._show(part)
                if self._stop.is_set():
                    break
                if time.monotonic() - saved > SAVE_EVERY_S:
                    scans.save(self._scan.id, part)
                    saved = time.monotonic()
            if not self._stop.is_set() and part.cursor is None:
                part = replace(part, state="done")
        except Interrupted:
            pass
        except TenureError as error:
            part = replace(part, state="failed", problem=error.message)
        scans.save(self._scan.id, part)
        self._show(part)

    def _show(self, part: ScanPart) -> None:
        """Tell how far a store is; the time left follows from bytes where their number is known, else from items."""
        what = f"{part.cell} {part.store}"
        by_bytes = part.bytes_total is not None and part.bytes_total >= part.size_bytes
        done, total = (part.size_bytes, part.bytes_total) if by_bytes else (part.items, part.items_total)
        with self._lock:
            per_s = self._rates.note(what, done, at_s=time.monotonic())
            left = left_s(done, total, per_s)
            shown = {"bytes_done": part.size_bytes, "per_s": per_s or 0.0, "left_s": left}
            total_items = part.items_total if (part.items_total or 0) >= part.items else None
            self._observer(
                Progressed(
                    operation=self._scan.id,
                    step="scan",
                    what=what,
                    done=part.items,
                    total=part.items if part.state == "done" else total_items or None,
                    unit="items",
                    detail=shown if left is not None else {"bytes_done": part.size_bytes},
                )
            )


def _after(
    part: ScanPart, page: FindPage, found: tuple[Found, ...], skipped: tuple[Skipped, ...]
) -> ScanPart:
    return replace(
        part,
        cursor=page.cursor,
        items=page.items,
        size_bytes=page.size_bytes,
        items_total=page.items_total,
        bytes_total=page.bytes_total,
        found=found,
        skipped=skipped,
    )


class _Merged:
    """Findings, or what was skipped, put together by place; of too many places, by what their keys begin with."""

    def __init__(self, given: Iterable[Found | Skipped]) -> None:
        self._by_key: dict[object, Any] = {}
        self._coarse = False
        self.add(given)

    def add(self, given: Iterable[Found | Skipped]) -> None:
        for its in given:
            if self._coarse and its.place.kind in _KEYED:
                its = replace(its, place=replace(its.place, name=coarser(its.place.name)))  # noqa: PLW2901
            key = its.key if isinstance(its, Found) else (its.place, its.reason)
            before = self._by_key.get(key)
            self._by_key[key] = before.merged(its) if before is not None else its
        if not self._coarse and len(self._by_key) > MOST_PLACES:
            self._coarse, before_all, self._by_key = True, self.all, {}
            self.add(before_all)

    @property
    def all(self) -> tuple[Any, ...]:
        return tuple(self._by_key.values())


def resumable(scan: Scan, request: ScanRequest) -> None:
    """Raise `UsageError` unless the request is that of the scan."""
    kept, now = dict(scan.request), request.kept()
    if kept == now:
        return
    if set(kept.get("labels", ())) != set(now["labels"]):
        raise UsageError(
            f"the scan {scan.id} looks for other identifiers",
            hint="identifiers of persons are not kept: give the same --identifier options again",
        )
    raise UsageError(
        f"the scan {scan.id} was asked for otherwise", hint="give only --resume and its identifiers"
    )


def where(
    deps: Deps, cells: Sequence[CellName], stores: Sequence[StoreName]
) -> tuple[tuple[CellName, StoreName], ...]:
    """The stores to look into; without names, all of them."""
    names = deps.factory.names()
    for store in stores:
        deps.estate.catalogue.store(store)
    chosen = [name for name in names if not stores or name in stores]
    return tuple((cell, store) for cell in (cells or tuple(deps.estate.cells)) for store in chosen)
