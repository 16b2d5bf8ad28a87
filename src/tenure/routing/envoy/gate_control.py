"""What Tenure tells the gate, over HTTP with a bearer token: which tenants to hold, split, slow down and let go."""

from __future__ import annotations

import hmac
import logging
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tenure.errors import UsageError
from tenure.model.names import cell_name, tenant_id
from tenure.routing.envoy.gate_state import GateState, Held, NotGated, TokenTooOld
from tenure.routing.envoy.throttle import Throttles

log = logging.getLogger("tenure.gate")

_MAX_BUDGET_S: Final = 3600.0
_MAX_DELAY_S: Final = 10.0


def control_app(state: GateState, throttles: Throttles, token: str) -> web.Application:
    """The listener for Tenure."""
    control = _Control(state, throttles)
    app = web.Application(middlewares=[_guard(token)], client_max_size=4096)
    app.router.add_get("/ping", control.ping)
    app.router.add_get("/tenants/{tenant}", control.show)
    app.router.add_put("/tenants/{tenant}", control.put)
    app.router.add_post("/tenants/{tenant}/hold", control.hold)
    app.router.add_post("/tenants/{tenant}/canary", control.canary)
    app.router.add_post("/tenants/{tenant}/release", control.release)
    app.router.add_post("/tenants/{tenant}/throttle", control.throttle)
    app.router.add_delete("/tenants/{tenant}", control.remove)
    return app


def _guard(token: str) -> Middleware:
    """Lets in who has the token, and turns what a handler raises into its answer."""
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

    return guard


class _Control:
    """The handlers. Each checks what it was sent; the state itself refuses outdated tokens."""

    def __init__(self, state: GateState, throttles: Throttles) -> None:
        self._state = state
        self._throttles = throttles

    async def ping(self, _: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response(self._state.status(_tenant(request)))

    async def put(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._state.put(_tenant(request), cell=cell_name(body["cell"]), token=_token(body))
        return web.json_response({"ok": True})

    async def hold(self, request: web.Request) -> web.Response:
        body = await request.json()
        budget_s = float(body["budget_s"])
        if not 0 < budget_s <= _MAX_BUDGET_S:
            raise ValueError(f"budget_s must be over 0 and at most {_MAX_BUDGET_S:g}")
        self._state.hold(
            _tenant(request), token=_token(body), budget_s=budget_s, fallback=cell_name(body["fallback"])
        )
        self._throttles.lift(_tenant(request))  # who was being delayed is held now, and counted as waiting
        return web.json_response({"ok": True})

    async def canary(self, request: web.Request) -> web.Response:
        body = await request.json()
        share, ttl_s = float(body["share"]), float(body["ttl_s"])
        if not 0 <= share <= 1 or not 0 < ttl_s <= _MAX_BUDGET_S:
            raise ValueError(f"share must be from 0 to 1, ttl_s over 0 and at most {_MAX_BUDGET_S:g}")
        cell = cell_name(body["cell"])
        self._state.canary(_tenant(request), token=_token(body), cell=cell, share=share, ttl_s=ttl_s)
        return web.json_response({"ok": True})

    async def release(self, request: web.Request) -> web.Response:
        body = await request.json()
        report = self._state.release(_tenant(request), token=_token(body), cell=cell_name(body["cell"]))
        self._throttles.lift(_tenant(request))
        return web.json_response(asdict(report))

    async def throttle(self, request: web.Request) -> web.Response:
        body = await request.json()
        rate, delay_s, for_s = (float(body[k]) for k in ("writes_per_s", "longest_delay_s", "for_s"))
        if not (rate > 0 and 0 < delay_s <= _MAX_DELAY_S and for_s > 0):
            raise ValueError(
                f"writes_per_s and for_s must be over 0, longest_delay_s over 0 and at most {_MAX_DELAY_S:g}"
            )
        self._state.check(_tenant(request), token=_token(body))
        self._throttles.set(_tenant(request), writes_per_s=rate, longest_delay_s=delay_s, for_s=for_s)
        return web.json_response({"ok": True})

    async def remove(self, request: web.Request) -> web.Response:
        self._state.remove(_tenant(request), forget=request.query.get("forget") == "1")
        self._throttles.lift(_tenant(request))
        return web.json_response({"ok": True})


def _tenant(request: web.Request) -> str:
    return tenant_id(request.match_info["tenant"])


def _token(body: dict[str, Any]) -> int:
    token = body["token"]
    if not isinstance(token, int) or isinstance(token, bool):
        raise TypeError("token must be an integer")
    return token


def _refusal(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)
