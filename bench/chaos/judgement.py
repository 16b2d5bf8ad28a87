"""What is looked for after a chaos run: every promise, each by the evidence that shows it broken."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bench.chaos.journal import Journal
from bench.chaos.schedule import SERVING, Schedule
from rag_app.checker import Served, Verdict, check
from rag_app.history import History, Outcome, Request
from rag_app.verify import LostWrites
from tenure.estate.config import load_estate
from tenure.model.names import TenantId
from tenure.registry.registry import Registry
from tenure.wiring import open_registry
from tests.estate import TestEstate

RECOVERY_S: Final = 10.0
"""How long after an outage requests may still fail: crash recovery, and the app's connections that died with it."""
_SENT_BACK: Final = 307
_SHOWN: Final = 20
_OPERATIONS: Final = 10_000


def judge(
    estate: TestEstate,
    schedule: Schedule,
    journal: Journal,
    history: History,
    stores: LostWrites,
    neighbours_changed: Iterable[object],
) -> dict[str, Any]:
    """The report. Adds what it finds to the journal's violations."""
    registry = open_registry(load_estate(estate.config))
    try:
        verdict = check(
            history, {tenant: placements(registry, tenant) for tenant in {r.tenant for r in history.requests}}
        )
        operations = _operations(registry, schedule, journal)
    finally:
        registry.close()
    _of_the_history(journal, verdict, stores)
    failed = unexcused(history, journal)
    for request in failed[:_SHOWN]:
        journal.violation(f"a request failed without an outage: {request}")
    changed = list(neighbours_changed)
    for what in changed:
        journal.violation(f"a neighbour's data changed: {what}")
    left = {tenant: _left(estate, tenant) for tenant in schedule.turns}
    for tenant, found in left.items():
        for what in found:
            journal.violation(f"left behind of {tenant}: {what}")
    counts = history.counts()
    return {
        "schema_version": 1,
        "seed": schedule.seed,
        "seconds": schedule.seconds,
        "tenants": len(schedule.turns),
        "done": {what: dict(sorted(of.items())) for what, of in journal.counts.items()},
        "operations": operations,
        "requests": {
            "all": counts.requests,
            "failed": counts.failed,
            "failed_without_an_outage": len(failed),
            "writes_acked": counts.writes_acked,
        },
        "checker": verdict.as_dict() | {"findings": [f.as_dict() for f in verdict.findings[:_SHOWN]]},
        "stores": {
            "keys_checked": dict(stores.checked),
            "lost": len(stores.lost),
            "unexplained": len(stores.unexplained),
        },
        "neighbours_changed": len(changed),
        "left_behind": {tenant: found for tenant, found in left.items() if found},
        "violations": journal.violations,
    }


def placements(registry: Registry, tenant: str) -> tuple[Served, ...]:
    """Every cell that served the tenant, and since when."""
    changes = registry.placements.history(TenantId(tenant))
    return tuple(Served(cell=change.cell, since=change.since.timestamp()) for change in changes)


def unexcused(history: History, journal: Journal) -> list[Request]:
    """Requests that failed for no good reason.

    Good ones are that something was down which serves requests, or, for a request that no cell took (the gateway did
    not get it through, or a fence sent it back), that the tenant's operation had been struck or could not be carried
    on.
    """
    serving = [(began, ended) for began, ended, what in journal.outages if what in SERVING]
    other = [(began, ended) for began, ended, what in journal.outages if what not in SERVING]

    def within(request: Request, windows: Iterable[tuple[float, float]]) -> bool:
        return any(began <= request.end and request.start <= ended + RECOVERY_S for began, ended in windows)

    def excused(request: Request) -> bool:
        if within(request, serving):
            return True
        taken = request.cell and request.status != _SENT_BACK
        return not taken and within(request, (*other, *journal.struck[request.tenant]))

    return [r for r in history.requests if r.outcome is not Outcome.OK and not excused(r)]


def _of_the_history(journal: Journal, verdict: Verdict, stores: LostWrites) -> None:
    for finding in verdict.findings[:_SHOWN]:
        journal.violation(
            f"{finding.anomaly}: {finding.request.tenant} {finding.request.key} in {finding.store}: {finding.detail}"
        )
    for lost in stores.lost[:_SHOWN]:
        journal.violation(f"lost: {lost}")
    for riddle in stores.unexplained[:_SHOWN]:
        journal.violation(f"unexplained: {riddle}")
    if not verdict.writes_acked or not verdict.reads:
        journal.violation("there was no load")


def _operations(registry: Registry, schedule: Schedule, journal: Journal) -> Mapping[str, int]:
    """How the operations ended. No tenant was ever in two, none is left, none met a defect."""
    ended: Counter[str] = Counter()
    for name in schedule.turns:
        tenant = TenantId(name)
        in_order = sorted(
            registry.operations.list(tenant=tenant, limit=_OPERATIONS), key=lambda o: o.created_at
        )
        ended.update(f"{o.kind} {o.state}" for o in in_order)
        for operation, following in itertools.zip_longest(in_order, in_order[1:]):
            if operation.finished_at is None:
                journal.violation(
                    f"{operation.kind} {operation.id} of {name} has not ended: {operation.state}"
                )
            elif following is not None and operation.finished_at > following.created_at:
                journal.violation(f"{name} was in {operation.id} and {following.id} at once")
        for event in registry.events.list(tenant=tenant, limit=100 * _OPERATIONS):
            if "unexpected error" in json.dumps(event.data, default=str):
                journal.violation(f"a defect in {event.operation}: {dict(event.data)}")
    return dict(sorted(ended.items()))


def _left(estate: TestEstate, tenant: str) -> list[str]:
    found = estate.left_behind(tenant)
    with estate.service() as service:
        serves = service.status(tenant).placement.cell
    for cell in estate.local.cells:
        if cell != serves and (items := estate.items_in(tenant, cell)):
            found.append(f"{items} items in {cell}")
    return found
