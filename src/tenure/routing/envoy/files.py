"""Files that several processes share: replaced as a whole, or not at all."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenure.errors import DeadlineExceeded, StoreUnavailable

_LOCK_POLL_S = 0.005


def replace_file(path: Path, text: str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Put `text` at `path` atomically: readers see the old file or the new one. Raises `OSError`.

    Only one writer at a time: callers hold a lock, or are the only process that writes there.

    With `durable` it also survives a power cut from here on; without, only the death of this process.
    """
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        if durable:
            os.fsync(descriptor)
    os.replace(new, path)
    if durable:
        _sync(path.parent)


def sync_file(path: Path) -> None:
    """Make what is at `path` now survive a power cut. Raises `OSError`."""
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold the lock file across threads and processes; the kernel frees it when the process dies.

    Raises `DeadlineExceeded` if somebody else holds it for that long.
    """
    deadline = time.monotonic() + timeout_s
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreUnavailable(
            f"cannot open {path}: {error.strerror}", hint="does the gateway's config_dir exist?"
        ) from error
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DeadlineExceeded(
                        f"{path} stayed locked for {timeout_s:g} s",
                        hint="another route change is under way: try again",
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)
