"""`tenure scheduler` as a process of its own, and what it has told so far."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class SchedulerUnderTest:
    """A started scheduler. `told` holds the documents it has printed."""

    def __init__(self, config: Path) -> None:
        argv = [sys.executable, "-m", "tenure.cli.main", "-c", str(config), "--quiet", "scheduler", "--json"]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ}
        )
        self.told: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.told.append(json.loads(line))
            else:
                self.noise.append(line)

    def wait_for(self, action: str, *, deadline_s: float = 60.0, **given: Any) -> dict[str, Any]:
        """The first thing told of that action with these values, that nobody has waited for before."""
        deadline = time.monotonic() + deadline_s
        while True:
            for document in list(self.told):
                if document["action"] == action and given.items() <= document.items():
                    self.told.remove(document)
                    return document
            running = self.process.poll() is None
            assert running, f"it ended: {self.told} {''.join(self.noise)}"
            assert time.monotonic() < deadline, (
                f"not told within {deadline_s} s: {action} {given}; {self.told}"
            )
            time.sleep(0.02)

    def end(self, *, deadline_s: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=deadline_s)
        self._reader.join(timeout=10)
        return code


@contextmanager
def scheduler(config: Path) -> Iterator[SchedulerUnderTest]:
    """Start one; it is gone at the end of the block."""
    started = SchedulerUnderTest(config)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()
        started._reader.join(timeout=10)
        assert started.process.stdout is not None
        started.process.stdout.close()
