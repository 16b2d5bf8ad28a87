"""Who holds a lease: one process of one host, named so that others on the host can see that it is gone.

The text is `host.boot.namespace:pid:starttime`. Boot and process namespace are part of it because a process
id says nothing about another container of the same host name or about the time before a reboot.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from typing import Final

_STATE: Final = 0
_STARTTIME: Final = 19
"""Fields of /proc/PID/stat after the command's name: proc(5), fields 3 and 22."""


@cache
def _host() -> str:
    name = socket.gethostname().replace(":", "-")
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return name
    return f"{name}.{boot}.{namespace}"


def this_process() -> str:
    """Name this process as a holder. Differs after a fork."""
    pid = os.getpid()
    return f"{_host()}:{pid}:{_start_time(pid) or 0}"


def is_gone(holder: str | None) -> bool:
    """Say whether the holder has certainly ended: a process of this very host that is there no more.

    False for holders elsewhere, and wherever it cannot be known: then only the end of the lease tells.
    """
    if holder is None or holder.count(":") != 2:
        return False
    host, pid, started = holder.split(":")
    if host != _host() or not pid.isdecimal() or not started.isdecimal() or started == "0":
        return False
    if not Path("/proc/self/stat").exists():
        return False
    return _start_time(int(pid)) != int(started)


def _start_time(pid: int) -> int | None:
    """Give the start of a living process in ticks since boot; None if there is none, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[_STATE] in {"Z", "X"} else int(fields[_STARTTIME])
