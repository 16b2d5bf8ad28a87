"""Runs Python modules in processes of their own that start at once, from an interpreter that has imported them before.

To what runs it is `python -m MODULE ARGS`: its own process, folder, environment, output, exit code and signals.
Importing what Tenure needs takes as much of a processor as many of the commands that the tests run.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["tenure.cli.main", "tenure.wiring.pinecone", "tests.faults.killed", "tests.warm"]
)


def run(
    module: str,
    args: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `main` of the module; `env` is added to this process's environment. Killed by a signal, it has its negative
    number as exit code. Raises `subprocess.TimeoutExpired`, and has killed it then."""
    with tempfile.TemporaryDirectory(prefix="tenure-warm-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _processes.Process(
            target=_run,
            args=(module, tuple(args), {**os.environ, **(env or {})}, cwd or Path.cwd(), out, err),
        )
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([module, *args], timeout_s, out.read_bytes(), err.read_bytes())
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(
            [module, *args], code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        )


def _run(
    module: str, args: Sequence[str], env: Mapping[str, str], cwd: Path, out: Path, err: Path
) -> NoReturn:
    for path, fd in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, fd)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *args]
    sys.exit(importlib.import_module(module).main())
