"""The HTTP side of the service in one cell: `python -m rag_app.app --cell blue --config blue.json --port
9101`.

A write of a tenant that is fenced here is answered with 307 to the same URL: the gateway takes the request,
body and all, through its gate again, and it comes out in the cell that serves the tenant now.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg
import psycopg_pool
from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError
from pinecone import PineconeException
from redis.exceptions import RedisError

from rag_app.faults import Faults
from rag_app.metrics import CONTENT_TYPE, Metrics
from rag_app.settings import CLIENT_IDS_FROM, TENANT_HEADER, AppConfig
from rag_app.shipping import Background, LogShipper, MetricsReporter, UsageShipper, logged_at
from rag_app.storage import Document, Storage
from tenure.client import Fenced

logger = logging.getLogger("rag_app")

CONFIG: Final = web.AppKey("config", AppConfig)
FAULTS: Final = web.AppKey("faults", Faults)
STORAGE: Final = web.AppKey("storage", Storage)
METRICS: Final = web.AppKey("metrics", Metrics)
LOGS: Final = web.AppKey[LogShipper | None]("logs")
SERVED_BY: Final = "x-served-by"
MAX_BODY_BYTES: Final = 1_000_000

UNAVAILABLE: Final = (
    *(psycopg.Error, psycopg_pool.PoolTimeout, RedisError),
    *(BotoCoreError, ClientError, PineconeException),
)
"""Nobody can say how much of the request was done."""

routes = web.RouteTableDef()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def tenant_of(request: web.Request) -> str:
    """Whose request it is: by the host's name; on a host of no tenant, by the header. As the gateway
    decides it."""
    if "tenant" not in request:
        request["tenant"] = _tenant_of(request)
    tenant: str = request["tenant"]
    return tenant


def _tenant_of(request: web.Request) -> str:
    tenants = request.app[STORAGE].tenants()
    host = request.host.split(":")[0].lower()
    for tenant, access in tenants.items():
        if access.host == host:
            return tenant
    if not host.endswith(f".{request.app[CONFIG].domain}"):
        named = request.headers.get(TENANT_HEADER)
        if named in tenants:
            return named
    raise web.HTTPNotFound(text="no such tenant\n")


@web.middleware
async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Name the cell on every answer, and turn what the stores refuse into a status."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers[SERVED_BY] = request.app[CONFIG].cell
        raise
    except Fenced as error:
        logger.info("fenced: %s", error.tenant)
        await request.read()  # the gateway takes a request again only if all of it had been sent
        scheme = request.headers.get("x-forwarded-proto", request.scheme)
        location = f"{scheme}://{request.host}{request.raw_path}"
        response = web.Response(status=307, headers={"location": location})
    except UNAVAILABLE as error:
        logger.warning("unavailable: %s %s: %s", request.method, request.path, error)
        response = web.json_response({"error": "a store is not available"}, status=503)
    response.headers[SERVED_BY] = request.app[CONFIG].cell
    return response


@web.middleware
async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count every request of a tenant, and log it: what is logged waits in memory until the shipper fetches it."""
    began, status = time.perf_counter(), 500
    try:
        response = await handler(request)
        status = response.status
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        tenant = request.get("tenant")
        if tenant is not None:
            took_s = time.perf_counter() - began
            request.app[METRICS].observe(tenant, request.method, status, took_s)
            if (logs := request.app[LOGS]) is not None:
                logs.log(tenant, _logged(request, tenant, status, took_s))
    return response


def _logged(request: web.Request, tenant: str, status: int, took_s: float) -> dict[str, Any]:
    return {
        "time": logged_at(),
        "cell": request.app[CONFIG].cell,
        "tenant": tenant,
        "method": request.method,
        "path": request.path,
        "status": status,
        "ms": round(took_s * 1000, 2),
    }


@web.middleware
async def go_wrong(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Fail or dawdle as the cell's faults say; nothing happens without any."""
    faults = request.app[FAULTS].now()
    if faults and (fault := faults.get(tenant_of(request))) and fault.hits(request.method):
        await asyncio.sleep(fault.delay_s)
        if fault.fails:
            return web.json_response({"error": "told to fail"}, status=500)
    return await handler(request)


async def fields_of(request: web.Request) -> dict[str, Any]:
    if not request.can_read_body:
        return {}
    try:
        fields = await request.json()
    except json.JSONDecodeError:
        raise web.HTTPBadRequest(text="the body is not JSON\n") from None
    if not isinstance(fields, dict):
        raise web.HTTPBadRequest(text="the body is not a JSON object\n")
    return fields


def document_of(fields: dict[str, Any]) -> Document:
    title, body, meta = fields.get("title"), fields.get("body"), fields.get("meta", {})
    if not isinstance(title, str) or not title or not isinstance(body, str) or not isinstance(meta, dict):
        raise web.HTTPBadRequest(
            text="a document has a title and a body (text), and may have meta (an object)\n"
        )
    return Document(title=title, body=body, meta=meta)


def key_of(request: web.Request) -> int:
    return int(request.match_info["id"])


def said(request: web.Request, status: int = 200, **fields: Any) -> web.Response:
    return web.json_response({"cell": request.app[CONFIG].cell, **fields}, status=status)


@routes.post("/documents")
async def create_document(request: web.Request) -> web.Response:
    tenant, fields = tenant_of(request), await fields_of(request)
    key = fields.get("id")
    if key is not None and (not isinstance(key, int) or not CLIENT_IDS_FROM <= key < 2**63):
        raise web.HTTPBadRequest(text=f"an id that you choose is a number from {CLIENT_IDS_FROM} on\n")
    stored = await request.app[STORAGE].put_document(tenant, key, document_of(fields), create=True)
    assert stored is not None, "what is created is stored"
    return said(request, 201, id=stored.value, event=stored.event)


@routes.put(r"/documents/{id:\d{1,18}}")
async def update_document(request: web.Request) -> web.Response:
    tenant, document = tenant_of(request), document_of(await fields_of(request))
    stored = await request.app[STORAGE].put_document(tenant, key_of(request), document, create=False)
    if stored is None:
        raise web.HTTPNotFound(text="no such document\n")
    return said(request, id=stored.value, event=stored.event)


@routes.delete(r"/documents/{id:\d{1,18}}")
async def delete_document(request: web.Request) -> web.Response:
    deleted = await request.app[STORAGE].delete_document(tenant_of(request), key_of(request))
    return said(request, id=key_of(request), deleted=deleted.value, event=deleted.event)


@routes.get(r"/documents/{id:\d{1,18}}")
async def get_document(request: web.Request) -> web.Response:
    document = await request.app[STORAGE].document(tenant_of(request), key_of(request))
    if document is None:
        raise web.HTTPNotFound(text="no such document\n")
    return said(request, id=key_of(request), title=document.title, body=document.body, meta=document.meta)


@routes.get(r"/files/{id:\d{1,18}}")
async def get_file(request: web.Request) -> web.Response:
    content = await request.app[STORAGE].file(tenant_of(request), key_of(request))
    if content is None:
        raise web.HTTPNotFound(text="no such file\n")
    return web.Response(body=content, content_type="text/plain", charset="utf-8")


@routes.get("/search")
async def search(request: web.Request) -> web.Response:
    hits = await request.app[STORAGE].search(tenant_of(request), request.query.get("q", ""))
    return said(request, hits=hits)


@routes.get("/similar")
async def similar(request: web.Request) -> web.Response:
    hits = await request.app[STORAGE].similar(tenant_of(request), request.query.get("q", ""))
    if hits is None:
        raise web.HTTPNotFound(text="this cell has no index\n")
    return said(request, hits=hits)


@routes.get("/recent")
async def recent(request: web.Request) -> web.Response:
    return said(request, documents=await request.app[STORAGE].recent(tenant_of(request)))


@routes.post(r"/counters/{name:[\w.-]{1,80}}")
async def count_up(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    counted = await request.app[STORAGE].count_up(tenant_of(request), name)
    return said(request, name=name, value=counted.value, event=counted.event)


@routes.get(r"/counters/{name:[\w.-]{1,80}}")
async def get_counter(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    return said(request, name=name, value=await request.app[STORAGE].counter(tenant_of(request), name))


@routes.post("/sessions")
async def put_session(request: web.Request) -> web.Response:
    tenant, fields = tenant_of(request), await fields_of(request)
    session, ttl_s = fields.get("id") or uuid.uuid4().hex, fields.get("ttl_s", 3600)
    values = fields.get("fields", {})
    if not isinstance(session, str) or not isinstance(ttl_s, int | float) or not 0 < ttl_s < 10**8:
        raise web.HTTPBadRequest(text="a session has an id (text) and a ttl_s (seconds)\n")
    if not isinstance(values, dict) or not values or not all(isinstance(v, str) for v in values.values()):
        raise web.HTTPBadRequest(text="a session has fields: an object of texts\n")
    stored = await request.app[STORAGE].put_session(tenant, session, values, float(ttl_s))
    return said(request, 201, id=session, event=stored.event)


@routes.get(r"/sessions/{id:[\w.-]{1,80}}")
async def get_session(request: web.Request) -> web.Response:
    session = request.match_info["id"]
    fields = await request.app[STORAGE].session(tenant_of(request), session)
    if not fields:
        raise web.HTTPNotFound(text="no such session\n")
    return said(request, id=session, fields=fields)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    logs = request.app[LOGS]
    text = request.app[METRICS].exposition(log_events_dropped=logs.dropped if logs else 0)
    return web.Response(body=text.encode(), headers={"content-type": CONTENT_TYPE})


@routes.get("/healthz")
async def healthz(request: web.Request) -> web.Response:
    return said(request)


def make_app(config: AppConfig) -> web.Application:
    app = web.Application(middlewares=[observed, answer, go_wrong], client_max_size=MAX_BODY_BYTES)
    app[CONFIG] = config
    app[FAULTS] = Faults(config.faults_file)
    app[METRICS] = Metrics()
    app[LOGS] = LogShipper(config, config.logs) if config.logs else None
    app.add_routes(routes)

    async def stores(app: web.Application) -> Any:
        async with Storage(config) as storage:
            app[STORAGE] = storage
            with ExitStack() as shipping:
                for background in _backgrounds(app):
                    shipping.enter_context(background)
                yield

    app.cleanup_ctx.append(stores)
    return app


def _backgrounds(app: web.Application) -> Iterator[Background]:
    """Those for the stores that the cell has."""
    config = app[CONFIG]
    if (logs := app[LOGS]) is not None:
        yield logs
    if config.logs:
        yield MetricsReporter(config.logs, config.cell, app[METRICS])
    if config.warehouse:
        yield UsageShipper(config, config.warehouse)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="rag_app.app", description="Serve the RAG service of one cell.")
    parser.add_argument("--cell", required=True, help="the cell's name; must be the configuration's")
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", required=True, type=int)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "pinecone"):  # a line for each request, which is logged already
        logging.getLogger(chatty).setLevel(logging.WARNING)
    config = AppConfig.load(arguments.config)
    if config.cell != arguments.cell:
        parser.error(f"{arguments.config} is the configuration of cell {config.cell}")
    web.run_app(
        make_app(config),
        host=arguments.host,
        port=arguments.port,
        access_log=None,
        keepalive_timeout=75,  # longer than the gateway keeps idle connections
        shutdown_timeout=5,
        print=lambda *_: print("ready", file=sys.stdout, flush=True),  # noqa: T201 - for whoever started us
    )


if __name__ == "__main__":
    main()
