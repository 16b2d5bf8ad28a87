"""Units of a table as they go into a backup and come back: what every engine writes and reads for it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol

from tenure.catalogue import AnalyticsTable
from tenure.errors import StoreRefused
from tenure.stores.analytics.units import Content

BLOCK: Final = 1 << 20
IN_MEMORY: Final = 16 << 20
"""Of one unit; what is more rests in a file without a name."""

Columns = Sequence[tuple[str, str]]
"""Names and types, in the engine's words."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """What a unit holds, all as of one moment. `content` is as `Engine.contents` has it, `others` without the tenant's
    own column, so that it is equal under another name. The body is read before the next pack is asked for; its `form`
    is one that engines of the same dialect read."""

    partition: str
    form: str
    columns: Columns
    content: Content
    others: Content
    body: Iterable[bytes]


class Brought(Protocol):
    """`Rows` for `Engine.replace` that are put together of units from a backup."""

    @property
    def count(self) -> int: ...

    @property
    def columns(self) -> Sequence[str]: ...

    def add(self, form: str, columns: Columns, rows: int, body: Iterable[bytes]) -> None:
        """One more unit: so many rows with these columns, each of them the tenant's from now on."""


def stamp_of(content: Content) -> str:
    """What tells two states of a unit apart, from `Pack.others`."""
    return f"{content.rows}:{content.digest:032x}"


def others_of(table: AnalyticsTable, columns: Collection[str]) -> list[str]:
    """The columns but for the tenant's."""
    return [c for c in columns if c != table.tenant_column] or list(columns)


def require_form(found: str, wanted: str, where: str) -> None:
    if found != wanted:
        raise StoreRefused(
            f"{where}: the backup holds rows in the form {found}, and this engine reads {wanted}",
            hint="restore into a warehouse of the kind that was backed up, or export the backup",
        )


class Spool:
    """Bytes that are written once and then read: in memory, or a file without a name where they are many."""

    def __init__(self, blocks: Iterable[bytes] = ()) -> None:
        self._file: Final[IO[bytes]] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        for block in blocks:
            self._file.write(block)

    def write(self, block: bytes) -> None:
        self._file.write(block)

    @property
    def empty(self) -> bool:
        return self._file.tell() == 0

    def blocks(self) -> Generator[bytes, None, None]:
        self._file.seek(0)
        while block := self._file.read(BLOCK):
            yield block

    @property
    def file(self) -> IO[bytes]:
        """From its beginning."""
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        self._file.close()


def head_of(pack: Pack, dialect: str) -> Mapping[str, Any]:
    return {
        "stamp": stamp_of(pack.others),
        "rows": pack.content.rows,
        "form": pack.form,
        "dialect": dialect,
        "columns": [list(column) for column in pack.columns],
    }
