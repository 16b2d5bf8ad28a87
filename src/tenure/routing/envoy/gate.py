"""The gate process: Envoy asks it about every request of a gated tenant, and Tenure tells it what to answer.

`python -m tenure.routing.envoy.gate --check HOST:PORT --control HOST:PORT --state FILE --token-file FILE`.
The check listener answers 200, with `x-tenure-cell` for a gated tenant, or 429 when too many requests wait
already: anything in the 5xx range would make Envoy let the request pass. The control listener wants the
bearer token.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tenure.errors import UsageError
from tenure.model.names import cell_name, tenant_id
from tenure.routing.envoy.gate_state import GateState, Held, NotGated, TokenTooOld, TooManyWaiting
from tenure.routing.envoy.routes import CELL_HEADER, CHECK_PATH, CHECK_READS, SESSION_HEADER, answer_for

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
_MAX_BUDGET_S: Final = 3600.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def check_server(state: GateState) -> web.Server:
    """The listener for Envoy. A request whose client has gone away is cancelled and no longer counts."""

    async def check(request: web.BaseRequest) -> web.Response:
        tenant, _, kind = request.path.removeprefix(CHECK_PATH).partition("/")
        reads = kind == CHECK_READS
        try:
            async with asyncio.timeout(_patience_s(request)):
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


def control_app(state: GateState, token: str) -> web.Application:
    """The listener for Tenure."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected):
            return _refusal(401, "unauthorized", "the bearer token is missing or wrong")
        try:
            return await handler(request)
        except TokenTooOld as error:
            return _refusal(409, "token_too_old", f"a holder with token {error.newest} has taken over")
        except Held:
            return _refusal(423, "held", "the tenant is being held: release it first")
        except NotGated:
            return _refusal(404, "not_gated", "the tenant is not behind the gate")
        except (KeyError, TypeError, ValueError, UsageError) as error:
            return _refusal(400, "bad_request", str(error))
        except OSError as error:
            log.error("state_not_saved", extra={"error": str(error)})
            return _refusal(507, "state_not_saved", f"the gate cannot write its state: {error.strerror}")

    async def ping(_: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def show(request: web.Request) -> web.Response:
        return web.json_response(state.status(_tenant(request)))

    async def put(request: web.Request) -> web.Response:
        body = await request.json()
        state.put(_tenant(request), cell=cell_name(body["cell"]), token=_token(body))
        return web.json_response({"ok": True})

    async def hold(request: web.Request) -> web.Response:
        body = await request.json()
        budget_s = float(body["budget_s"])
        if not 0 < budget_s <= _MAX_BUDGET_S:
            raise ValueError(f"budget_s must be over 0 and at most {_MAX_BUDGET_S:g}")
        state.hold(
            _tenant(request), token=_token(body), budget_s=budget_s, fallback=cell_name(body["fallback"])
        )
        return web.json_response({"ok": True})

    async def canary(request: web.Request) -> web.Response:
        body = await request.json()
        share, ttl_s = float(body["share"]), float(body["ttl_s"])
        if not 0 <= share <= 1 or not 0 < ttl_s <= _MAX_BUDGET_S:
            raise ValueError(f"share must be from 0 to 1, ttl_s over 0 and at most {_MAX_BUDGET_S:g}")
        cell = cell_name(body["cell"])
        state.canary(_tenant(request), token=_token(body), cell=cell, share=share, ttl_s=ttl_s)
        return web.json_response({"ok": True})

    async def release(request: web.Request) -> web.Response:
        body = await request.json()
        report = state.release(_tenant(request), token=_token(body), cell=cell_name(body["cell"]))
        return web.json_response(asdict(report))

    async def remove(request: web.Request) -> web.Response:
        state.remove(_tenant(request), forget=request.query.get("forget") == "1")
        return web.json_response({"ok": True})

    app = web.Application(middlewares=[guard], client_max_size=4096)
    app.router.add_get("/ping", ping)
    app.router.add_get("/tenants/{tenant}", show)
    app.router.add_put("/tenants/{tenant}", put)
    app.router.add_post("/tenants/{tenant}/hold", hold)
    app.router.add_post("/tenants/{tenant}/canary", canary)
    app.router.add_post("/tenants/{tenant}/release", release)
    app.router.add_delete("/tenants/{tenant}", remove)
    return app


def _tenant(request: web.Request) -> str:
    return tenant_id(request.match_info["tenant"])


def _token(body: dict[str, Any]) -> int:
    token = body["token"]
    if not isinstance(token, int) or isinstance(token, bool):
        raise TypeError("token must be an integer")
    return token


def _refusal(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)


async def serve(
    *, check: tuple[str, int], control: tuple[str, int], state_file: Path, token: str, max_waiting: int
) -> None:
    """Run until SIGTERM or SIGINT. Raises `OSError` (address, state file) or `ValueError` (state file)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    state = GateState(state_file, max_waiting=max_waiting)
    runners: tuple[web.BaseRunner, ...] = (
        web.ServerRunner(check_server(state), shutdown_timeout=_SHUTDOWN_S),
        web.AppRunner(
            control_app(state, token),
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
