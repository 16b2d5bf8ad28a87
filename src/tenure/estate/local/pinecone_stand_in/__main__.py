"""The process: one port for the control plane, one for each index.

`python -m tenure.estate.local.pinecone_stand_in --control PORT --data FOLDER --key-file FILE
[--index NAME:DIMENSION:METRIC:PORT]...`. This is a stand-in and not Pinecone.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tenure.estate.local.pinecone_stand_in import limits
from tenure.estate.local.pinecone_stand_in.control_plane import ControlPlane, dense_schema, description
from tenure.estate.local.pinecone_stand_in.data_plane import DataPlane
from tenure.estate.local.pinecone_stand_in.faults import Dropped
from tenure.estate.local.pinecone_stand_in.limits import Counter
from tenure.estate.local.pinecone_stand_in.records import Index, Records
from tenure.estate.local.pinecone_stand_in.refusals import Refused

HOST: Final = "127.0.0.1"
STAND_IN_HEADER: Final = "x-tenure-stand-in"
STAND_IN: Final = "not Pinecone: a stand-in for tests and local estates"
API_VERSIONS: Final = ("2025-01", "2025-04", "2025-10", "2026-04", "2026-07")
BODY_BYTES: Final = 8 * limits.UPSERT_BYTES
LINE_BYTES: Final = 64 * 1024
"""The longest request line: that of a fetch names every id."""
_SHUTDOWN_S: Final = 0.1


class StandIn:
    """The listeners, over one memory."""

    def __init__(self, records: Records, key: str) -> None:
        self._records = records
        self._key = key
        self._counter = Counter()
        self._control = ControlPlane(records, self._counter, self.open, self.close_index)
        self._runners: dict[str, web.AppRunner] = {}

    async def start(self, control: int, wanted: list[Index]) -> None:
        """Serve the control plane, the wanted indexes, and those that were made earlier."""
        known = {index.name: index for index in self._records.indexes()}
        for index in wanted:
            kept = known.pop(index.name, index)
            self._records.put_index(await self.open(replace(kept, port=index.port)))
        for index in known.values():
            self._records.put_index(await self.open(index))
        await self._serve("", self._control.routes(), control)

    async def open(self, index: Index) -> Index:
        """Serve the index on its port; port 0 is any free one."""
        plane = DataPlane(index, self._records, lambda: self._control.behaviour, self._counter)
        return replace(index, port=await self._serve(index.name, plane.routes(), index.port))

    async def close_index(self, name: str) -> None:
        await self._runners.pop(name).cleanup()

    async def close(self) -> None:
        for runner in self._runners.values():
            await runner.cleanup()
        self._records.close()

    async def _serve(self, name: str, routes: list[web.RouteDef], port: int) -> int:
        app = web.Application(client_max_size=BODY_BYTES, middlewares=[self._answering(control=not name)])
        app.add_routes(routes)
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_S,
            max_line_size=LINE_BYTES,
            keepalive_timeout=600,
        )
        await runner.setup()
        await web.TCPSite(runner, HOST, port, reuse_address=True).start()
        self._runners[name] = runner
        return int(runner.addresses[0][1])

    def _answering(self, *, control: bool) -> Middleware:
        @web.middleware
        async def answering(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                self._let_in(request)
                response = await handler(request)
            except Dropped:
                if request.transport is not None:
                    request.transport.close()
                raise asyncio.CancelledError from None
            except Refused as refused:
                response = self._refusal(refused, control=control)
            except web.HTTPException as error:
                response = self._refusal(Refused(error.status, error.reason), control=control)
            response.headers[STAND_IN_HEADER] = STAND_IN
            response.headers["x-pinecone-request-id"] = uuid.uuid4().hex
            return response

        return answering

    def _let_in(self, request: web.Request) -> None:
        if not hmac.compare_digest(request.headers.get("Api-Key", "").encode(), self._key.encode()):
            raise Refused(401, "Invalid API Key")
        version = request.headers.get("X-Pinecone-Api-Version", API_VERSIONS[-1])
        if version not in API_VERSIONS:
            raise Refused(400, f"Invalid API version {version!r:.40}")

    def _refusal(self, refused: Refused, *, control: bool) -> web.Response:
        body = orjson.dumps(refused.body(control=control))
        response = web.Response(status=refused.status, body=body, content_type="application/json")
        if refused.status == 429:
            self._control.behaviour.throttled += 1
        if refused.retry_after_s is not None:
            response.headers["Retry-After"] = f"{refused.retry_after_s:g}"
        return response


def _index(text: str) -> Index:
    parts = text.split(":")
    if len(parts) != 4 or not parts[1].isdigit() or not parts[3].isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:DIMENSION:METRIC:PORT")
    name, dimension, metric, port = parts
    return Index(
        name=name, port=int(port), description=description(name, dense_schema(int(dimension), metric), {})
    )


async def serve(*, control: int, data: Path, key: str, indexes: list[Index], durable: bool) -> None:
    """Run until SIGTERM or SIGINT. Raises `OSError` where a port is taken."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stand_in = StandIn(Records(data / "pinecone.sqlite", durable=durable), key)
    try:
        await stand_in.start(control, indexes)
        await stop.wait()
    finally:
        await stand_in.close()


def main() -> int:
    """Return 0 after a stop, 2 if it could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m tenure.estate.local.pinecone_stand_in", description=__doc__
    )
    parser.add_argument("--control", type=int, required=True, metavar="PORT")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--key-file", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--index", type=_index, action="append", default=[], metavar="NAME:DIMENSION:METRIC:PORT"
    )
    parser.add_argument(
        "--not-durable", action="store_true", help="leave it to the kernel when the disk is written"
    )
    options = parser.parse_args()
    try:
        key = options.key_file.read_text(encoding="utf-8").strip()
        asyncio.run(
            serve(
                control=options.control,
                data=options.data,
                key=key,
                indexes=options.index,
                durable=not options.not_durable,
            )
        )
    except OSError as error:
        sys.stderr.write(f"the stand-in could not start: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
