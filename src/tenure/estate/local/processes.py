"""Processes that end with their parent, and that can be told from strangers who got the same number later."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tenure.estate.local.accounts import Account

ESTATE_VARIABLE: Final = "TENURE_ESTATE_FOLDER"
POLL_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One process of this boot: the kernel never gives the same number and start time twice."""

    pid: int
    started: int
    boot: str

    def as_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "started": self.started, "boot": self.boot}

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return identity(self.pid) == self

    def send(self, number: int) -> None:
        """Send a signal to this very process; nothing happens if it is gone, or if the number is another's
        now."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor names one process for good; only now is it certain that it names the right one.
            if self.alive:
                signal.pidfd_send_signal(descriptor, number)
        except (ProcessLookupError, PermissionError):
            return  # whoever must know looks whether it is gone
        finally:
            os.close(descriptor)

    def belongs_to(self, folder: Path) -> bool:
        """Whether it works in the data folder, or was started for it."""
        proc = Path("/proc") / str(self.pid)
        with contextlib.suppress(OSError):
            if (proc / "cwd").readlink().is_relative_to(folder):
                return True
        with contextlib.suppress(OSError):
            return f"{ESTATE_VARIABLE}={folder}".encode() in (proc / "environ").read_bytes().split(b"\0")
        return False


def identity(pid: int) -> Identity | None:
    """The running process of that number; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = text.rpartition(")")[2].split()
    if state in "ZXx":
        return None
    # Field 22 of proc(5); the list begins with field 4.
    return Identity(pid=pid, started=int(fields[18]), boot=boot())


def identity_from_json(plain: Mapping[str, Any]) -> Identity | None:
    """What `Identity.as_json` gave; None for anything else."""
    try:
        return Identity(pid=int(plain["pid"]), started=int(plain["started"]), boot=str(plain["boot"]))
    except (KeyError, TypeError, ValueError):
        return None


def boot() -> str:
    """The kernel's name for the time since the machine started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def become_reaper() -> None:
    """Let orphaned descendants become children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when `parent` ends. To be called after the last change of
    user."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    account: Account,
    death_signal: int,
) -> subprocess.Popen[bytes]:
    """Start a program as `account` in its own session; it gets `death_signal` if this process ends, however
    it ends."""
    parent = os.getpid()

    def last_before_exec() -> None:
        end_with_parent(parent, death_signal)

    other = None if account.is_current else account
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=other.uid if other else None,
            group=other.gid if other else None,
            extra_groups=[] if other else None,
            umask=0o077,
            preexec_fn=last_before_exec,  # the supervisor has one thread  # noqa: PLW1509
        )


def end(processes: Sequence[tuple[Identity, int]], *, grace_s: float) -> None:
    """Send each process its signal, and SIGKILL to those that are still there after the grace."""
    for process, number in processes:
        process.send(number)
    if not wait_for_end([process for process, _ in processes], deadline_s=grace_s):
        for process, _ in processes:
            process.send(signal.SIGKILL)
        wait_for_end([process for process, _ in processes], deadline_s=5)


def wait_for_end(processes: Sequence[Identity], *, deadline_s: float) -> bool:
    """Wait until all have ended; False if some have not at the deadline."""
    deadline = time.monotonic() + deadline_s
    while any(process.alive for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def children() -> list[Identity]:
    """The running children of this process, among them adopted orphans."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += [identity(int(pid)) for pid in (task / "children").read_text().split()]
    return [child for child in found if child is not None]


def session_of(leader: Identity, folder: Path) -> list[Identity]:
    """The processes that a server has left in its session, of those that belong to the data folder.

    While one of them runs, the kernel gives the session's number to no other process: if another process has it now,
    none is left.
    """
    if identity(leader.pid) not in (None, leader):
        return []
    found = []
    for entry in Path("/proc").iterdir():
        process = identity(int(entry.name)) if entry.name.isdecimal() else None
        if process is None or process.started < leader.started:
            continue
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader.pid and process.belongs_to(folder):
                found.append(process)
    return found


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
