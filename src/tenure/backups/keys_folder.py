"""Wrapped keys in a folder: one file each, readable by its owner only, written whole or not at all."""

from __future__ import annotations

import os
import pathlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.stores.vault.contract import KeyReference

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_SUFFIX: Final = ".key"


class FolderOfKeys:
    """Implements `WrappedKeys`. Makes the folder, for its owner only, and refuses one that others may write to."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    @property
    def where(self) -> str:
        return f"the keys in {self._folder}"

    @property
    def leaves(self) -> str:
        return f"copies of the folder {self._folder} that were made before, snapshots of its disk among them"

    def put(self, reference: KeyReference, wrapped: bytes) -> None:
        with self._translated():
            folder = self._tenants(reference)
            for each in (self._folder, folder):
                each.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            self._require_private()
            target, begun = self._file(reference), folder / f".{secrets.token_hex(8)}"
            _write(begun, wrapped)
            try:
                os.link(begun, target)  # fails where there is one: nothing is ever written over
            except FileExistsError:
                raise StoreRefused(f"{self.where}: there is a key {reference} already") from None
            finally:
                begun.unlink()
            _sync_folder(folder)
            _sync_folder(self._folder)

    def get(self, reference: KeyReference) -> bytes | None:
        with self._translated():
            self._require_private()
            try:
                return self._file(reference).read_bytes()
            except FileNotFoundError:
                return None

    def list(self, tenant: TenantId) -> Sequence[KeyReference]:
        with self._translated():
            self._require_private()
            try:
                names = sorted(entry.name for entry in (self._folder / tenant).iterdir())
            except FileNotFoundError:
                return ()
        return tuple(
            KeyReference(name.removesuffix(_SUFFIX).replace("+", ":"))
            for name in names
            if name.endswith(_SUFFIX) and not name.startswith(".")
        )

    def delete(self, reference: KeyReference) -> bool:
        """What a disk, or a file system that never writes in place, keeps of the old bytes is not in our hands."""
        with self._translated():
            target = self._file(reference)
            try:
                with target.open("r+b") as opened:
                    opened.write(secrets.token_bytes(os.fstat(opened.fileno()).st_size))
                    opened.flush()
                    os.fsync(opened.fileno())
                target.unlink()
            except FileNotFoundError:
                return False
            _sync_folder(target.parent)
            return True

    def _tenants(self, reference: KeyReference) -> pathlib.Path:
        return self._folder / reference.split(":")[1]

    def _file(self, reference: KeyReference) -> pathlib.Path:
        return self._tenants(reference) / (reference.replace(":", "+") + _SUFFIX)

    def _require_private(self) -> None:
        try:
            mode = self._folder.stat().st_mode
        except FileNotFoundError:
            return
        if mode & 0o022:
            raise StoreRefused(
                f"{self.where}: others than its owner may write there", hint=f"chmod 700 {self._folder}"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"{self.where} cannot be reached: {error.strerror or error}",
                hint="is the folder mounted, and may this user read and write it?",
            ) from error


def _write(path: pathlib.Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
