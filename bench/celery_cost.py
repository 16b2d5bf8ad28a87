"""What the engine costs through Celery, beside bare Celery tasks on the same app, broker and worker.

usage: python -m bench.celery_cost [--rounds 5] [--messages 40] [--steps 20]

A worker of one process, the fleet's own app and settings on a Valkey of its own; in turn: messages whose task does
nothing, messages for operations of one empty step, and messages for operations of many. Prints milliseconds per
message and per step, and the ratios to a bare task.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.exceptions import SecurityWarning

from bench.engine import empty, spread
from rag_app.local import CORE, RagApp
from tenure.engine.engine import Engine
from tenure.estate.config import load_estate
from tenure.estate.local import cells
from tenure.estate.local.running import down
from tenure.operations.queues import queues_for
from tenure.wiring import open_registry
from tenure.worker.app import make_app
from tenure.worker.dispatcher import TASK

BARE: Final = "bench.bare"
DEADLINE_S: Final = 300.0


class Done:
    """Counts what a worker has done: a byte in a file for each message."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def one(self) -> None:
        with self._path.open("ab") as file:
            file.write(b".")

    def wait(self, number: int) -> None:
        """Until there are so many of them; then begin anew."""
        deadline = time.monotonic() + DEADLINE_S
        while self._path.stat().st_size < number:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {self._path.stat().st_size} of {number} messages were handled")
            time.sleep(0.001)
        os.truncate(self._path, 0)


def serve(estate_file: Path, done: Done) -> None:
    """The worker: operations of so many empty steps, and bare tasks."""
    estate = load_estate(estate_file)
    app = make_app(estate)
    engines: list[Engine] = []

    def look_at(operation: str, number: int) -> None:
        if not engines:
            engines.append(Engine(open_registry(estate), actor="bench"))
        engines[0].run(operation, empty(number))
        done.one()

    warnings.simplefilter("ignore", SecurityWarning)  # it is about messages that run code; ours are JSON
    app.task(name=TASK, max_retries=0)(look_at)
    app.task(name=BARE, max_retries=0)(done.one)
    worker: Any = app.Worker(
        pool_cls="prefork",
        concurrency=1,
        queues=list(queues_for(estate)),
        optimization="fair",
        loglevel="ERROR",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()


@contextmanager
def estate_with_worker() -> Iterator[tuple[Path, Done]]:
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    local = cells.start(folder, RagApp(catalogue=CORE), owner=True, fleet=True)
    try:
        registry = open_registry(load_estate(local.estate_file))
        registry.migrate()
        registry.close()
        counted = folder / "done"
        worker = subprocess.Popen(
            [sys.executable, "-m", "bench.celery_cost", "--serve", str(local.estate_file), str(counted)],
        )
        try:
            yield local.estate_file, Done(counted)
        finally:
            worker.terminate()
            worker.wait(timeout=60)
    finally:
        local.running.close()
        down(folder, remove=True)


def measure(estate_file: Path, done: Done, rounds: int, messages: int, steps: int) -> dict[str, Any]:
    estate = load_estate(estate_file)
    app: Celery = make_app(estate)
    registry = open_registry(estate)
    engine = Engine(registry, actor="bench")
    queue = queues_for(estate)[0]

    def bare() -> float:
        began = time.perf_counter()
        for _ in range(messages):
            app.send_task(BARE, queue=queue, ignore_result=True)
        done.wait(messages)
        return (time.perf_counter() - began) * 1000 / messages

    def operations(of_steps: int) -> float:
        made = [engine.create(empty(of_steps), tenant=None).id for _ in range(messages)]
        began = time.perf_counter()
        for operation in made:
            app.send_task(TASK, args=[operation, of_steps], queue=queue, ignore_result=True)
        done.wait(messages)
        return (time.perf_counter() - began) * 1000 / messages

    try:
        bare()
        operations(1)
        took: dict[str, list[float]] = {"bare": [], "one": [], "many": []}
        for _ in range(rounds):
            took["bare"].append(bare())
            took["one"].append(operations(1))
            took["many"].append(operations(steps) / steps)
    finally:
        registry.close()
        app.close()
    ratios = [one / task for one, task in zip(took["one"], took["bare"], strict=True)]
    per_step = [many / task for many, task in zip(took["many"], took["bare"], strict=True)]
    return {
        "bare_task_ms": spread(took["bare"]),
        "operation_of_one_step_ms": spread(took["one"]),
        "step_of_many_ms": spread(took["many"]),
        "operation_of_one_step_to_bare_task": spread(ratios),
        "step_of_many_to_bare_task": spread(per_step),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.celery_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--serve", nargs=2, type=Path, metavar=("ESTATE", "DONE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        estate_file, counted = arguments.serve
        serve(estate_file, Done(counted))
        return 0
    with estate_with_worker() as (estate_file, done):
        report = measure(estate_file, done, arguments.rounds, arguments.messages, arguments.steps)
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
