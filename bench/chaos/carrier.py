"""Runs the real command line in processes of its own, and strikes them."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.chaos.journal import Journal
from bench.chaos.schedule import Command
from tests.estate import TestEstate

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 300.0
"""The longest that any command may take: the engine waits 60 s for a control database, more than once."""
_POLL_S: Final = 0.05
_DEFECTS: Final = ("Traceback (most recent call last)", "unexpected error")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """`exit_code` is -9 for a process that was killed."""

    exit_code: int
    stdout: str
    stderr: str


class Carrier:
    """One process that carries a command out, with its output in a file."""

    def __init__(
        self, estate: TestEstate, journal: Journal, args: tuple[str, ...], *, point: str | None
    ) -> None:
        self._journal = journal
        self.args = args
        module = ["tenure.cli.main", "--config", str(estate.config), "--quiet", *args]
        if point is not None:
            module = ["tests.faults.killed", str(estate.config), point, *_without_options(args)]
        self._point = point
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *module],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is for the run, which ends its processes in its own way
        )

    def wait(self, limit_s: float = LIMIT_S) -> Ended | None:
        """The end of the process, or None if it goes on after that time."""
        try:
            stdout, stderr = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return None
        return self._ended(stdout, stderr)

    def finish(self) -> Ended:
        """Wait for the end. A process that does not come to one is a violation."""
        ended = self.wait()
        if ended is not None:
            return ended
        self._journal.violation(f"{self._what} did not end in {LIMIT_S:.0f} s")
        return self.kill()

    def wait_until_stopped(self) -> Ended | None:
        """None when it has stopped itself; its end if it came to that first."""
        while not self._stopped():
            if (ended := self.wait(_POLL_S)) is not None:
                return ended
            if time.monotonic() - self._began > LIMIT_S:
                return self.finish()
        return None

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> Ended:
        self._process.kill()
        stdout, stderr = self._process.communicate()
        return self._ended(stdout, stderr)

    @property
    def _what(self) -> str:
        return " ".join(self.args) + (f" (at {self._point})" if self._point else "")

    def _stopped(self) -> bool:
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text("utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rsplit(")", 1)[1].split()[0] == "T"

    def _ended(self, stdout: str, stderr: str) -> Ended:
        code = self._process.returncode
        self._journal.note(
            "command",
            args=self._what,
            code=code,
            seconds=round(time.monotonic() - self._began, 1),
            stderr=stderr.strip(),
            stdout=stdout.strip() if code not in (0, -signal.SIGKILL) else "",
        )
        self._journal.count("commands", f"{' '.join(a for a in self.args if a in _WORDS)} -> {code}")
        if any(sign in stdout + stderr for sign in _DEFECTS):
            self._journal.violation(f"a defect in {self._what}: {stderr[-2000:] or stdout[-2000:]}")
        return Ended(exit_code=code, stdout=stdout, stderr=stderr)


_WORDS: Final = frozenset({*Command, "op", "resume", "cancel", "confirm", "drift"})


def _without_options(args: tuple[str, ...]) -> tuple[str, ...]:
    """As `tests.faults.killed` takes a command: `migrate TENANT CELL`, `rehearse TENANT`."""
    command, tenant, *rest = args
    if "--rehearse" in rest:
        return "rehearse", tenant
    return (
        command,
        tenant,
        *(cell for option, cell in itertools.pairwise(rest) if option == "--to"),
    )


def run(estate: TestEstate, journal: Journal, *args: str) -> Ended:
    """Run a command to its end."""
    return Carrier(estate, journal, args, point=None).finish()
