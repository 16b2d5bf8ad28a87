"""A backup as files that anybody reads (GDPR, Article 20): JSON Lines and Parquet for rows, and objects as they were.

Whatever cannot be exported is listed with the reason, never left out silently. `export.json`, which lists everything
with digests, is written last: a folder without it is not a whole export.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any, Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from tenure.backups.contract import Source
from tenure.backups.manifest import Public
from tenure.errors import StoreRefused, UsageError
from tenure.model.names import StoreName
from tenure.stores.exports import Column, Exporter, File, Kind, form_of

MANIFEST: Final = "export.json"
FORMAT: Final = "tenure-export/1"
BATCH: Final = 2_000
"""Rows that are in memory at once."""
LONGEST_NAME: Final = 120
_ARROW: Final[Mapping[Kind, pa.DataType]] = {
    Kind.INTEGER: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.BYTES: pa.binary(),
}
Progress = Callable[[int], None]


def quiet(rows: int) -> None:
    """A `Progress` that tells nobody."""


@dataclass(frozen=True, kw_only=True)
class ExportedCollection:
    store: StoreName
    collection: str
    rows: int
    files: int


@dataclass(frozen=True, kw_only=True)
class NotExported:
    store: StoreName
    collection: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is in the folder."""

    folder: pathlib.Path
    point: datetime
    """Whose state it is."""
    collections: tuple[ExportedCollection, ...]
    left_out: tuple[NotExported, ...]

    @property
    def complete(self) -> bool:
        return not self.left_out


def export(
    source: Source,
    public: Public,
    exporters: Mapping[str, Exporter],
    folder: pathlib.Path,
    *,
    progress: Progress = quiet,
) -> Export:
    """Write the backup into a new folder, for its owner only. `exporters` are by the form of streams (`form_of`).

    Raises `UsageError` if there is something in the folder, and `VaultDamaged` as `Source.read` does.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="name a new folder")
    written = _Written(folder)
    done: list[ExportedCollection] = []
    left_out: list[NotExported] = []
    described: list[dict[str, Any]] = []
    for store, collection, form in _collections(source):
        exporter, before = exporters.get(form), set(written.files)
        try:
            if exporter is None:
                raise StoreRefused(f"nothing here reads the form {form!r}")
            found, about = _one(written, source, exporter, store, collection, progress)
        except StoreRefused as error:
            written.remove(written.files.keys() - before)
            left_out.append(NotExported(store=store, collection=collection, reason=error.message))
            continue
        done.append(found)
        described.append(about)
    _write_manifest(written, public, described, left_out)
    return Export(folder=folder, point=public.facts.point, collections=tuple(done), left_out=tuple(left_out))


def _collections(source: Source) -> Iterator[tuple[StoreName, str, str]]:
    """Each collection once, with the form of its streams."""
    seen = set()
    for stream in source.streams():
        if (stream.store, stream.collection) not in seen:
            seen.add((stream.store, stream.collection))
            yield stream.store, stream.collection, form_of(stream)


def _one(
    written: _Written,
    source: Source,
    exporter: Exporter,
    store: StoreName,
    collection: str,
    progress: Progress,
) -> tuple[ExportedCollection, dict[str, Any]]:
    found = exporter(source, store, collection)
    name = f"{_segment(store)}/{_segment(collection)}"
    files = rows = 0
    with written.new(f"{name}.jsonl") as lines, _parquet(written, f"{name}.parquet", found.columns) as table:
        for row in found.rows:
            values = dict(row.values)
            if row.file is not None:
                values["file"] = written.contents(f"{_segment(store)}/files", row.file)
                files += 1
            lines.write(_line(values))
            table.append(values)
            rows += 1
            if rows % BATCH == 0:
                progress(BATCH)
    progress(rows % BATCH)
    about = {
        "store": store,
        "collection": collection,
        "rows": rows,
        "files": files,
        "jsonl": f"{name}.jsonl",
        "parquet": f"{name}.parquet",
        "columns": [{"name": c.name, "kind": c.kind, "type": c.type} for c in found.columns],
    }
    return ExportedCollection(store=store, collection=collection, rows=rows, files=files), about


# -- values ------------------------------------------------------------------------------------------------------------


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps({k: _json(v) for k, v in values.items()}, ensure_ascii=False).encode() + b"\n"


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_json(v) for v in value]
    return value


class _Parquet:
    """Rows on their way into a Parquet file. `JSON` columns are texts in it."""

    def __init__(self, sink: _Digesting, columns: Sequence[Column]) -> None:
        self._kinds = {c.name: c.kind for c in columns} | {"file": Kind.TEXT}
        self._schema = pa.schema(
            [(name, _ARROW.get(kind, pa.string())) for name, kind in self._kinds.items()]
        )
        self._writer = pq.ParquetWriter(sink, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def append(self, values: Mapping[str, Any]) -> None:
        row = {name: values.get(name) for name in self._kinds}
        for name, kind in self._kinds.items():
            if kind is Kind.JSON and row[name] is not None:
                row[name] = json.dumps(_json(row[name]), ensure_ascii=False)
        self._rows.append(row)
        if len(self._rows) >= BATCH:
            self.write()

    def write(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._writer.close()


@contextmanager
def _parquet(written: _Written, name: str, columns: Sequence[Column]) -> Iterator[_Parquet]:
    with written.new(name) as sink:
        made = _Parquet(sink, columns)
        try:
            yield made
            made.write()
        finally:
            made.close()


# -- files -------------------------------------------------------------------------------------------------------------


class _Digesting:
    """A file that is being written, and its digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        given = bytes(data)
        self._file.write(given)
        self.digest.update(given)
        self.size += len(given)
        return len(given)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """The folder closes it."""


@dataclass
class _Written:
    """The files of an export, each with its size and digest."""

    folder: pathlib.Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def new(self, name: str) -> Iterator[_Digesting]:
        """A new file; gone again if it is not written to its end."""
        path = self.folder / name
        for above in reversed([p for p in path.parents if p.is_relative_to(self.folder)]):
            above.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                made = _Digesting(file)
                yield made
        except BaseException:
            path.unlink()
            raise
        self.files[name] = {"bytes": made.size, "sha256": made.digest.hexdigest()}

    def contents(self, folder: str, item: File) -> str:
        """A file with these contents, under a name that is safe on any system; its path."""
        path = f"{folder}/{safe_path(item.name)}"
        if not self._free(path):
            path = f"{folder}/{hashlib.sha256(item.name.encode()).hexdigest()}"
        with self.new(path) as file:
            for block in item.blocks:
                file.write(block)
        return path

    def remove(self, names: Collection[str]) -> None:
        for name in names:
            (self.folder / name).unlink()
            del self.files[name]

    def _free(self, name: str) -> bool:
        """Where one item's name is the folder of another's, the second one cannot have its own."""
        path = self.folder / name
        above = [p for p in path.parents if p.is_relative_to(self.folder)]
        return not path.exists() and not any(p.is_file() for p in above)


def safe_path(name: str) -> str:
    """An item's name as a path below a folder: parts that mean something to a file system are escaped, long ones become
    a digest."""
    parts = [_segment(part) for part in name.split("/")]
    return "/".join(parts) if len(parts) <= 16 else hashlib.sha256(name.encode()).hexdigest()


def _segment(part: str) -> str:
    plain = quote(part, safe=" ()+,=@_-.", errors="surrogatepass")
    if plain.strip(". ") == "":
        plain = "%" + plain.encode().hex()
    if len(plain) > LONGEST_NAME:
        plain = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()
    return plain


def _write_manifest(
    written: _Written, public: Public, described: list[dict[str, Any]], left_out: list[NotExported]
) -> None:
    document = {
        "format": FORMAT,
        "tenant": public.tenant,
        "backup": public.backup,
        "point": public.facts.point.isoformat(),
        "release": public.facts.release,
        "collections": described,
        "left_out": [
            {"store": one.store, "collection": one.collection, "reason": one.reason} for one in left_out
        ],
        "files": written.files.copy(),
    }
    with written.new(f".{MANIFEST}") as file:
        file.write(json.dumps(document, indent=1, ensure_ascii=False).encode())
    (written.folder / f".{MANIFEST}").rename(written.folder / MANIFEST)
