"""The demo: a tenant is backed up, damaged and restored under load, three tenants move between real cells, one is
rolled back and moved again, two are erased and certified, and the evidence.

Every figure is measured here: requests by the load generator, the hold by the gate, lost writes by reading the stores
of the cell that serves the tenant afterwards, the neighbours by their digests before and after.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rag_app.demo_backup import BackupAct, BackupEvidence
from rag_app.demo_erase import ErasureAct, ErasureEvidence
from rag_app.history import History
from rag_app.load import DEFAULT_MIX, LoadSettings
from rag_app.load_process import LoadProcess
from rag_app.local import RagApp, settings_of
from rag_app.reader import CellReader
from rag_app.seed import NEIGHBOURS, TENANTS, TEST_ACCOUNT, Sizes, seed
from rag_app.verify import LostWrites, verify
from tenure.engine.observer import Observer
from tenure.estate.config import load_estate
from tenure.estate.local.cells import LocalCells
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.operation import Operation, OperationState
from tenure.service import Service
from tenure.wiring import Stores, open_registry, service_of

ACME: Final = "tenant_001_acme_corp"
GLOBEX: Final = "tenant_002_globex"
INITECH: Final = "tenant_003_initech"
DEPARTED: Final = "tenant_004_departed_customer"
BUSY_NEIGHBOURS: Final = ("tenant_001_acme_corp2", "tenant-001-acme-corp")
"""Under load while others move; all other neighbours stand still, so that their digests must not change."""
QUIET_NEIGHBOURS: Final = tuple(t.id for t in NEIGHBOURS if t.id not in BUSY_NEIGHBOURS)
HOME: Final = CellName("blue")
SYSTEMS_OF: Final = {DEPARTED: 7, TEST_ACCOUNT: 4}
"""In how many systems each of those that are erased has something."""
BEFORE_S: Final = 3.0
AFTER_S: Final = 2.0
RATE: Final = 90.0


@dataclass(frozen=True, kw_only=True)
class MoveEvidence:
    """What one move did to its tenant and to everyone else."""

    tenant: str
    source: str
    target: str
    kind: str
    requests: int
    requests_failed: int
    acked_writes: int
    acked_writes_lost: int
    stale_reads: int
    unexplained: int
    """Values in the stores that no request explains, such as a counter that counted twice."""
    hold_ms: float
    longest_wait_ms: float
    timing_ms: Mapping[str, float]
    """The parts of the hold, in order."""
    stores_ms: Mapping[str, Mapping[str, float]]
    """What each store took of a part."""
    added_ms: Mapping[str, float]
    neighbours_requests_failed: int
    total_s: float
    predicted: Mapping[str, Any]
    """What the plan said it would take."""
    stores: Mapping[str, Mapping[str, int]]
    neighbours_changed: int
    cost: Mapping[str, Any]
    operation: str

    def promises_broken(self) -> list[str]:
        """Every promise that this move did not keep, in words."""
        broken = []
        if self.requests == 0 or self.acked_writes == 0:
            broken.append("there was no load")
        if self.requests_failed or self.neighbours_requests_failed:
            broken.append(
                f"{self.requests_failed} requests failed, {self.neighbours_requests_failed} of neighbours"
            )
        if self.acked_writes_lost:
            broken.append(f"{self.acked_writes_lost} acknowledged writes were lost")
        if self.stale_reads:
            broken.append(f"{self.stale_reads} reads were stale")
        if self.unexplained:
            broken.append(f"{self.unexplained} values in the stores cannot be explained by any request")
        if not self.stores:
            broken.append("nothing was compared")
        for store, seen in self.stores.items():
            if seen["processed"] == 0 or seen["matching"] != seen["processed"]:
                broken.append(f"{store} does not compare equal: {dict(seen)}")
        if self.neighbours_changed:
            broken.append(f"{self.neighbours_changed} digests of neighbours changed")
        return broken

    def as_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["from"] = plain.pop("source")
        plain["to"] = plain.pop("target")
        return plain


@dataclass(frozen=True, kw_only=True)
class Evidence:
    backup: BackupEvidence
    moves: Sequence[MoveEvidence]
    erasures: Sequence[ErasureEvidence]
    seconds: float
    stays: Mapping[str, str]
    """The stores whose data no move takes along, and why."""

    @property
    def broken(self) -> list[str]:
        return [
            *(f"backup of {self.backup.tenant}: {b}" for b in self.backup.promises_broken()),
            *(
                f"{m.kind} {m.tenant} {m.source} -> {m.target}: {b}"
                for m in self.moves
                for b in m.promises_broken()
            ),
            *(
                f"erasure of {e.tenant}: {b}"
                for e in self.erasures
                for b in e.promises_broken(SYSTEMS_OF[e.tenant])
            ),
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "backup": self.backup.as_dict(),
            "moves": [m.as_dict() for m in self.moves],
            "erasures": [e.as_dict() for e in self.erasures],
            "stays": dict(self.stays),
            "promises_broken": self.broken,
            "seconds": round(self.seconds, 1),
        }


class Demo:
    """One run on a running local estate."""

    def __init__(
        self, cells: LocalCells, app: RagApp, observer: Observer, say: Callable[[str], None]
    ) -> None:
        self._cells = cells
        self._app = app
        self._observer = observer
        self._say = say
        estate = load_estate(cells.estate_file)
        self._registry = open_registry(estate)
        self._registry.migrate()
        self._service: Service = service_of(estate, self._registry)
        self._stores = Stores(estate, self._registry.mutex)
        self._began = time.monotonic()
        self._runs = 0
        self._stays: dict[str, str] = {}

    def close(self) -> None:
        self._service.close()
        self._stores.close()

    def prepare(self, sizes: Sizes) -> None:
        """Register and seed all tenants in `blue`."""
        for tenant in TENANTS:
            residency = "eu-only" if tenant.id == GLOBEX else None
            self._service.add_tenant(
                tenant.id,
                cell=HOME,
                tier=tenant.tier,
                host=self._app.tenants[tenant.id].host,
                residency=residency,
            )
        counts = seed(settings_of(self._cells.cells[HOME]), sizes=sizes)
        rows = sum(c.documents + c.chunks for c in counts.values())
        self._say(
            f"seeded {len(counts)} tenants in {HOME}: {rows:,} documents and chunks, as many vectors, files, keys, "
            "records, usage and log events"
        )

    def migrate(self, tenant: str, target: str) -> MoveEvidence:
        plan = self._service.plan_migrate(tenant, target)
        p = plan.prediction
        self._stays = {f"{its.store} ({its.kind})": its.why for its in plan.staying}
        self._say(
            f"plan {plan.digest}: copy {p.copy_s:.1f} s, hold {p.hold_ms:.0f} ms, "
            f"rollback {p.rollback_ms:.0f} ms, {p.cost.total:.2f} {p.cost.currency}"
        )
        return self._under_load(
            tenant, lambda: self._service.migrate(tenant, target, apply=plan.digest, observer=self._observer)
        )

    def rollback(self, tenant: str) -> MoveEvidence:
        return self._under_load(
            tenant, lambda: self._service.rollback(tenant, apply=None, observer=self._observer)
        )

    def back_up(self, tenant: str) -> BackupEvidence:
        """Back it up, damage it, restore it, and drill."""

        def loaded(operation: Callable[[], Operation], mix: Mapping[str, float]) -> tuple[History, Operation]:
            history, done, _, _, _ = self._loaded(tenant, operation, mix)
            return history, done

        return BackupAct(
            tenant=tenant,
            settings=settings_of(self._cells.cells[HOME]),
            service=self._service,
            observer=self._observer,
            loaded=loaded,
            verified=self._verified,
            quiet=self._quiet_digests,
            say=self._say,
        ).run()

    def erase(self, tenant: str, request: str, ground: str, *, plants: bool) -> ErasureEvidence:
        """Erase it beside its neighbours; with residue planted where nobody looks, first in vain."""

        def beside(operation: Callable[[], Operation]) -> tuple[History, Operation]:
            history, done, _, _, _ = self._work(BUSY_NEIGHBOURS, operation, DEFAULT_MIX)
            return history, done

        return ErasureAct(
            request=request,
            tenant=tenant,
            ground=ground,
            plants=plants,
            settings=settings_of(self._cells.cells[HOME]),
            service=self._service,
            observer=self._observer,
            beside=beside,
            quiet=self._quiet_digests,
            left=self._left,
            say=self._say,
        ).run()

    def _left(self, tenant: str) -> int:
        """What the stores of all cells still count of it, but for those whose contents nobody can delete."""
        stores = [
            self._stores.store(cell, name) for cell in self._cells.cells for name in self._stores.names()
        ]
        return sum(
            store.inventory(TenantId(tenant)).items
            for store in stores
            if store.capabilities.undeletable is None
        )

    def evidence(
        self, backup: BackupEvidence, moves: Sequence[MoveEvidence], erasures: Sequence[ErasureEvidence]
    ) -> Evidence:
        return Evidence(
            backup=backup,
            moves=moves,
            erasures=erasures,
            seconds=time.monotonic() - self._began,
            stays=self._stays,
        )

    # -- one move ----------------------------------------------------------------------------------------------------

    def _loaded(
        self, tenant: str, work: Callable[[], Operation], mix: Mapping[str, float]
    ) -> tuple[History, Operation, float, float, float]:
        """Run an operation while the tenant and its neighbours work. Also when that load began, and when the operation
        began and ended."""
        found = self._work((tenant, *BUSY_NEIGHBOURS), work, mix)
        operation = found[1]
        if operation.state not in (OperationState.SOAKING, OperationState.SUCCEEDED):
            raise SystemExit(f"{operation.kind} {operation.id} ended {operation.state}: {operation.error}")
        self._say(self._service.status(tenant).sentence)
        return found

    def _work(
        self, busy: Sequence[str], work: Callable[[], Operation], mix: Mapping[str, float]
    ) -> tuple[History, Operation, float, float, float]:
        """As `_loaded`, while these tenants work."""
        self._runs += 1
        folder = self._cells.running.folder / "etc" / "load"
        folder.mkdir(exist_ok=True)
        settings = LoadSettings(
            gateway=self._cells.gateway,
            tenants={name: self._app.tenants[name].host for name in busy},
            rate=RATE,
            run=self._runs,
            mix=mix,
        )
        with LoadProcess.start(
            settings, folder / f"{self._runs}.jsonl", folder / f"{self._runs}.log"
        ) as load:
            calm = time.time()
            time.sleep(BEFORE_S)  # the load alone, as the measure of its latency
            began = time.time()
            operation = work()
            ended = time.time()
            time.sleep(AFTER_S)  # and what comes after
            history = load.stop()
        return history, operation, calm, began, ended

    def _verified(self, history: History) -> LostWrites:
        """Every acknowledged write is looked for in the cell that serves its tenant now."""
        placed = {t.id: p.cell for t, p in self._service.tenants()}
        with ExitStack() as stack:
            readers = {
                cell: stack.enter_context(CellReader(settings_of(access)))
                for cell, access in self._cells.cells.items()
            }
            return verify(history, lambda name: readers[placed[TenantId(name)]])

    def _under_load(self, tenant: str, move: Callable[[], Operation]) -> MoveEvidence:
        before = self._quiet_digests()
        history, operation, calm, began, ended = self._loaded(tenant, move, DEFAULT_MIX)
        report = self._verified(history)
        for finding in (*report.lost, *report.stale, *report.unexplained):
            self._say(f"BROKEN {finding}")
        counts, others = history.counts(tenant=tenant), [history.counts(tenant=n) for n in BUSY_NEIGHBOURS]
        base = history.latency(calm, began, tenant=tenant)
        during = history.latency(began, ended, tenant=tenant)
        result = dict(operation.result or {})
        after = self._quiet_digests()
        return MoveEvidence(
            tenant=tenant,
            source=str(operation.request["from"]),
            target=str(operation.request["to"]),
            kind=operation.kind,
            requests=counts.requests,
            requests_failed=counts.failed,
            acked_writes=counts.writes_acked,
            acked_writes_lost=sum(lost.tenant == tenant for lost in report.lost),
            stale_reads=len(report.stale),
            unexplained=len(report.unexplained),
            hold_ms=result["hold_ms"],
            longest_wait_ms=result["longest_wait_ms"],
            timing_ms=result["timing_ms"],
            stores_ms=result["stores_ms"],
            added_ms={
                "p50": round(during.p50_ms - base.p50_ms, 2),
                "p99": round(during.p99_ms - base.p99_ms, 2),
                "max": round(during.max_ms - base.max_ms, 2),
            },
            neighbours_requests_failed=sum(c.failed for c in others)
            + sum(lost.tenant != tenant for lost in report.lost),
            total_s=round(ended - began, 2),
            predicted=dict(operation.plan or {})["predicted"],
            stores=result["stores"],
            neighbours_changed=sum(before[key] != after.get(key) for key in before)
            + len(after.keys() - before.keys()),
            cost=dict(operation.cost or {}),
            operation=operation.id,
        )

    def _quiet_digests(self) -> dict[tuple[CellName, StoreName, str, str], str]:
        """The digest of every collection of every neighbour that stands still, in all cells, but for stores that no
        move concerns."""
        found: dict[tuple[CellName, StoreName, str, str], str] = {}
        for cell in self._cells.cells:
            for name in self._stores.moving():
                store = self._stores.store(cell, name)
                for neighbour in QUIET_NEIGHBOURS:
                    for collection, seen in store.inventory(TenantId(neighbour)).collections.items():
                        found[(cell, name, neighbour, collection)] = seen.digest
        return found


def run(
    cells: LocalCells, app: RagApp, *, observer: Observer, sizes: Sizes, evidence_file: Path | None
) -> Evidence:
    """Do everything and return the evidence, written to `evidence_file` if there is one."""

    def say(text: str) -> None:
        sys.stderr.write(f"           {text}\n")
        sys.stderr.flush()

    demo = Demo(cells, app, observer, say)
    try:
        demo.prepare(sizes)
        sys.stderr.write(f"\n1. {DEPARTED}: backed up, damaged, restored in place, and a drill\n")
        backup = demo.back_up(DEPARTED)
        moves = []
        acts: Sequence[tuple[str, Callable[[], MoveEvidence]]] = (
            (f"2. {ACME}: blue -> green (zero downtime, platinum)", lambda: demo.migrate(ACME, "green")),
            (f"3. {ACME}: rolled back", lambda: demo.rollback(ACME)),
            (f"4. {ACME}: blue -> green again", lambda: demo.migrate(ACME, "green")),
            (f"5. {GLOBEX}: us-east-1 -> eu-west-1 (GDPR)", lambda: demo.migrate(GLOBEX, "eu")),
            (f"6. {INITECH}: v1 -> v2 infrastructure", lambda: demo.migrate(INITECH, "green")),
        )
        for title, act in acts:
            sys.stderr.write(f"\n{title}\n")
            moves.append(act())
        sys.stderr.write(f"\n7. {DEPARTED}: erased from seven systems (Article 17)\n")
        erasures = [demo.erase(DEPARTED, "gdpr_req_20250118_001", "end-of-contract", plants=True)]
        sys.stderr.write(f"\n8. {TEST_ACCOUNT}: erased from four systems\n")
        erasures.append(demo.erase(TEST_ACCOUNT, "gdpr_req_20250118_002", "no-longer-needed", plants=False))
        evidence = demo.evidence(backup, moves, erasures)
    finally:
        demo.close()
    if evidence_file is not None:
        evidence_file.write_text(json.dumps(evidence.as_dict(), indent=2) + "\n", encoding="utf-8")
    return evidence
