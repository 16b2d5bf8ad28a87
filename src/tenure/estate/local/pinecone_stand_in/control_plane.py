"""The control plane (indexes of the one project), and the address by which tests say how the stand-in shall behave."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web

from tenure.estate.local.pinecone_stand_in import limits
from tenure.estate.local.pinecone_stand_in.data_plane import answer
from tenure.estate.local.pinecone_stand_in.faults import Behaviour, from_json
from tenure.estate.local.pinecone_stand_in.limits import Counter
from tenure.estate.local.pinecone_stand_in.records import Body, Index, Records
from tenure.estate.local.pinecone_stand_in.refusals import Refused

BEHAVIOUR: Final = "/stand-in/behaviour"
SETTLE: Final = "/stand-in/settle"
DENSE_FIELD: Final = "_values"
"""The field under which the vectors API knows dense values."""
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,43}[a-z0-9])?")
_METRICS: Final = ("cosine", "dotproduct", "euclidean")


def description(name: str, schema: Body, body: Body) -> Body:
    """How the control plane describes an index, all but its host."""
    return {
        "name": name,
        "schema": schema,
        "deployment": body.get("deployment")
        or {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"},
        "read_capacity": {"mode": "OnDemand", "status": {"state": "Ready"}},
        "status": {"ready": True, "state": "Ready"},
        "deletion_protection": body.get("deletion_protection") or "disabled",
        "tags": body.get("tags"),
    }


def dense_schema(dimension: int, metric: str) -> Body:
    return {"fields": {DENSE_FIELD: {"type": "dense_vector", "dimension": dimension, "metric": metric}}}


class ControlPlane:
    """Answers for the project. `opened` and `closed` start and stop the data plane of an index."""

    def __init__(
        self,
        records: Records,
        counter: Counter,
        opened: Callable[[Index], Awaitable[Index]],
        closed: Callable[[str], Awaitable[None]],
    ) -> None:
        self.behaviour = Behaviour()
        self._records = records
        self._counter = counter
        self._opened = opened
        self._closed = closed

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/indexes", self.list_indexes),
            web.post("/indexes", self.create),
            web.get("/indexes/{name}", self.describe),
            web.delete("/indexes/{name}", self.delete),
            web.get(BEHAVIOUR, self.show_behaviour),
            web.put(BEHAVIOUR, self.set_behaviour),
            web.post(SETTLE, self.settle),
        ]

    async def list_indexes(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return answer({"indexes": [seen(index) for index in self._records.indexes()]})

    async def describe(self, request: web.Request) -> web.Response:
        return answer(seen(self._index(request.match_info["name"])))

    async def create(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        name = body.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Refused(400, "name: 1 to 45 lower-case letters, digits and hyphens")
        if any(index.name == name for index in self._records.indexes()):
            raise Refused(409, f"Resource {name} already exists")
        schema = checked_schema(body.get("schema"))
        made = await self._opened(Index(name=name, port=0, description=description(name, schema, body)))
        self._records.put_index(made)
        return web.Response(status=201, body=orjson.dumps(seen(made)), content_type="application/json")

    async def delete(self, request: web.Request) -> web.Response:
        index = self._index(request.match_info["name"])
        if index.description["deletion_protection"] == "enabled":
            raise Refused(403, "Deletion protection is enabled for this index")
        await self._closed(index.name)
        self._records.drop_index(index.name)
        return web.Response(status=202)

    def _index(self, name: str) -> Index:
        for index in self._records.indexes():
            if index.name == name:
                return index
        raise Refused(404, f"Resource {name} not found")

    async def show_behaviour(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return answer({**dataclasses.asdict(self.behaviour), "limits": self._counter.scale})

    async def settle(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Reads see everything that was written so far."""
        self._records.settle(lag_s=-1.0)
        return answer({})

    async def set_behaviour(self, request: web.Request) -> web.Response:
        """Replaces everything; `limits` multiplies the documented rates, null switches them off."""
        wanted = orjson.loads(await request.read())
        scale = wanted.pop("limits", 1.0)
        try:
            self.behaviour = from_json(wanted)
        except TypeError as error:
            raise Refused(400, str(error)) from error
        self._counter.scale = scale
        return answer({})


def seen(index: Index) -> Body:
    """The description as it is sent."""
    return {**index.description, "host": f"http://127.0.0.1:{index.port}"}


def checked_schema(schema: Any) -> Body:
    """A schema with one dense field at most, and a sparse one. Raises `Refused`."""
    fields = schema.get("fields") if isinstance(schema, dict) else None
    if not isinstance(fields, dict) or not fields:
        raise Refused(400, "schema: fields are needed")
    kinds = [field.get("type") for field in fields.values()]
    if any(kind not in ("dense_vector", "sparse_vector") for kind in kinds):
        raise Refused(400, "this stand-in has indexes of vectors only")
    for field in fields.values():
        if field["type"] == "dense_vector":
            dimension = field.get("dimension")
            if not isinstance(dimension, int) or not 1 <= dimension <= limits.DIMENSION:
                raise Refused(400, f"dimension: from 1 to {limits.DIMENSION}")
            if field.setdefault("metric", "cosine") not in _METRICS:
                raise Refused(400, f"metric: one of {', '.join(_METRICS)}")
    return {"fields": fields}
