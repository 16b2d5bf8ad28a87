"""The use cases of restores: what somebody wants becomes a request, a plan, an operation."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from tenure.engine.engine import Engine
from tenure.engine.observer import Observer
from tenure.engine.spec import OperationSpec
from tenure.errors import NotAllowed, PlanStale, UnknownName, UsageError
from tenure.model.backup import BackupRecord
from tenure.model.names import CellName, StoreName, TenantId, cell_name, tenant_id
from tenure.model.operation import Operation
from tenure.operations.deps import Deps
from tenure.operations.fleet import Fleet
from tenure.operations.free import require_free
from tenure.operations.restore.archive import known, opened
from tenure.operations.restore.erased import erasures_of
from tenure.operations.restore.ground import Ground
from tenure.operations.restore.observing import protectable
from tenure.operations.restore.request import Chosen, Newcomer, Request
from tenure.operations.restore.restore import Restore, plan_now
from tenure.plan.restore import RestorePlan
from tenure.plan.restore_steps import Mode

NAMED: Final = 5


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What somebody asks for. Without `to` it is restored where the tenant is, without `name` under its own name.

    `tables` are collections of whatever store has them. `items` are single rows, keys or objects: as comparisons name
    them, or by their last part (the id of a row, the name of an object).
    """

    backup: str
    to: str | None = None
    name: str | None = None
    host: str | None = None
    tier: str | None = None
    stores: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    erase_former: bool = False


class Restoring:
    """What the entry points call for `tenure restore`."""

    def __init__(self, deps: Deps, engine: Engine, fleet: Fleet, *, actor: str) -> None:
        self._deps = deps
        self._engine = engine
        self._fleet = fleet
        self._actor = actor

    def plan(self, wish: Wish) -> RestorePlan:
        """What the restore would do: what would be different, store by store. Changes nothing live.

        A backup of an older schema is staged for it, and removed again, which takes as long as in the restore itself.
        """
        return plan_now(self._deps, self._request(wish))

    def restore(self, wish: Wish, *, apply: str | None, observer: Observer, here: bool = True) -> Operation:
        """Carry it out. Raises `NotAllowed` with every finding that refuses it, `TenantLocked`, `PlanStale`."""
        request = self._request(wish)
        plan = plan_now(self._deps, request)
        if apply is not None and apply != plan.digest:
            raise PlanStale(
                f"the plan has changed: {apply} was agreed to, {plan.digest} is what would be done now",
                hint="look at the new plan with --plan",
            )
        if plan.refusals:
            raise NotAllowed(
                f"the restore of {request.backup} for {plan.tenant} is refused by {len(plan.refusals)} finding(s)",
                findings=tuple(f"{f.where}: {f.message}. Fix: {f.cure}" for f in plan.refusals),
                hint="mend what the findings name, then plan again",
            )
        protected = protectable(self._deps, request)
        operation = self._engine.create(
            Restore(self._deps).spec(request.mode, protected=protected, erases_former=request.erases_former),
            tenant=plan.tenant,
            request={**request.as_dict(), "protected": protected, **self._protection(request, protected)},
            plan=plan.as_dict(),
            plan_digest=plan.digest,
            requested_by=self._actor,
        )
        return self._fleet.run(operation, observer, here=here)

    def specs(self, operation: Operation) -> Mapping[str, Callable[[], OperationSpec]]:
        """How these operations are carried out."""
        return {"restore": lambda: Restore(self._deps).spec_of(operation)}

    # -- what is asked for -------------------------------------------------------------------------------------------

    def _request(self, wish: Wish) -> Request:
        record = self._backup(wish.backup)
        if wish.name is not None and wish.name != record.tenant:
            return self._new_tenant(wish, record, tenant_id(wish.name))
        tenant = self._served(record)
        require_free(self._deps, tenant)
        source = self._deps.registry.placements.get(tenant).cell
        target = source if wish.to is None else self._cell(wish.to)
        mode = Mode.IN_PLACE if target == source else Mode.OTHER_CELL
        if mode is Mode.OTHER_CELL and (wish.stores or wish.tables or wish.items):
            raise UsageError(
                f"{target} is to serve all of {tenant}: a part of the backup can only be restored in place",
                hint="leave --to away, or --store, --table, --row and --object",
            )
        if wish.erase_former and mode is not Mode.OTHER_CELL:
            raise UsageError("there is no former copy to erase", hint="--erase-former goes with --to")
        request = Request(
            backup=record.id,
            tenant=tenant,
            source=source,
            target=target,
            mode=mode,
            erases_former=wish.erase_former,
        )
        return self._choosing(request, wish)

    def _new_tenant(self, wish: Wish, record: BackupRecord, tenant: TenantId) -> Request:
        if tenant in {t.id for t in self._deps.registry.tenants.list()}:
            raise NotAllowed(
                f"there is a tenant {tenant} already: a backup of {record.tenant} is restored over nobody else's data",
                hint="restore under a name that is free",
            )
        require_free(self._deps, tenant)
        if wish.items:
            raise UsageError("single rows and objects are restored in place only", hint="leave --as away")
        target = self._cell(wish.to if wish.to is not None else record.cell)
        estate = self._deps.estate
        tier = wish.tier if wish.tier is not None else record.tier
        if tier not in estate.tiers:
            raise UsageError(f"no tier {tier!r}", hint=f"tenure.yaml has {', '.join(sorted(estate.tiers))}")
        residency = next(
            (t.residency for t in self._deps.registry.tenants.list() if t.id == record.tenant), None
        )
        newcomer = Newcomer(tier=tier, host=wish.host or estate.gateway.host_for(tenant), residency=residency)
        request = Request(
            backup=record.id,
            tenant=tenant,
            source=target,
            target=target,
            mode=Mode.NEW_TENANT,
            newcomer=newcomer,
        )
        return self._choosing(request, wish)

    def _backup(self, text: str) -> BackupRecord:
        """The backup of that id, or the newest one of that tenant."""
        try:
            return known(self._deps, text)
        except UnknownName:
            for record in self._deps.registry.backups.list(tenant=tenant_id(text), limit=50):
                if record.there:
                    return record
            raise

    def _served(self, record: BackupRecord) -> TenantId:
        try:
            return self._deps.registry.tenants.get(record.tenant).id
        except UnknownName as error:
            raise NotAllowed(
                f"{record.tenant}, whose backup it is, is no tenant of this estate any more",
                hint=f"restore it under a name: tenure restore {record.id} --as NAME; or register it first",
            ) from error

    def _cell(self, text: str) -> CellName:
        cell = cell_name(text)
        self._deps.estate.cell(cell)
        return cell

    def _protection(self, request: Request, protected: bool) -> dict[str, Any]:
        """As the request of a backup has it: where the backup of the present state goes."""
        if not protected:
            return {}
        region = self._deps.estate.cell(request.source).region
        return {"region": region, "copy_to": None, "lock": None, "locked_until": None}

    # -- what of it --------------------------------------------------------------------------------------------------

    def _choosing(self, request: Request, wish: Wish) -> Request:
        """The request with what was chosen, by the names that the stores use."""
        if not (wish.stores or wish.tables or wish.items):
            return request
        region = self._deps.estate.cell(request.target).region
        with opened(self._deps, request.backup, near=region) as backup:
            # Nothing of what was erased is shown, not even by its keys.
            if erasures_of(self._deps.registry.erasures, self._deps.ledger, request.tenant, backup.facts):
                return request
            with Ground(
                self._deps, request, backup, cell=request.source, purpose=f"choose-{uuid.uuid4().hex[:12]}"
            ) as ground:
                chosen = _collections(ground, wish)
                if wish.items:
                    chosen = self._items(ground, _with(request, chosen), wish.items)
        return _with(request, chosen)

    def _items(self, ground: Ground, request: Request, wanted: Sequence[str]) -> Chosen:
        """The keys of single items, found among those that differ."""
        within = Ground(
            self._deps, request, ground.backup, cell=ground.cell, purpose=f"choose-{uuid.uuid4().hex[:12]}"
        )
        found: dict[str, list[tuple[StoreName, str, str]]] = {item: [] for item in wanted}
        with within, ExitStack() as stack:
            try:
                within.stage(within.paths(within.preflight()), lambda _point: None)
                for name, spool in within.differences().items():
                    for difference in stack.enter_context(spool):
                        for item in wanted:
                            if names(difference.key, item):
                                found[item].append((name, difference.collection, difference.key))
            finally:
                within.drop()
        chosen: dict[str, dict[str, tuple[str, ...]]] = {}
        for item, places in found.items():
            store, collection, key = _only(item, places)
            keys = chosen.setdefault(store, {}).get(collection, ())
            chosen[store][collection] = (*keys, key)
        return chosen


def names(key: str, wanted: str) -> bool:
    """Whether somebody who writes `wanted` can mean the item with that key (JSON, as comparisons have it)."""
    if key == wanted:
        return True
    value = json.loads(key)
    if isinstance(value, list):
        parts = [str(part) for part in value]
        return wanted in {",".join(parts), ",".join(parts[1:])}
    text = str(value)
    return text == wanted or text.endswith(f"/{wanted}")


def _only(item: str, places: Sequence[tuple[StoreName, str, str]]) -> tuple[StoreName, str, str]:
    if not places:
        raise UsageError(
            f"nothing called {item!r:.80} differs between the backup and what is live: it is the same in both, or in "
            "neither",
            hint="name it as `tenure restore ... --plan` names what differs",
        )
    if len(places) > 1:
        listed = ", ".join(f"{store} {collection} {key}" for store, collection, key in places[:NAMED])
        raise UsageError(f"{item!r:.80} can mean several items: {listed}", hint="name one of them in full")
    return places[0]


def _collections(ground: Ground, wish: Wish) -> Chosen:
    """By the stores that restore them: whole stores, and tables of whichever store has them."""
    here = {str(name): ground.riders.get(name, name) for name in ground.served.names}
    facts = ground.source.collections()
    chosen: dict[str, Mapping[str, tuple[str, ...] | None] | None] = {}
    unknown = sorted(set(wish.stores) - set(here))
    if unknown:
        raise UsageError(
            f"no store {unknown[0]!r:.60} is in backups", hint=f"there are {', '.join(sorted(here))}"
        )
    tables = {f.collection for f in facts}
    missing = sorted(set(wish.tables) - tables)
    if missing:
        raise UsageError(
            f"the backup has nothing called {missing[0]!r:.80}", hint=f"it has {', '.join(sorted(tables))}"
        )
    for fact in facts:
        carrier = here.get(fact.store)
        if carrier is None or (wish.stores and fact.store not in wish.stores):
            continue
        if wish.tables and fact.collection not in wish.tables:
            continue
        if not wish.tables and fact.store == carrier and not _carries(ground, carrier):
            chosen[carrier] = None
        elif chosen.get(carrier, {}) is not None:
            chosen[carrier] = {**(chosen.get(carrier) or {}), fact.collection: None}
    if not chosen:
        raise UsageError("the backup has nothing of that", hint=f"it has {', '.join(sorted(tables))}")
    return chosen


def _carries(ground: Ground, name: StoreName) -> bool:
    return name in ground.riders.values()


def _with(request: Request, chosen: Chosen) -> Request:
    return Request(
        backup=request.backup,
        tenant=request.tenant,
        source=request.source,
        target=request.target,
        mode=request.mode,
        chosen=chosen,
        newcomer=request.newcomer,
        erases_former=request.erases_former,
    )
