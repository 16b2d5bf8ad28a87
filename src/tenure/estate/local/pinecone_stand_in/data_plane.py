"""The data plane of one index: records and namespaces, by the paths, bodies and headers that the vendor's SDK uses."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from tenure.estate.local.pinecone_stand_in import limits
from tenure.estate.local.pinecone_stand_in.bodies import (
    checked_filter,
    described,
    floats,
    named,
    parsed,
    score,
    shown,
)
from tenure.estate.local.pinecone_stand_in.faults import Behaviour, Fault, after, before
from tenure.estate.local.pinecone_stand_in.filters import matches
from tenure.estate.local.pinecone_stand_in.limits import Counter, check_id, check_metadata
from tenure.estate.local.pinecone_stand_in.records import Body, Index, Records
from tenure.estate.local.pinecone_stand_in.refusals import Refused

REQUEST_LSN: Final = "x-pinecone-request-lsn"
INDEXED_LSN: Final = "x-pinecone-max-indexed-lsn"

Handler = Callable[[web.Request], Awaitable[web.Response]]


def answer(body: Any, **headers: int) -> web.Response:
    """A body in JSON; names of headers with `_` for `-`."""
    response = web.Response(body=orjson.dumps(body), content_type="application/json")
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = str(value)
    return response


def token_of(last: str, pages: int) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([last, pages])).decode()


def of_token(token: str | None) -> tuple[str, int]:
    """The last id of the page before, and how many pages there were. Raises `Refused`."""
    if not token:
        return "", 0
    try:
        last, pages = orjson.loads(base64.urlsafe_b64decode(token))
    except ValueError as error:
        raise Refused(400, "Invalid pagination token") from error
    return str(last), int(pages)


class DataPlane:
    """Answers the requests to one index."""

    def __init__(self, index: Index, records: Records, behaviour: Callable[[], Behaviour], counter: Counter):
        self._index = index
        self._name = index.name
        self._records = records
        self._behaviour = behaviour
        self._counter = counter

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/vectors/upsert", self.upsert),
            web.get("/vectors/fetch", self.fetch),
            web.post("/vectors/fetch_by_metadata", self.fetch_by_metadata),
            web.get("/vectors/list", self.list_ids),
            web.post("/vectors/update", self.update),
            web.post("/vectors/delete", self.delete),
            web.post("/query", self.query),
            web.post("/describe_index_stats", self.stats),
            web.get("/namespaces", self.namespaces),
            web.post("/namespaces", self.create_namespace),
            web.get("/namespaces/{name}", self.describe_namespace),
            web.delete("/namespaces/{name}", self.delete_namespace),
        ]

    # -- writing -----------------------------------------------------------------------------------------------------

    async def upsert(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body, namespace = parsed(raw)
        fault = await self._begin("upsert", namespace)
        self._counter.charge("upsert_bytes", self._name, namespace, len(raw))
        if len(raw) > limits.UPSERT_BYTES:
            raise Refused(413, f"Request size {len(raw)} exceeds the limit of {limits.UPSERT_BYTES} bytes")
        given = body.get("vectors")
        if not isinstance(given, list) or not given:
            raise Refused(400, "vectors: at least one vector is needed")
        if len(given) > limits.UPSERT_RECORDS:
            raise Refused(
                400, f"Batch size {len(given)} exceeds the limit of {limits.UPSERT_RECORDS} records"
            )
        records = [self._record(one) for one in given]
        if fault is not None and fault.records is not None:
            records = records[: fault.records]
        lsn = self._records.upsert(self._name, namespace, records, late=self._late)
        after(fault)
        return answer({"upsertedCount": len(records)}, **{REQUEST_LSN: lsn})

    async def update(self, request: web.Request) -> web.Response:
        body, namespace = parsed(await request.read())
        by_filter = "filter" in body
        fault = await self._begin("update", namespace)
        change: Body = {}
        if "setMetadata" in body:
            check_metadata(body["setMetadata"], orjson.dumps(body["setMetadata"]))
            change["set"] = body["setMetadata"]
        if by_filter:
            self._counter.charge("update_by_metadata", self._name, namespace)
            change["filter"] = checked_filter(body["filter"], "Update")
            hit = sum(1 for _ in self._matching(namespace, body["filter"]))
            if body.get("dryRun"):
                return answer({"matchedRecords": hit})
        else:
            change["update"] = check_id(body.get("id"))
            if "values" in body:
                change["values"] = self._dense(body["values"])
            if "sparseValues" in body:
                change["sparseValues"] = self._sparse(body["sparseValues"])
        self._require(namespace)
        lsn = self._records.change(self._name, namespace, change, late=self._late)
        after(fault)
        return answer({"matchedRecords": hit} if by_filter else {}, **{REQUEST_LSN: lsn})

    async def delete(self, request: web.Request) -> web.Response:
        body, namespace = parsed(await request.read())
        fault = await self._begin("delete", namespace)
        change: Body
        if "filter" in body:
            self._counter.charge("delete_by_metadata", self._name, namespace)
            change = {"filter": checked_filter(body["filter"], "Delete")}
        elif body.get("deleteAll"):
            change = {"all": True}
        else:
            ids = [check_id(one) for one in body.get("ids") or []]
            if not ids or len(ids) > limits.DELETE_IDS:
                raise Refused(400, f"ids: from 1 to {limits.DELETE_IDS} are needed")
            self._counter.charge("delete_records", self._name, namespace, len(ids))
            change = {"ids": ids}
        self._require(namespace)
        lsn = self._records.change(self._name, namespace, change, late=self._late)
        after(fault)
        return answer({}, **{REQUEST_LSN: lsn})

    def _record(self, given: Any) -> Body:
        if not isinstance(given, dict):
            raise Refused(400, "a vector is an object")
        record: Body = {"id": check_id(given.get("id")), "values": []}
        if given.get("values"):
            record["values"] = self._dense(given["values"])
        if given.get("sparseValues"):
            record["sparseValues"] = self._sparse(given["sparseValues"])
        if not record["values"] and "sparseValues" not in record:
            raise Refused(400, f"Vector {record['id']} has neither values nor sparse values")
        metadata = given.get("metadata")
        if metadata:
            metadata = {key: value for key, value in metadata.items() if value is not None}
            check_metadata(metadata, orjson.dumps(metadata))
            record["metadata"] = metadata
        return record

    def _dense(self, values: Any) -> list[float]:
        wanted = self._index.dimension
        if wanted is None:
            raise Refused(400, "this index holds sparse vectors only")
        if not isinstance(values, list) or len(values) != wanted:
            has = len(values) if isinstance(values, list) else 0
            raise Refused(400, f"Vector dimension {has} does not match the dimension of the index {wanted}")
        kept = floats(values)
        if not any(kept):
            raise Refused(400, "Dense vectors must contain at least one non-zero value")
        return kept

    def _sparse(self, sparse: Any) -> Body:
        indices, values = sparse.get("indices"), sparse.get("values")
        if not isinstance(indices, list) or not isinstance(values, list) or len(indices) != len(values):
            raise Refused(400, "Sparse vector: as many indices as values are needed")
        if len(indices) > limits.SPARSE_VALUES or len(set(indices)) != len(indices):
            raise Refused(400, f"Sparse vector: at most {limits.SPARSE_VALUES} indices, none twice")
        return {"indices": indices, "values": floats(values)}

    # -- reading -----------------------------------------------------------------------------------------------------

    async def fetch(self, request: web.Request) -> web.Response:
        ids = request.query.getall("ids", [])
        namespace = named(request.query.get("namespace"))
        fault = await self._begin("fetch", namespace)
        if not ids or len(ids) > limits.FETCH_IDS:
            raise Refused(400, f"ids: from 1 to {limits.FETCH_IDS} are needed")
        found = self._records.fetch(self._name, namespace, ids)
        after(fault)
        vectors = b",".join(orjson.dumps(one) + b":" + body for one, body in found)
        whole = b'{"vectors":{%s},"namespace":%s,"usage":{"readUnits":1}}' % (
            vectors,
            orjson.dumps(shown(namespace)),
        )
        return web.Response(body=whole, content_type="application/json")

    async def fetch_by_metadata(self, request: web.Request) -> web.Response:
        body, namespace = parsed(await request.read())
        fault = await self._begin("fetch", namespace)
        filter_ = checked_filter(body.get("filter"), "Fetch by metadata")
        limit = min(int(body.get("limit") or limits.METADATA_DEFAULT), limits.METADATA_PAGE)
        last, pages = self._page(body.get("paginationToken"))
        page: Body = {}
        for record in self._matching(namespace, filter_):
            if record["id"] > last:
                page[record["id"]] = record
                if len(page) > limit:
                    break
        more = len(page) > limit
        if more:
            page.popitem()
        after(fault)
        result: Body = {"vectors": page, "namespace": shown(namespace), "usage": {"readUnits": 1}}
        if more:
            result["pagination"] = {"next": token_of(next(reversed(page)), pages + 1)}
        return answer(result)

    async def list_ids(self, request: web.Request) -> web.Response:
        namespace = named(request.query.get("namespace"))
        fault = await self._begin("list", namespace)
        limit = int(request.query.get("limit") or limits.LIST_PAGE)
        if not 1 <= limit <= limits.LIST_PAGE:
            raise Refused(400, f"limit: from 1 to {limits.LIST_PAGE}")
        last, pages = self._page(request.query.get("paginationToken"))
        prefix = request.query.get("prefix", "")
        ids = self._records.ids(self._name, namespace, prefix=prefix, after=last, limit=limit + 1)
        after(fault)
        result: Body = {"vectors": [{"id": one} for one in ids[:limit]], "namespace": shown(namespace)}
        if len(ids) > limit:
            result["pagination"] = {"next": token_of(ids[limit - 1], pages + 1)}
        return answer({**result, "usage": {"readUnits": 1}})

    async def query(self, request: web.Request) -> web.Response:
        body, namespace = parsed(await request.read())
        fault = await self._begin("query", namespace)
        top = body.get("topK")
        if not isinstance(top, int) or not 1 <= top <= limits.QUERY_TOP_K:
            raise Refused(400, f"topK: from 1 to {limits.QUERY_TOP_K}")
        dense, sparse = body.get("vector") or [], body.get("sparseVector") or {}
        if "id" in body:
            held = self._records.fetch(self._name, namespace, [check_id(body["id"])])
            record = orjson.loads(held[0][1]) if held else {}
            dense, sparse = record.get("values", []), record.get("sparseValues", {})
        elif dense:
            dense = self._dense(dense)
        filter_ = body.get("filter") or {}
        scored = (
            (score(self._index.metric, dense, sparse, record), record["id"], record)
            for record in (self._matching(namespace, filter_) if dense or sparse else ())
        )
        best = heapq.nlargest(top, scored, key=lambda one: one[:2])
        found = [
            {
                "id": record["id"],
                "score": points,
                **({"values": record["values"]} if body.get("includeValues") else {}),
                **({"metadata": record.get("metadata", {})} if body.get("includeMetadata") else {}),
            }
            for points, _, record in best
        ]
        after(fault)
        if len(orjson.dumps(found)) > limits.RESULT_BYTES:
            raise Refused(400, f"the result is larger than {limits.RESULT_BYTES} bytes: ask for less")
        result = {"matches": found, "namespace": shown(namespace), "usage": {"readUnits": 1}}
        behaviour = self._behaviour()
        if (behaviour.lenient or behaviour.shy) and namespace not in self._counts():
            return answer(result)
        return answer(result, **{INDEXED_LSN: self._records.visible_lsn(self._name, namespace)})

    async def stats(self, request: web.Request) -> web.Response:
        body, _ = parsed(await request.read())
        fault = await self._begin("describe_index_stats", "")
        if body.get("filter"):
            raise Refused(400, "serverless indexes do not support describing index stats with a filter")
        counts = self._counts()
        after(fault)
        kind = "dense" if self._index.dimension is not None else "sparse"
        result: Body = {
            "namespaces": {shown(name): {"vectorCount": n} for name, n in counts.items()},
            "indexFullness": 0,
            "totalVectorCount": sum(counts.values()),
            "metric": self._index.metric,
            "vectorType": kind,
        }
        return answer(
            result if self._index.dimension is None else {**result, "dimension": self._index.dimension}
        )

    # -- namespaces --------------------------------------------------------------------------------------------------

    async def namespaces(self, request: web.Request) -> web.Response:
        fault = await self._begin("list_namespaces", "")
        limit = int(request.query.get("limit") or limits.NAMESPACE_PAGE)
        if not 1 <= limit <= limits.NAMESPACE_PAGE:
            raise Refused(400, f"limit: from 1 to {limits.NAMESPACE_PAGE}")
        last, pages = self._page(request.query.get("paginationToken"))
        prefix = request.query.get("prefix", "")
        counts = self._counts()
        known = sorted(name for name in counts if shown(name).startswith(prefix))
        page = [name for name in known if name > last or not pages][: limit + 1]
        after(fault)
        result: Body = {
            "namespaces": [described(n, counts[n]) for n in page[:limit]],
            "total_count": len(known),
        }
        if len(page) > limit:
            result["pagination"] = {"next": token_of(page[limit - 1], pages + 1)}
        return answer(result)

    async def create_namespace(self, request: web.Request) -> web.Response:
        body, _ = parsed(await request.read())
        name = named(body.get("name"))
        fault = await self._begin("create_namespace", name)
        if self._records.present(self._name, name):
            raise Refused(409, f"Namespace {shown(name)} already exists")
        self._records.make_namespace(self._name, name)
        after(fault)
        return answer(described(name, 0))

    async def describe_namespace(self, request: web.Request) -> web.Response:
        name = named(request.match_info["name"])
        fault = await self._begin("describe_namespace", name)
        counts = self._counts()
        if name not in counts:
            raise Refused(404, "Namespace not found")
        after(fault)
        return answer(described(name, counts[name]))

    async def delete_namespace(self, request: web.Request) -> web.Response:
        name = named(request.match_info["name"])
        fault = await self._begin("delete_namespace", name)
        self._require(name)
        lsn = self._records.drop_namespace(self._name, name, late=self._late)
        after(fault)
        return answer({}, **{REQUEST_LSN: lsn})

    # -- for all -----------------------------------------------------------------------------------------------------

    async def _begin(self, operation: str, namespace: str) -> Fault | None:
        behaviour = self._behaviour()
        fault = behaviour.fault(operation)
        self._counter.charge(operation, self._name, namespace)
        await before(fault)
        if not behaviour.frozen:
            self._records.settle(lag_s=behaviour.lag_s)
        return fault

    def _counts(self) -> Mapping[str, int]:
        return self._records.counts(self._name, shy=self._behaviour().shy)

    @property
    def _late(self) -> bool:
        behaviour = self._behaviour()
        return behaviour.frozen or behaviour.lag_s > 0

    def _require(self, namespace: str) -> None:
        if not self._behaviour().lenient and not self._records.present(self._name, namespace):
            raise Refused(404, "Namespace not found")

    def _matching(self, namespace: str, filter_: Body) -> Any:
        return self._records.matching(
            self._name, namespace, lambda one: matches(filter_, one.get("metadata", {}))
        )

    def _page(self, token: str | None) -> tuple[str, int]:
        last, pages = of_token(token)
        if token and self._behaviour().expired(pages):
            raise Refused(400, "Invalid pagination token: it has expired")
        return last, pages
