"""The data folder of one PostgreSQL on a file system of its own, small enough to be filled."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tenure.estate.local import RunningEstate

SPARE_MB: Final = 96
_MEGABYTE: Final = bytes(1_000_000)


@dataclass(frozen=True, kw_only=True)
class SmallDisk:
    """What lies in `folder` shares its file system with nothing else."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Take every free block, also those that come free while it does."""
        with self._ballast.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(_MEGABYTE)
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
                    return

    def free(self) -> None:
        """Give the room back. Harmless when it was not taken."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk_of(running: RunningEstate, server: str) -> Iterator[SmallDisk]:
    """Move the server's data to a file system with `SPARE_MB` to spare, and back at the end. The server is restarted
    for both; others connect to it anew."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    data = running.endpoint(server).folder / "data"
    aside = data.with_name("data.aside")
    running.stop(server)
    owner = data.stat()
    used_mb = sum(p.stat().st_blocks for p in data.rglob("*") if p.is_file()) * 512 // 1_000_000
    options = f"size={used_mb + SPARE_MB}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    data.rename(aside)
    data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tenure-small", str(data)], capture_output=True, check=False
    )
    if mounted.returncode:
        data.rmdir()
        aside.rename(data)
        running.start(server)
        pytest.skip(f"needs to be allowed to mount a small file system: {mounted.stderr.decode().strip()}")
    _move(aside, data)
    running.start(server)
    disk = SmallDisk(folder=data)
    try:
        yield disk
    finally:
        disk.free()
        running.stop(server)
        fresh = data.with_name("data.back")
        shutil.rmtree(aside)
        fresh.mkdir(mode=0o700)
        os.chown(fresh, owner.st_uid, owner.st_gid)
        _move(data, fresh)
        subprocess.run(["umount", str(data)], check=True)
        data.rmdir()
        fresh.rename(data)
        running.start(server)


def _move(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", f"{target}/"], check=True)
