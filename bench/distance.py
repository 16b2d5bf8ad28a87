"""A move to a cell that is far away and back: copy, hold and rollback at several round-trip times.

usage: python -m bench.distance [--rtt-ms 0,20,80] [--rate-mb 12.5] [--switches 6]

Tenure, the gateway and the source cell are in one place, the target cell in another. Everything that crosses the
distance goes through relays (`bench.wan`) with half of the round trip's delay each way and the bandwidth given:
Tenure's connections to the far PostgreSQL, Valkey and S3, and the replication between the two PostgreSQL servers.
The load is the sample app's, through the gateway. Exits with 1 if anything was lost or failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench.switch import LOAD_RATE, STEADY_MIX, summary, switch
from rag_app.local import CORE, RagApp
from tenure.estate.local import cells
from tenure.estate.local.running import down
from tenure.model.names import CellName
from tenure.model.operation import Step
from tenure.wiring import open_service
from tests.estate import TestEstate

NEAR, FAR = CellName("blue"), CellName("green")


@contextmanager
def relays(addresses: list[str], *, rtt_ms: float, rate_mb: float) -> Iterator[list[int]]:
    """Ports that lead to these addresses across the distance."""
    command = [sys.executable, "-m", "bench.wan", "--delay-ms", str(rtt_ms / 2), "--rate-mb", str(rate_mb)]
    with subprocess.Popen(
        [*command, *addresses], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.communicate()


def address_of_dsn(dsn: str) -> str:
    given = conninfo_to_dict(dsn)
    return f"{given['host']}:{given['port']}"


def far_estate(local: cells.LocalCells, ports: list[int]) -> Path:
    """A `tenure.yaml` beside the estate's own in which the far cell is reached through the relays."""
    near_db, far_db, far_redis, far_s3 = ports
    document: dict[str, Any] = yaml.safe_load(local.estate_file.read_text(encoding="utf-8"))
    secrets = local.estate_file.parent / "etc" / "secrets"

    def secret(name: str, value: str) -> dict[str, str]:
        path = secrets / f"far-{name}"
        path.touch(mode=0o600)
        path.write_text(value, encoding="utf-8")
        return {"file": f"etc/secrets/{path.name}"}

    near, far = (document["cells"][name]["stores"] for name in (NEAR, FAR))
    access = local.cells[FAR]
    through = make_conninfo(access.dsn, host="127.0.0.1", port=far_db)
    near["postgres"]["dsn_from_cells"] = secret(
        "near-postgres", make_conninfo(local.cells[NEAR].dsn, host="127.0.0.1", port=near_db)
    )
    far["postgres"]["dsn"] = secret("postgres", through)
    url = urlsplit(access.redis_url)
    login = url.netloc.rpartition("@")[0]
    far["redis"]["url"] = secret("redis", url._replace(netloc=f"{login}@127.0.0.1:{far_redis}").geturl())
    far["objects"]["endpoint"] = f"http://127.0.0.1:{far_s3}"
    path = local.estate_file.with_name("far.yaml")
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def durations(steps: Sequence[Step]) -> dict[str, float]:
    """Seconds of each step."""
    return {
        s.name: round((s.finished_at - s.started_at).total_seconds(), 2)
        for s in steps
        if s.finished_at is not None and s.started_at is not None
    }


def measured(rtt_ms: float, rate_mb: float, switches: int) -> Mapping[str, Any]:
    """One estate, one tenant: the first copy, and so many switches there and back, under load."""
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    app = RagApp(catalogue=CORE)  # the stores that `far_estate` knows how to move far away
    local = cells.start(folder, app, owner=True)
    try:
        estate = TestEstate(local=local, app=app)
        estate.migrate_registry()
        tenant = "bench-moving"
        estate.add_tenant(tenant)
        access = local.cells[FAR]
        addresses = [
            address_of_dsn(local.cells[NEAR].dsn),
            address_of_dsn(access.dsn),
            urlsplit(access.redis_url).netloc.rpartition("@")[2],
            urlsplit(access.endpoint).netloc,
        ]
        with relays(addresses, rtt_ms=rtt_ms, rate_mb=rate_mb) as ports:
            service = open_service(far_estate(local, ports))
            holds: dict[str, list[float]] = {"there": [], "back": []}
            parts: dict[str, list[float]] = {}
            with estate.load(tenant, folder=folder, rate=LOAD_RATE, mix=STEADY_MIX["core"]) as load:
                for number in range(switches):
                    operation = switch(service, number)
                    result = dict(operation.result or {})
                    holds["back" if number % 2 else "there"].append(result["hold_ms"])
                    for name, ms in result["timing_ms"].items():
                        parts.setdefault(name, []).append(ms)
                    if number == 0:
                        took = durations(service.operation(operation.id)[1])
                stats = load.stats()
                report = estate.lost(load)
            service.close()
    finally:
        local.running.close()
        down(folder, remove=True)
    return {
        "rtt_ms": rtt_ms,
        "first_move_s": took,
        "hold_ms": {way: summary(values) for way, values in holds.items()},
        "parts_p50_ms": {name: summary(values)["p50"] for name, values in parts.items()},
        "requests": stats.requests,
        "requests_failed": stats.failed,
        "acked_writes_lost": len(report.lost),
        "stale_reads": len(report.stale),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rtt-ms", default="0,20,80")
    parser.add_argument("--rate-mb", type=float, default=12.5)
    parser.add_argument("--switches", type=int, default=6)
    arguments = parser.parse_args()
    rows = [
        measured(float(rtt), arguments.rate_mb, arguments.switches) for rtt in arguments.rtt_ms.split(",")
    ]
    print(json.dumps({"rate_mb_per_s": arguments.rate_mb, "distances": rows}, indent=2))
    return 1 if any(r["requests_failed"] or r["acked_writes_lost"] or r["stale_reads"] for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
