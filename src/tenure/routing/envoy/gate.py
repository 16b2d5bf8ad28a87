"""The gate process: Envoy asks it about every request of a gated tenant, and Tenure tells it what to answer.

`python -m tenure.routing.envoy.gate --check HOST:PORT --control HOST:PORT --state FILE --token-file FILE`.
The check listener answers 200, with `x-tenure-cell` for a gated tenant, or 429 when too many requests wait
already: anything in the 5xx range would make Envoy let the request pass. The control listener wants the
bearer token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Final

from aiohttp import web

from tenure.routing.envoy.gate_control import control_app
from tenure.routing.envoy.gate_state import GateState, TooManyWaiting
from tenure.routing.envoy.routes import CELL_HEADER, CHECK_PATH, CHECK_READS, SESSION_HEADER, answer_for
from tenure.routing.envoy.throttle import Throttles

log = logging.getLogger("tenure.gate")

_BACKLOG: Final = 4096
_KEEPALIVE_S: Final = 3600.0
"""Longer than Envoy keeps an idle connection, so that the gate never closes one that Envoy is about to
use."""
_SHUTDOWN_S: Final = 0.1
_MAX_FIELD_BYTES: Final = 96 * 1024
"""More than Envoy accepts of a client's headers (60 KiB): what it passes on is never refused here."""
_SPARE_FILES: Final = 64
_FILES: Final = 65536
_GIVES_UP: Final = "x-envoy-expected-rq-timeout-ms"
_BEFORE_ENVOY_S: Final = 0.3


def check_server(state: GateState, throttles: Throttles) -> web.Server:
    """The listener for Envoy. A request whose client has gone away is cancelled and no longer counts."""

    async def check(request: web.BaseRequest) -> web.Response:
        tenant, _, kind = request.path.removeprefix(CHECK_PATH).partition("/")
        reads = kind == CHECK_READS
        try:
            async with asyncio.timeout(_patience_s(request)):
                await throttles.turn(tenant, request.method)
                session = request.headers.get(SESSION_HEADER)
                cell = await state.admit(tenant, reads=reads, session=session)
        except TooManyWaiting:
            return _come_back("too_many_waiting")
        except TimeoutError:
            return _come_back("waited_too_long")
        return web.Response(headers={CELL_HEADER: answer_for(cell, reads=reads)} if cell else {})

    return web.Server(
        check,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=_KEEPALIVE_S,
        max_field_size=_MAX_FIELD_BYTES,
    )


def _patience_s(request: web.BaseRequest) -> float | None:
    """How long this request may wait: Envoy says when it will give up, and would then let the request
    pass."""
    text = request.headers.get(_GIVES_UP, "")
    return max(0.0, int(text) / 1000 - _BEFORE_ENVOY_S) if text.isdigit() else None


def _come_back(code: str) -> web.Response:
    text = json.dumps({"error": {"code": code, "message": "try again in a moment"}})
    return web.Response(status=429, text=text, content_type="application/json", headers={"Retry-After": "1"})


async def serve(
    *, check: tuple[str, int], control: tuple[str, int], state_file: Path, token: str, max_waiting: int
) -> None:
    """Run until SIGTERM or SIGINT. Raises `OSError` (address, state file) or `ValueError` (state file)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    state, throttles = GateState(state_file, max_waiting=max_waiting), Throttles()
    runners: tuple[web.BaseRunner, ...] = (
        web.ServerRunner(check_server(state, throttles), shutdown_timeout=_SHUTDOWN_S),
        web.AppRunner(
            control_app(state, throttles, token),
            access_log=None,
            keepalive_timeout=_KEEPALIVE_S,
            shutdown_timeout=_SHUTDOWN_S,
        ),
    )
    try:
        for runner, (host, port) in zip(runners, (check, control), strict=True):
            await runner.setup()
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        log.info("gate_started", extra={"max_waiting": max_waiting})
        await stop.wait()
    finally:
        state.close()
        for runner in runners:
            await runner.cleanup()
    log.info("gate_stopped")


class _JsonLines(logging.Formatter):
    _fields: Final = ("tenant", "cell", "error", "max_waiting")

    def format(self, record: logging.LogRecord) -> str:
        line = {"at": round(time.time(), 3), "level": record.levelname.lower(), "action": record.getMessage()}
        line |= {name: getattr(record, name) for name in self._fields if hasattr(record, name)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _address(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _raise_file_limit() -> int:
    """Allow as many sockets as the system lets us; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def main() -> int:
    """Return 0 after a stop, 2 if it could not start."""
    parser = argparse.ArgumentParser(prog="python -m tenure.routing.envoy.gate", description=__doc__)
    parser.add_argument("--check", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--control", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--state", type=Path, required=True, metavar="FILE")
    parser.add_argument("--token-file", type=Path, required=True, metavar="FILE")
    parser.add_argument("--max-waiting", type=int, default=4096, metavar="N")
    options = parser.parse_args()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    max_waiting = max(1, min(options.max_waiting, _raise_file_limit() - _SPARE_FILES))
    try:
        token = options.token_file.read_text(encoding="utf-8").strip()
        if not token:
            raise ValueError(f"{options.token_file} is empty")
        asyncio.run(
            serve(
                check=options.check,
                control=options.control,
                state_file=options.state,
                token=token,
                max_waiting=max_waiting,
            )
        )
    except (OSError, ValueError) as error:
        log.error("gate_not_started", extra={"error": str(error)})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
