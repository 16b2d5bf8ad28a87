"""Cuts a stream into chunks where its contents say so (FastCDC, 2020): what is inserted or removed changes the chunks
around it and no others. Where it cuts depends on the tenant's key as well, and not on the sizes of what is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyfastcdc import FastCDC

KIB: Final = 1024
MOST_CHUNK_PLAIN: Final = 2048 * KIB
"""No chunk is larger before it is compressed and sealed."""
_WINDOW: Final = 2 * MOST_CHUNK_PLAIN
"""How much is gathered before it is cut: the rest behind the last cut is looked at twice."""


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """Where streams of one tenant are cut: about 600 KiB apart, by a table and bounds that its key gives."""

    seed: int
    least: int
    usual: int

    @staticmethod
    def of(secret: bytes) -> Cutting:
        """From 16 bytes that are derived from the tenant's key."""
        seed = int.from_bytes(secret[:8], "big") >> 1
        return Cutting(
            seed=seed or 1,
            least=(96 + secret[8] % 65) * KIB,
            usual=(448 + secret[9] % 129) * KIB,
        )


class Chunker:
    """One stream being cut. Bytes go in by `add`, chunks come out; `rest` gives what is left at the end.

    The chunks of equal streams are equal, however the bytes were divided. Holds at most some 8 MiB.
    """

    def __init__(self, cutting: Cutting) -> None:
        self._cutter = FastCDC(
            cutting.usual, min_size=cutting.least, max_size=MOST_CHUNK_PLAIN, seed=cutting.seed
        )
        self._held = bytearray()

    def add(self, data: bytes | memoryview) -> Iterator[bytes]:
        given = memoryview(data).cast("B")
        while len(given):
            room = _WINDOW - len(self._held)
            self._held += given[:room]
            given = given[room:]
            if len(self._held) >= _WINDOW:
                yield from self._cut(last=False)

    def rest(self) -> Iterator[bytes]:
        """The last chunks; nothing for a stream without bytes."""
        yield from self._cut(last=True)

    def _cut(self, *, last: bool) -> Iterator[bytes]:
        """A cut depends on what is before it only, so that all cuts hold but one at the end of what is there yet."""
        held, self._held = self._held, bytearray()
        chunks = [bytes(chunk.data) for chunk in self._cutter.cut_buf(held)]
        if not last and chunks:
            self._held = bytearray(chunks.pop())
        yield from chunks
