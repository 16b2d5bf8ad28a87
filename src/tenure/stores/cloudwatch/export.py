"""Log events written out as they were, before their stream or group is deleted: JSON Lines, gzip, and a manifest."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.names import CellName, StoreName, TenantId
from tenure.stores.cloudwatch.events import Event, Stream, Sum

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"


class Sink(Protocol):
    """Where an export goes. A file is there whole once its block has ended without an error, and not before."""

    def create(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A new file of that name, with `/` between folders. Raises `StoreUnavailable` if it cannot be written."""

    def read(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file that was created."""


class FolderSink:
    """A folder of this machine: files are written beside their place, synced, and moved there; nobody else may read
    them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        path = self._folder / name
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _sync(path.parent)
        except OSError as error:
            raise StoreUnavailable(
                f"the export of logs cannot be written to {path}: {error.strerror}",
                hint="nothing was deleted: give it room and permission, and try again",
            ) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    @contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        try:
            with (self._folder / name).open("rb") as file:
                yield file
        except OSError as error:
            raise StoreUnavailable(
                f"the export of logs cannot be read back from {self._folder / name}: {error.strerror}"
            ) from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One stream in an export. `digest` is that of the inventory; `sha256` is of the file."""

    group: str
    stream: str
    file: str
    events: int
    size_bytes: int
    digest: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    store: StoreName
    cell: CellName
    tenant: TenantId
    exported_at: str
    streams: tuple[Exported, ...]

    def text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


class Export:
    """One export of one tenant's streams, in a folder of its own below `{tenant}/{store}-{cell}`."""

    def __init__(self, sink: Sink, *, store: StoreName, cell: CellName, tenant: TenantId) -> None:
        self._sink = sink
        self._about = (store, cell, tenant)
        now = datetime.now(UTC)
        self.folder: Final = f"{tenant}/{store}-{cell}/{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self._at = now.isoformat()
        self._written: dict[Stream, Exported] = {}

    def write(self, stream: Stream, events: Iterable[Event]) -> Exported:
        """Write the stream's events out, read them back, and say what was written. A repeated stream takes its earlier
        one's place in the manifest. Raises `StoreRefused` if what is read back is not what was written."""
        file = f"{self.folder}/{len(self._written):05d}-{uuid.uuid4().hex[:8]}.jsonl.gz"
        total = Sum()
        with self._sink.create(file) as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
            for event in events:
                total.add(event)
                line = {"timestamp": event.timestamp, "message": event.message}
                packed.write(json.dumps(line).encode() + b"\n")
        sha256, again = self._read_back(file)
        if (again.events, again.digest) != (total.events, total.digest):
            raise StoreRefused(
                f"{file}: the export does not read back as it was written",
                hint="nothing was deleted: look at the disk of the export's folder",
            )
        exported = Exported(
            group=stream.group,
            stream=stream.name,
            file=file.rpartition("/")[2],
            events=total.events,
            size_bytes=total.size_bytes,
            digest=total.digest,
            sha256=sha256,
        )
        self._written[stream] = exported
        return exported

    def _read_back(self, file: str) -> tuple[str, Sum]:
        total, digest = Sum(), hashlib.sha256()
        with self._sink.read(file) as raw:
            while block := raw.read(1 << 20):
                digest.update(block)
        with self._sink.read(file) as raw, gzip.GzipFile(fileobj=raw, mode="rb") as packed:
            for line in packed:
                fields = json.loads(line)
                total.add(Event(fields["timestamp"], fields["message"]))
        return digest.hexdigest(), total

    def finish(self) -> Manifest:
        """Write the manifest of everything written so far."""
        store, cell, tenant = self._about
        manifest = Manifest(
            store=store, cell=cell, tenant=tenant, exported_at=self._at, streams=tuple(self._written.values())
        )
        with self._sink.create(f"{self.folder}/{MANIFEST}") as file:
            file.write(manifest.text().encode())
        return manifest
