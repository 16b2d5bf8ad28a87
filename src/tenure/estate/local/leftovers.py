"""Ends what a killed supervisor may have left behind, and nothing else."""

from __future__ import annotations

import signal
from typing import Final

from tenure.errors import DeadlineExceeded
from tenure.estate.local.control import SOCKET
from tenure.estate.local.layout import Folder, read_json
from tenure.estate.local.processes import Identity, boot, end, identity_from_json, session_of
from tenure.estate.local.servers.seaweed import remove_sockets
from tenure.estate.local.spec import SeaweedServer

GRACE_S: Final = 8.0


def end_leftovers(folder: Folder) -> None:
    """End the recorded servers that still run, and what they started, and forget the record. Needs the
    folder's lock.

    A process is only touched if its number, its start time and this boot are the recorded ones, or if it is
    in such a process's session, and if besides it works in the data folder or was started for it: a number
    that the kernel has given to someone else is never signalled. Raises `DeadlineExceeded` if one does not
    end.
    """
    servers = read_json(folder.state).get("servers", {})
    left: dict[Identity, tuple[str, int]] = {}
    for name, server in servers.items():
        recorded = identity_from_json(server)
        if recorded is None or recorded.boot != boot():
            continue
        if recorded.alive and recorded.belongs_to(folder.path):
            left[recorded] = (name, int(server["death_signal"]))
        for process in session_of(recorded, folder.path):
            left.setdefault(process, (name, signal.SIGKILL))
    end([(process, number) for process, (_, number) in left.items()], grace_s=GRACE_S)
    staying = [f"{name} ({process.pid})" for process, (name, _) in left.items() if process.alive]
    if staying:
        raise DeadlineExceeded(f"left behind in {folder.path} and impossible to end: {', '.join(staying)}")
    for server in servers.values():
        if server["kind"] == SeaweedServer.kind:
            remove_sockets(server["ports"])
    folder.state.unlink(missing_ok=True)
    (folder.path / SOCKET).unlink(missing_ok=True)
