"""Runs Python modules in processes of their own that start at once, from an interpreter that has imported them before.

To what runs it is `python -m MODULE ARGS`: its own process, folder, environment, output, exit code and signals.
Importing what Tenure needs takes as much of a processor as many of the commands that the tests run.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NoReturn

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        "tenure.cli.main",
        "tenure.wiring.pinecone",
        "tenure.worker.process",
        "tests.faults.worker",
        "tests.warm",
    ]
)


class WarmProcess:
    """One that has been started; as `subprocess.Popen` has it."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired([self._process.name], timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    module: str,
    args: Sequence[str],
    *,
    out: Path,
    err: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    session: bool = False,
) -> WarmProcess:
    """Start `main` of the module. What it says is added to `out` and `err`; `env` to this process's environment.

    With `session` it leads a session of its own.
    """
    given = (module, tuple(args), {**os.environ, **(env or {})}, cwd or Path.cwd(), out, err, session)
    process = _processes.Process(target=_run, args=given, name=module)
    process.start()
    return WarmProcess(process)


def run(
    module: str,
    args: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `main` of the module. Raises `subprocess.TimeoutExpired`, and has killed it then."""
    with tempfile.TemporaryDirectory(prefix="tenure-warm-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = start(module, args, out=out, err=err, env=env, cwd=cwd)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise subprocess.TimeoutExpired(
                [module, *args], timeout_s, out.read_bytes(), err.read_bytes()
            ) from error
        return subprocess.CompletedProcess(
            [module, *args], code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        )


def _run(
    module: str,
    args: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    out: Path,
    err: Path,
    session: bool,
) -> NoReturn:
    if session:
        os.setsid()
    # Whoever runs the tests in a shell's background has Ctrl-C ignored, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, fd in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, fd)
        os.close(opened)
    faulthandler.enable(2)  # a crash says in which thread and line
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *args]
    sys.exit(importlib.import_module(module).main())
