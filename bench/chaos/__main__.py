"""Moves several tenants under load while everything fails, by a seed; then looks for every promise that was not kept.

usage: python -m bench.chaos [--seconds 600] [--seed 1] [--tenants 3] [--rate 40] [--workers 2] [--stores core|all]
       [--evidence FOLDER]

Random migrations, rollbacks, completions and cancels through the real command line; their processes are killed or put
to sleep past their leases at named and at random points, and servers and networks fail meanwhile. The schedule is
printed first. Prints one JSON report and exits with 1 if anything was violated. Loopback only.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from bench.chaos.run import Settings, chaos
from bench.switch import CATALOGUES
from rag_app.local import RagApp
from tenure.estate.local import cells
from tenure.estate.local.running import down
from tests.estate import TestEstate


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, which is printed")
    parser.add_argument(
        "--tenants", type=int, default=3, help="that are moved; one more is under load and stays"
    )
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second over all tenants")
    parser.add_argument(
        "--no-outages", action="store_true", help="strike the commands alone, no server or network"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="have a fleet of so many workers and a scheduler, which fail as well",
    )
    parser.add_argument(
        "--stores", choices=sorted(CATALOGUES), default="core", help="those that the sample app uses"
    )
    parser.add_argument(
        "--evidence", type=Path, default=None, help="keep the history and what was done in this folder"
    )
    arguments = parser.parse_args()
    settings = Settings(
        seed=random.SystemRandom().randrange(2**31) if arguments.seed is None else arguments.seed,
        seconds=arguments.seconds,
        tenants=arguments.tenants,
        rate=arguments.rate,
        outages=not arguments.no_outages,
        workers=arguments.workers,
    )
    evidence = arguments.evidence or Path(tempfile.mkdtemp(prefix="tenure-chaos-evidence-"))
    evidence.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tenure-chaos-"))
    folder.chmod(0o755)
    app = RagApp(catalogue=CATALOGUES[arguments.stores])
    local = cells.start(folder, app, owner=True, fleet=arguments.workers > 0)
    try:
        estate = TestEstate(local=local, app=app)
        estate.migrate_registry()
        report = chaos(estate, settings, evidence)
    finally:
        local.running.close()
        shutil.copytree(folder / "logs", evidence / "logs", dirs_exist_ok=True)
        down(folder, remove=True)
    print(json.dumps(report, indent=2, default=str))
    if report["violations"]:
        sys.stderr.write(
            f"seed {settings.seed}: {len(report['violations'])} violation(s); evidence in {evidence}\n"
        )
        return 1
    if arguments.evidence is None:
        shutil.rmtree(evidence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
