"""A worker one of whose processes is struck at a named point: `worker CONFIG POINT [--concurrency N]`. See `killed`.

Who takes the step over is spared.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tenure.engine.observer import Notice, StepStarted
from tenure.estate.config import load_estate
from tenure.wiring import open_registry, open_service
from tenure.worker import process
from tests.faults.killed import Killer


class KillerOfTheFirst(Killer):
    _spares = False

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, StepStarted):
            self._spares = notice.taken_over
        if not self._spares:
            super().__call__(notice)


def main() -> int:
    config, point = Path(sys.argv[1]), sys.argv[2]
    concurrency = int(sys.argv[sys.argv.index("--concurrency") + 1]) if "--concurrency" in sys.argv else 1
    estate = load_estate(config)
    registry = open_registry(estate)
    return process.run(
        estate,
        registry,
        lambda stopping: open_service(config, stopping=stopping),
        concurrency=concurrency,
        observer=KillerOfTheFirst(config, point),
    )


if __name__ == "__main__":
    sys.exit(main())
