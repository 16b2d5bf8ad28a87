"""Where things lie in an estate's data folder, and how they are written: whole or not at all, secrets only
for the owner."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tenure.errors import NotAllowed, UsageError

MARKER: Final = ".tenure-estate"
LOCK_POLL_S: Final = 0.05
LOG_KEPT_BYTES: Final = 10_000_000
# sun_path of unix(7) holds 108 bytes with its final zero.
SOCKET_PATH_MAX: Final = 107


def default_folder(name: str) -> Path:
    """Where an estate of that name lies: /var/lib/tenure for root, the user's state folder for others."""
    if os.geteuid() == 0:
        return Path("/var/lib/tenure") / name
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "tenure" / name


@dataclass(frozen=True)
class Folder:
    """The data folder of an estate. Only the servers' own folders belong to the servers' account."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def ports(self) -> Path:
        return self.path / "ports.json"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets.json"

    @property
    def endpoints(self) -> Path:
        return self.path / "endpoints.json"

    @property
    def binaries(self) -> Path:
        return self.path / "bin"

    @property
    def templates(self) -> Path:
        return self.path / "templates"

    def server(self, name: str) -> Path:
        return self.path / "servers" / name

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def open_log(self, name: str) -> Path:
        """The log, after a long one was put aside."""
        log = self.log(name)
        if log.exists() and log.stat().st_size > LOG_KEPT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return log

    def create(self) -> None:
        """Make the folder with its marker; an existing one must be empty or ours. Raises `NotAllowed`,
        `UsageError`."""
        if self.path.exists():
            if not self.path.is_dir():
                raise UsageError(f"{self.path} is not a folder")
            if not self.is_ours() and any(self.path.iterdir()):
                raise NotAllowed(
                    f"{self.path} is neither empty nor the folder of an estate", hint="give another folder"
                )
        mode = 0o755 if os.geteuid() == 0 else 0o700
        try:
            self.path.mkdir(mode=mode, parents=True, exist_ok=True)
            (self.path / MARKER).touch()
            for part in ("logs", "servers"):
                (self.path / part).mkdir(mode=mode, exist_ok=True)
        except PermissionError as error:
            raise NotAllowed(
                f"{error.filename} may not be written: {error.strerror}", hint="give another folder"
            ) from error

    def is_ours(self) -> bool:
        return (self.path / MARKER).is_file()

    def remove(self) -> None:
        """Delete the folder. Raises `NotAllowed` if it lacks our marker."""
        if not self.path.exists():
            return
        if not self.is_ours():
            raise NotAllowed(f"{self.path} is not the folder of an estate: nothing was deleted")
        shutil.rmtree(self.path)

    def take_lock(self, *, deadline_s: float) -> int:
        """Lock the folder until the returned descriptor, and every copy a fork made of it, is closed."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise NotAllowed(f"the estate in {self.path} belongs to another user") from error
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(LOCK_POLL_S)
                    continue
                os.close(descriptor)
                raise NotAllowed(
                    f"an estate is already running in {self.path}",
                    hint="`tenure estate status` shows it, `tenure estate down` stops it",
                ) from None
            else:
                return descriptor


def write(path: Path, text: str, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Replace the file by one with this text, atomically. It never has more rights than `mode`."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        file.write(text)
    fresh.replace(path)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Like `write`, with the value as JSON."""
    write(path, json.dumps(value, indent=1) + "\n", mode=mode)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty if there is no file. Raises `NotAllowed` if it may not be read."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise NotAllowed(f"{path} may not be read: the estate belongs to another user") from error
    return value if isinstance(value, dict) else {}


def tail(path: Path, *, begin: int = 0, lines: int = 15, size_bytes: int = 8192) -> str:
    """The last lines of a log, of what comes after its first `begin` bytes; empty if there is none."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(begin, end - size_bytes))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
