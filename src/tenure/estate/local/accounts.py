"""Who the servers run as: as root an unprivileged account, otherwise the user who starts them."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from tenure.errors import ConfigurationError, NotAllowed


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user by name and numbers, without supplementary groups."""

    name: str
    uid: int
    gid: int

    @property
    def owner(self) -> tuple[int, int]:
        return self.uid, self.gid

    @property
    def is_current(self) -> bool:
        return self.uid == os.geteuid()

    def can(self, path: Path, mode: int) -> bool:
        """Whether the account has that access (`os.R_OK`, ...), as the kernel sees it. Forks: not for
        threaded code."""
        if self.is_current:
            return os.access(path, mode)
        child = os.fork()
        if child == 0:
            verdict = 2
            try:
                os.setgroups([])
                os.setresgid(self.gid, self.gid, self.gid)
                os.setresuid(self.uid, self.uid, self.uid)
                verdict = 0 if os.access(path, mode) else 1
            finally:
                os._exit(verdict)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 0

    def require_way_to(self, folder: Path) -> None:
        """Raise `NotAllowed`, naming the closed folder, unless the account can enter `folder`."""
        for step in (*reversed(folder.parents), folder):
            if not self.can(step, os.X_OK):
                raise NotAllowed(
                    f"the servers run as {self.name}, which may not enter {step}"
                    f" (mode {step.stat().st_mode & 0o7777:04o}): {folder} is out of its reach",
                    hint=f"give a data folder it can reach, such as /var/lib/tenure/{folder.name}",
                )


def current() -> Account:
    """The user this process runs as."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Account(name=name, uid=uid, gid=os.getegid())


def for_servers(name: str) -> Account:
    """Who servers run as: the account of that name if this is root, else the current user. Raises
    `ConfigurationError`."""
    if os.geteuid() != 0:
        return current()
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise ConfigurationError(f"this machine has no account {name} for the servers to run as") from error
    if entry.pw_uid == 0:
        raise ConfigurationError(f"{name} is root: servers run as an account without rights")
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
