"""The fleet of a local estate: a broker of its own, workers and a scheduler under the estate's supervisor like all
servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tenure.estate.local.running import RunningEstate
from tenure.estate.local.spec import CommandServer, ValkeyServer

BROKER: Final = ValkeyServer(name="broker")
"""A server of its own: the cells' Valkeys hold tenants' data, and stopping a cell must not stop the fleet."""
STOP_WITHIN_S: Final = 15.0
"""How long a worker may take to give back what it is at: longer than a hold."""


def fleet_document(broker: dict[str, str]) -> dict[str, Any]:
    """The block `fleet` of the estate's `tenure.yaml`; `broker` says where the broker's URL is."""
    return {"broker": broker}


def start_workers(running: RunningEstate, estate_file: Path, count: int) -> None:
    """Start that many workers, which serve every queue. The control database must have its schema."""
    for number in range(1, count + 1):
        running.add(_process(f"worker-{number}", estate_file, "worker"))


def start_scheduler(running: RunningEstate, estate_file: Path) -> None:
    """Start the scheduler. The control database must have its schema."""
    running.add(_process("scheduler", estate_file, "scheduler"))


def _process(name: str, estate_file: Path, *command: str) -> CommandServer:
    """A process of the fleet. It runs as whoever started the estate: it reads the estate's secrets."""
    return CommandServer(
        name=name,
        argv=("${python}", "-m", "tenure.cli.main", "--config", str(estate_file), *command),
        ports={},
        ready="",
        account="own",
        stop_within_s=STOP_WITHIN_S,
    )
