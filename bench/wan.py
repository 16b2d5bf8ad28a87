"""TCP relays that stand for the distance between two regions: every byte arrives later, and so many per second.

usage: python -m bench.wan --delay-ms 40 --rate-mb 12.5 HOST:PORT ...

Prints the port of each relay, in the order of the addresses, as one line of JSON; ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
from dataclasses import dataclass

CHUNK = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Distance:
    delay_s: float
    """One way: half of the round trip."""
    bytes_per_s: float | None
    """In each direction of each connection."""


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, distance: Distance) -> None:
    """Pass on what arrives, `delay_s` later, in order. Reading goes on meanwhile, as on a long line."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=4096)

    async def deliver() -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                break
            sink.write(data)
            await sink.drain()
        sink.close()

    delivering = asyncio.create_task(deliver())
    free_at = loop.time()
    try:
        while data := await source.read(CHUNK):
            if distance.bytes_per_s is not None:
                free_at = max(free_at, loop.time()) + len(data) / distance.bytes_per_s
                await asyncio.sleep(max(0.0, free_at - loop.time()))
            await under_way.put((loop.time() + distance.delay_s, data))
    except OSError:
        sink.close()  # the other end has gone: what was under way went with it
    await under_way.put((loop.time() + distance.delay_s, b""))
    await asyncio.gather(delivering, return_exceptions=True)


async def relay(host: str, port: int, distance: Distance) -> asyncio.Server:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        for end in (writer, back):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(asyncio.CancelledError):  # the relay ends with connections open
            await asyncio.gather(carry(reader, back, distance), carry(there, writer, distance))

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def serve(addresses: list[str], distance: Distance) -> None:
    servers = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        servers.append(await relay(host, int(port), distance))
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--rate-mb", type=float, default=None)
    parser.add_argument("addresses", nargs="+", metavar="HOST:PORT")
    arguments = parser.parse_args()
    rate = None if arguments.rate_mb is None else arguments.rate_mb * 1e6
    asyncio.run(serve(arguments.addresses, Distance(delay_s=arguments.delay_ms / 1000, bytes_per_s=rate)))


if __name__ == "__main__":
    main()
