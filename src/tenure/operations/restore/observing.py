"""Reads everything that planning a restore needs to know. Changes nothing live; what it stages it removes again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from tenure.errors import DataDiffers, StoreRefused, StoreUnavailable
from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, StoreName
from tenure.operations.deps import Deps
from tenure.operations.drift import Drift
from tenure.operations.observe import PAST_MEASUREMENTS, cell_observation, prices_of, route
from tenure.operations.restore.archive import Opened, opened
from tenure.operations.restore.erased import erasures_of
from tenure.operations.restore.ground import SCHEMA_CODES, Ground
from tenure.operations.restore.request import Request, chosen_dict
from tenure.plan.observation import Rate, ResidencyRule
from tenure.plan.restore import CollectionChange, RestoreObservation
from tenure.plan.restore_steps import Mode
from tenure.plan.schema_path import SchemaPath, Way

LOAD: Final = "restore_load"
APPLY: Final = "restore_apply"
AT_HAND_S: Final = 10.0
"""A comparison that takes longer is not made twice to learn how long it takes."""


def observe(deps: Deps, request: Request, *, purpose: str, compare: bool = True) -> RestoreObservation:
    """Look at the backup, the ledger, the cells and the rules. With `compare` also at every item that would change."""
    region = deps.estate.cell(request.target).region
    with opened(deps, request.backup, near=region) as backup:
        erased = erasures_of(deps.registry.erasures, deps.ledger, request.tenant, backup.facts)
        # What was erased is not even compared: nobody gets to see what was in it.
        look = _Look(deps, request, backup, purpose) if not erased else None
        if look is not None:
            look.at_target()
            if compare:
                look.at_changes()
        return _observation(deps, request, backup, erased, look)


class _Look:
    """What is seen of the stores."""

    def __init__(self, deps: Deps, request: Request, backup: Opened, purpose: str) -> None:
        self._deps = deps
        self._request = request
        self._backup = backup
        self._purpose = purpose
        self.findings: list[Finding] = []
        self.schemas: tuple[SchemaPath, ...] = ()
        self.changes: tuple[CollectionChange, ...] = ()
        self.compare_s = 0.0
        self.round_trip_ms = 0.0

    def at_target(self) -> None:
        """The stores that are written to: how they answer, what they say of the backup, whether they are empty."""
        with self._ground(self._request.target) as ground:
            began = time.perf_counter()
            ground.served.each(lambda n: ground.store(n).fence_state(ground.tenant), ground.served.fenced())
            self.round_trip_ms = (time.perf_counter() - began) * 1000
            found = ground.preflight()
            self.schemas = ground.paths(found)
            self.findings += _said(found, self.schemas)
            self.findings += [_absent(name) for name in ground.absent]
            self.findings += [_cooperative(name) for name in ground.stores if not _enforced(ground, name)]
            if self._request.mode is not Mode.IN_PLACE:
                self.findings += _not_empty(ground)

    def at_changes(self) -> None:
        """The backup against what serves the tenant now; of a new tenant, everything is new."""
        if any(path.way is Way.NONE for path in self.schemas):
            return
        if self._request.mode is Mode.NEW_TENANT:
            self.changes = _all_new(self._request, self._backup)
            return
        with self._ground(self._request.source) as ground:
            try:
                paths = ground.paths(ground.preflight())
                ground.stage(paths, lambda _point: None)
                self.changes, self.compare_s = _timed(ground)
            except (StoreRefused, DataDiffers) as error:
                self.findings.append(_unfit(ground.cell, error, self._request.mode))
            except StoreUnavailable as error:
                self.findings.append(_unfit(ground.cell, error, self._request.mode))
            finally:
                ground.drop()

    def _ground(self, cell: CellName) -> Ground:
        return Ground(self._deps, self._request, self._backup, cell=cell, purpose=self._purpose)


def _timed(ground: Ground) -> tuple[tuple[CollectionChange, ...], float]:
    """What differs, and how long it takes to find out once what is read is at hand, as in a hold."""
    for _ in range(2):
        began = time.perf_counter()
        changes = ground.changes()
        took_s = time.perf_counter() - began
        if took_s > AT_HAND_S:
            break
    return changes, took_s


def _observation(
    deps: Deps, request: Request, backup: Opened, erased: Sequence[Finding], look: _Look | None
) -> RestoreObservation:
    new = request.mode is Mode.NEW_TENANT
    known = None if new else deps.registry.tenants.get(request.tenant)
    residency = (
        request.newcomer.residency if request.newcomer is not None else known.residency if known else None
    )
    rule = deps.estate.residency[residency] if residency is not None else None
    findings = [*erased, *(look.findings if look is not None else ()), *_standing(deps, request)]
    return RestoreObservation(
        mode=request.mode,
        backup=backup.facts,
        tenant=request.tenant,
        source=cell_observation(deps, request.source),
        target=cell_observation(deps, request.target),
        epoch=0 if new else deps.registry.placements.get(request.tenant).epoch,
        selection=None if request.chosen is None else chosen_dict(request.chosen),
        changes=look.changes if look is not None else (),
        schemas=look.schemas if look is not None else (),
        findings=tuple(findings),
        residency=None
        if rule is None or residency is None
        else ResidencyRule(name=residency, regions=rule.regions, reason=rule.reason),
        legal_hold=None if known is None else known.legal_hold,
        erasures=tuple(f"{f.where}: {f.message}" for f in erased),
        protected=protectable(deps, request),
        catalogue_digest=deps.estate.catalogue.digest,
        hold_budget_ms=deps.estate.hold.budget_ms,
        round_trip_ms=look.round_trip_ms if look is not None else 0.0,
        compare_s=look.compare_s if look is not None else 0.0,
        prices=prices_of(deps),
        loaded=_rate(deps, LOAD, request),
        applied=_rate(deps, APPLY, request),
        erases_former=request.erases_former,
    )


def protectable(deps: Deps, request: Request) -> bool:
    """Whether what is live can be backed up first: the region of its cell has a vault."""
    if request.mode is Mode.NEW_TENANT or deps.vaults is None or deps.sealing is None:
        return False
    return deps.estate.cell(request.source).region in deps.vaults.regions()


def _standing(deps: Deps, request: Request) -> list[Finding]:
    """What the tenant is in."""
    if request.mode is Mode.NEW_TENANT:
        return []
    found = []
    link = deps.registry.links.active(request.tenant)
    if link is not None:
        found.append(
            _refusal(
                "linked",
                request.tenant,
                f"a link between {link.cell_a} and {link.cell_b} carries, or would lose, what is restored",
                "end the move first",
                f"tenure complete {request.tenant}",
            )
        )
    strays = Drift(deps).look(request.tenant).strays
    if strays is not None:
        found.append(
            _refusal(
                "route_drifted",
                request.tenant,
                f"its requests cannot be held: {strays}",
                "have its route mended",
                f"tenure drift {request.tenant} --repair",
            )
        )
    return found


def _said(found: Mapping[StoreName, Sequence[Finding]], paths: Sequence[SchemaPath]) -> list[Finding]:
    """What the stores said; of a backup that is migrated first, what they said of its schema does not count."""
    versioned = {path.store for path in paths if path.way is not Way.AS_IT_IS}
    return [
        f for name, its in found.items() for f in its if name not in versioned or f.code not in SCHEMA_CODES
    ]


def _not_empty(ground: Ground) -> list[Finding]:
    held = ground.crew.each(lambda n: ground.store(n).inventory(ground.tenant).items, ground.stores)
    return [
        _refusal(
            "target_not_empty",
            f"{ground.cell}, {name}",
            f"it holds {items} items of {ground.tenant} already",
            "restore into a cell that has nothing of it, or under another name",
        )
        for name, items in held.items()
        if items
    ]


def _all_new(request: Request, backup: Opened) -> tuple[CollectionChange, ...]:
    return tuple(
        CollectionChange(store=f.store, collection=f.collection, in_backup=f.items, added=f.items)
        for f in backup.source.collections()
        if request.selection(f.store) is not None
    )


def _unfit(cell: CellName, error: Exception, mode: Mode) -> Finding:
    """What keeps the backup from being compared there: in place it refuses, elsewhere it is good to know."""
    message, fix = getattr(error, "message", str(error)), getattr(error, "hint", None) or "mend what it names"
    found = _refusal("backup_unfit", cell, message, fix)
    return found if mode is Mode.IN_PLACE else replace(found, severity=Severity.WARNING)


def _absent(name: StoreName) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        code="store_unknown",
        where=name,
        message="the backup has data of a store that this estate does not have: it is not restored",
        fix="export it, if it is needed",
    )


def _cooperative(name: StoreName) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        code="fence_cooperative",
        where=name,
        message=f"{name} cannot refuse the tenant's writes itself: the gate and tenure.client keep them out",
        fix="route every writer through the gateway or take tenure.client's permit before each write",
    )


def _enforced(ground: Ground, name: StoreName) -> bool:
    return ground.store(name).capabilities.fence_enforced


def _refusal(code: str, where: str, message: str, fix: str, command: str = "") -> Finding:
    return Finding(
        severity=Severity.REFUSAL, code=code, where=where, message=message, fix=fix, command=command
    )


def _rate(deps: Deps, kind: str, request: Request) -> Rate | None:
    past = deps.registry.measurements.recent(
        kind=kind, route=route(request.source, request.target), limit=PAST_MEASUREMENTS
    )
    seconds = sum(m.seconds for m in past)
    if seconds <= 0:
        return None
    return Rate(
        items_per_s=sum(m.items for m in past) / seconds,
        bytes_per_s=sum(m.bytes for m in past) / seconds,
        basis=f"{len(past)} restores",
    )
