"""A TCP relay that stands for the distance between two cells: its bandwidth can be changed, nothing gets through for a
while, or the wire is cut."""

from __future__ import annotations

import asyncio
import ctypes
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

_CHUNK = 16 * 1024
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
"""A packet filter (socket(7)) of one instruction: return 0, that is, drop every packet before TCP sees it."""


@dataclass(kw_only=True)
class SlowLink:
    """Listens on `port` of 127.0.0.1. The settings may be changed at any time, from any thread."""

    target: tuple[str, int]
    port: int = 0
    bytes_per_s: float | None = None
    """In each direction, over all connections together; None: as fast as it goes."""
    stalled: bool = False
    """Nothing gets through, and nothing is lost."""
    knocked: set[int] = field(default_factory=set)
    """The connections whose clients have sent something while the link was stalled."""
    _free_at: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    _sockets: set[Any] = field(default_factory=set)
    _is_cut: bool = False
    _cutting: threading.Lock = field(default_factory=threading.Lock)

    def cut(self) -> None:
        """Drop every packet from now on: nobody hears of it, nothing is acknowledged, nobody can connect."""
        with self._cutting:
            self._is_cut = True
            for sock in self._sockets:
                sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, _drop_all())

    def heal(self) -> None:
        """Let packets through again. What both ends have not given up meanwhile is sent again by their TCP."""
        with self._cutting:
            self._is_cut = False
            for sock in self._sockets:
                with suppress(FileNotFoundError):  # it had no filter
                    sock.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)

    async def serve(self, ready: Callable[[Callable[[], object]], None]) -> None:
        """Relay until what `ready` was given is called, from any thread."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        with self._on_wire(server.sockets[0]):
            ready(lambda: loop.call_soon_threadsafe(stop.set))
            await stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()  # as it is where nobody listens
            return
        ends = [end.get_extra_info("socket") for end in (writer, back)]
        with self._on_wire(*ends), suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(
                self._pass(reader, back, upwards=True), self._pass(there, writer, upwards=False)
            )

    @contextmanager
    def _on_wire(self, *sockets: Any) -> Iterator[None]:
        """What `cut` cuts."""
        duplicates = [
            sock.dup() for sock in sockets
        ]  # open until the end of the block, whoever closes theirs
        with self._cutting:
            self._sockets.update(duplicates)
            if self._is_cut:
                for sock in duplicates:
                    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, _drop_all())
        try:
            yield
        finally:
            with self._cutting:
                self._sockets.difference_update(duplicates)
            for sock in duplicates:
                sock.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upwards: bool) -> None:
        try:
            while data := await source.read(_CHUNK):
                if self.stalled and upwards:
                    self.knocked.add(id(sink))
                while self.stalled:
                    await asyncio.sleep(0.01)
                await self._take_time(len(data), upwards)
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()

    async def _take_time(self, size: int, upwards: bool) -> None:
        rate = self.bytes_per_s
        if rate is None:
            return
        now = time.monotonic()
        self._free_at[upwards] = max(now, self._free_at[upwards]) + size / rate
        while self.bytes_per_s is not None and (left := self._free_at[upwards] - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.05))


def can_cut() -> bool:
    """Whether this process may attach packet filters: some kernels refuse them to whoever is not root."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, _drop_all())
        except PermissionError:
            return False
    return True


def _drop_all() -> bytes:
    """`struct sock_fprog`: the filter's length and where it lies."""
    return struct.pack("HP", 1, ctypes.addressof(_NOTHING))


@contextmanager
def slow_link(host: str, port: int) -> Iterator[SlowLink]:
    """A link to that address, which ends with the block."""
    link = SlowLink(target=(socket.gethostbyname(host), port))
    ready: queue.Queue[Callable[[], object]] = queue.Queue()
    thread = threading.Thread(
        target=lambda: asyncio.run(link.serve(ready.put)), name="slow-link", daemon=True
    )
    thread.start()
    stop = ready.get(timeout=10)
    try:
        yield link
    finally:
        stop()
        thread.join()
