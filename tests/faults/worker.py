"""A worker one of whose processes kills itself at a named point, once: `worker CONFIG POINT`. See `killed`."""

from __future__ import annotations

import sys
from pathlib import Path

from tenure.estate.config import load_estate
from tenure.wiring import open_registry, open_service
from tenure.worker import process
from tests.faults.killed import Killer


def main() -> int:
    config, point = Path(sys.argv[1]), sys.argv[2]
    estate = load_estate(config)
    registry = open_registry(estate)
    return process.run(
        estate,
        registry,
        lambda stopping: open_service(config, stopping=stopping),
        concurrency=1,
        observer=Killer(point),
    )


if __name__ == "__main__":
    sys.exit(main())
