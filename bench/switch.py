"""Switches a tenant back and forth between two cells under load, beside the floor of the same run.

usage: python -m bench.switch [--switches 50] [--stores core|all]

The sample app uses PostgreSQL, pgvector, Redis and S3 (`core`), or every store that it can (`all`): then Pinecone's
stand-in and moto, which serve everybody from one process each, take part in what is measured.

Prints the hold's p50, p99 and maximum, those of the floor (PostgreSQL's fence, mark and open alone, between the same
servers, in turn with the switches), their ratio, what the load saw (requests, failures, lost writes), and what a
neighbour's users waited for their answers during the moves, beside calm times before and after them. Exits with 1 if
anything was lost or failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rag_app.history import History, Op
from rag_app.load import CORE_MIX, DEFAULT_MIX
from rag_app.local import ALL, CORE, RagApp
from tenure.engine.observer import nobody
from tenure.estate.config import load_estate
from tenure.estate.local import cells
from tenure.estate.local.running import down
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.operation import Operation, OperationState
from tenure.operations.observe import link_name
from tenure.service import Service
from tenure.stores.contract import Fence, LiveCopy
from tenure.wiring import Stores, open_registry, open_service
from tests.estate import TestEstate

TENANT = "bench-moving"
BESIDE = "bench-floor"
NEIGHBOUR = "bench-neighbour"
LOAD_RATE = 90.0
"""Requests a second: half of them the moving tenant's, half the neighbour's."""
CALM_BESIDE_S = 20.0
"""How long the neighbour is watched before the first move and after the last one."""
CATALOGUES = {"core": CORE, "all": ALL}
STEADY_MIX = {
    name: {**mix, Op.DELETE: mix[Op.CREATE]} for name, mix in (("core", CORE_MIX), ("all", DEFAULT_MIX))
}
"""As much is deleted as is created: the last switch of a run has as much to compare as the first."""
CALM_S = 0.5
"""The pause before each measurement of the floor, so that it does not pay for what the switch before it did."""


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "p50": round(median(values), 2),
        "p99": round(percentile(values, 0.99), 2),
        "max": round(max(values), 2),
    }


class Floor:
    """PostgreSQL's part of a switch alone: fence, mark, wait for the mark, open on the other side."""

    def __init__(self, estate: TestEstate) -> None:
        config = load_estate(estate.config)
        self._registry = open_registry(config)
        self._stores = Stores(config, self._registry.mutex)
        self._token = 10_000_000
        blue, green = CellName("blue"), CellName("green")
        tenant = TenantId(BESIDE)
        name = StoreName("postgres")
        link = link_name(tenant, blue, green)
        forward = self._stores.copy(link, name, tenant, blue, green)
        fence = Fence(tenant=tenant, epoch=1, token=self._token)
        forward.target.fence(fence, expires_in_s=None, drain_s=5)
        forward.start(fence)
        deadline = time.monotonic() + 60
        while not forward.progress().following:
            if time.monotonic() > deadline:
                raise SystemExit("the floor's copy did not catch up")
            time.sleep(0.1)
        self._ways: list[LiveCopy] = [forward, forward.arm_reverse(fence)]

    def switch_ms(self) -> float:
        copy = self._ways[0]
        self._token += 1
        fence = Fence(tenant=TenantId(BESIDE), epoch=1, token=self._token)
        began = time.perf_counter()
        copy.source.fence(fence, expires_in_s=5, drain_s=2)
        copy.seal(copy.mark(), timeout_s=5)
        copy.target.open(fence)
        took = (time.perf_counter() - began) * 1000
        copy.source.fence(fence, expires_in_s=None, drain_s=2)
        self._ways.reverse()
        return took

    def close(self) -> None:
        self._token += 1
        fence = Fence(tenant=TenantId(BESIDE), epoch=1, token=self._token)
        for copy in self._ways:
            copy.stop(fence)
        self._stores.close()
        self._registry.close()


def neighbours(history: History, moves: tuple[float, float]) -> dict[str, object]:
    """What the neighbour's users waited, in milliseconds, in the calm before, during the moves, in the calm after."""
    began, ended = moves
    windows = {
        "before": (began - CALM_BESIDE_S, began),
        "during": moves,
        "after": (ended, ended + CALM_BESIDE_S),
    }
    seen = {name: history.latency(*window, NEIGHBOUR) for name, window in windows.items()}
    found: dict[str, object] = {
        name: {
            "n": s.requests,
            "failed": s.failed,
            "p50_ms": round(s.p50_ms, 2),
            "p99_ms": round(s.p99_ms, 2),
        }
        for name, s in seen.items()
    }
    before, during, after = seen["before"], seen["during"], seen["after"]
    found["during_to_before"] = {
        "p50": round(during.p50_ms / before.p50_ms, 2),
        "p99": round(during.p99_ms / before.p99_ms, 2),
    }
    found["noise_after_to_before"] = {
        "p50": round(after.p50_ms / before.p50_ms, 2),
        "p99": round(after.p99_ms / before.p99_ms, 2),
    }
    return found


def switch(service: Service, number: int) -> Operation:
    if number % 2 == 0:
        operation = service.migrate(TENANT, "green", apply=None, observer=nobody)
    else:
        operation = service.rollback(TENANT, apply=None, observer=nobody)
    if operation.state not in (OperationState.SOAKING, OperationState.SUCCEEDED):
        raise SystemExit(f"switch {number}: {operation.state} {operation.error}")
    return operation


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--switches", type=int, default=50)
    parser.add_argument("--stores", choices=sorted(CATALOGUES), default="core")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    app = RagApp(catalogue=CATALOGUES[arguments.stores])
    local = cells.start(folder, app, owner=True)
    try:
        estate = TestEstate(local=local, app=app)
        estate.migrate_registry()
        estate.add_tenant(TENANT)
        estate.add_tenant(BESIDE)
        estate.add_tenant(NEIGHBOUR)
        service = open_service(estate.config)
        floor = Floor(estate)
        forward: list[float] = []
        back: list[float] = []
        floors: list[float] = []
        parts: dict[str, list[float]] = {}
        mix = STEADY_MIX[arguments.stores]
        with estate.load(TENANT, NEIGHBOUR, folder=folder, rate=LOAD_RATE, mix=mix) as load:
            time.sleep(CALM_BESIDE_S)
            began = time.time()
            for number in range(arguments.switches):
                operation = switch(service, number)
                result = dict(operation.result or {})
                (forward if number % 2 == 0 else back).append(result["hold_ms"])
                for name, ms in result["timing_ms"].items():
                    parts.setdefault(name, []).append(ms)
                for part, stores in result["stores_ms"].items():
                    for name, ms in stores.items():
                        parts.setdefault(f"{part} {name}", []).append(ms)
                time.sleep(CALM_S)
                floors.append(floor.switch_ms())
                sys.stderr.write(
                    f"\r{number + 1} of {arguments.switches}: "
                    f"hold {result['hold_ms']:.1f} ms, floor {floors[-1]:.1f} ms "
                )
            sys.stderr.write("\n")
            moves = (began, time.time())
            floor.close()
            service.complete(TENANT, apply=None, observer=nobody)
            time.sleep(CALM_BESIDE_S)
            stats = load.stats()
            report = estate.lost(load)
        beside_ms = neighbours(History.load(folder / "load.jsonl"), moves)
        service.close()
    finally:
        local.running.close()
        down(folder, remove=True)
    hold, beside = summary([*forward, *back]), summary(floors)
    print(
        json.dumps(
            {
                "switches": arguments.switches,
                "stores": arguments.stores,
                "hold_ms": hold,
                "floor_ms": beside,
                "hold_to_floor": {k: round(hold[k] / beside[k], 2) for k in ("p50", "p99", "max")},
                "forward_ms": summary(forward),
                "rollback_ms": summary(back) if back else None,
                "parts_p50_ms": {name: round(median(values), 2) for name, values in parts.items()},
                "requests": stats.requests,
                "requests_failed": stats.failed,
                "acked_writes": stats.writes_acked,
                "acked_writes_lost": len(report.lost),
                "stale_reads": len(report.stale),
                "neighbour": beside_ms,
            },
            indent=2,
        )
    )
    return 1 if stats.failed or report.lost or report.stale else 0


if __name__ == "__main__":
    sys.exit(main())
