"""Bodies of requests and answers of the data plane: what they may be, and how records are ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from typing import Any, Final

import orjson

from tenure.estate.local.pinecone_stand_in.filters import matches
from tenure.estate.local.pinecone_stand_in.records import Body, float32
from tenure.estate.local.pinecone_stand_in.refusals import Refused

DEFAULT_NAMESPACE: Final = "__default__"
NAMESPACE_LENGTH: Final = 512


def parsed(raw: bytes) -> tuple[Body, str]:
    """The body of a request and the namespace it names. Raises `Refused`."""
    try:
        body = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "the body must be an object")
    return body, named(body.get("namespace"))


def named(namespace: Any) -> str:
    """The namespace's name; the default one has none. Raises `Refused`."""
    name = namespace or ""
    if not isinstance(name, str) or not name.isascii() or "\0" in name or len(name) > NAMESPACE_LENGTH:
        raise Refused(400, f"namespace: up to {NAMESPACE_LENGTH} characters of ASCII")
    return "" if name == DEFAULT_NAMESPACE else name


def shown(namespace: str) -> str:
    return namespace or DEFAULT_NAMESPACE


def described(namespace: str, records: int) -> Body:
    """A namespace as the vendor describes it: its count is a text."""
    return {"name": shown(namespace), "record_count": str(records)}


def checked_filter(filter_: Any, what: str) -> Body:
    if not isinstance(filter_, dict) or not filter_:
        raise Refused(400, f"{what} with empty metadata filter is not allowed")
    matches(filter_, {})
    return filter_


def floats(values: Sequence[Any]) -> list[float]:
    try:
        kept = float32(values)
    except (TypeError, OverflowError) as error:
        raise Refused(400, "values must be numbers of 32 bits") from error
    if not all(map(math.isfinite, kept)):
        raise Refused(400, "values must be finite")
    return kept


def score(metric: str, dense: Sequence[float], sparse: Body, record: Body) -> float:
    """How near the record is: the higher the nearer."""
    values = record["values"]
    if dense and len(values) == len(dense):
        if metric == "euclidean":
            return -math.dist(dense, values)
        dot = float(sum(map(mul, dense, values)))
        if metric == "cosine":
            return dot / (math.hypot(*dense) * math.hypot(*values) or 1.0)
    else:
        dot = 0.0
    weights = dict(zip(sparse.get("indices", ()), sparse.get("values", ()), strict=True))
    held = record.get("sparseValues") or {"indices": (), "values": ()}
    pairs = zip(held["indices"], held["values"], strict=True)
    return float(dot + sum(weights.get(at, 0.0) * value for at, value in pairs))
