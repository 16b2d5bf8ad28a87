"""The process that runs an estate's servers: `python -m tenure.estate.local.supervisor FOLDER`.

It is two processes. The keeper adopts every orphan below it and ends them all when the supervisor has ended,
however it ended; the supervisor starts the servers, watches them, and does what it is asked over the control
socket until it is told to stop, or until its owner's end of the pipe closes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from tenure.errors import TenureError
from tenure.estate.local import processes
from tenure.estate.local.layout import Folder, write
from tenure.estate.local.leftovers import end_leftovers
from tenure.estate.local.processes import Identity
from tenure.estate.local.report import Report
from tenure.estate.local.spec import EstateSpec, load
from tenure.estate.local.supervision import Supervisor

ORPHANS_GRACE_S: Final = 5.0
ORPHANS_GIVEN_UP_S: Final = 15.0
LOCK_WITHIN_S: Final = 1.0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tenure.estate.local.supervisor")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--owned", action="store_true", help="stop when standard input ends")
    parser.add_argument(
        "--new-spec", action="store_true", help="the first line of standard input is the spec"
    )
    options = parser.parse_args(arguments)
    folder = Folder(options.folder.resolve())
    text = _first_line() if options.new_spec else folder.spec.read_text()
    owner = os.getppid() if options.owned else None
    if owner is None and os.fork() != 0:
        return 0  # the keeper belongs to init
    report = Report()
    try:
        spec = load(folder.path, text)
        folder.take_lock(deadline_s=LOCK_WITHIN_S)
        end_leftovers(folder)
        write(folder.spec, text, mode=0o600)
    except TenureError as error:
        report.failed(error)
        return 1
    processes.become_reaper()
    keeper = processes.identity(os.getpid())
    assert keeper is not None
    child = os.fork()
    if child == 0:
        processes.end_with_parent(keeper.pid, signal.SIGTERM)
        return _supervise(spec, keeper, owner=owner, report=report)
    return _keep(child)


def _supervise(spec: EstateSpec, keeper: Identity, *, owner: int | None, report: Report) -> int:
    async def run() -> None:
        await Supervisor(spec, keeper).run(owner=owner, report=report)

    try:
        asyncio.run(run())
    except TenureError as error:
        report.failed(error)
        return 1
    return 0


def _keep(supervisor: int) -> int:
    """Wait for the supervisor, bury orphans, and end everything below once the supervisor is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(supervisor, number))
    for descriptor in (0, 1):
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, descriptor)
        os.close(nothing)
    status = _wait_for(supervisor)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    began = time.monotonic()
    while (left := processes.children()) and time.monotonic() < began + ORPHANS_GIVEN_UP_S:
        if time.monotonic() > began + ORPHANS_GRACE_S:
            for orphan in left:
                orphan.send(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(processes.POLL_S)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _wait_for(child: int) -> int:
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            return status


def _first_line() -> str:
    """One line of standard input, and not a byte more: the rest is the owner's pipe."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line.decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
