"""JSON as the control database keeps it: times become ISO 8601 texts, secrets are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from tenure.model.operation import JsonObject


def document(value: JsonObject | None) -> Jsonb | None:
    """Wrap a JSON object for a statement; None stays NULL. What JSON cannot hold (a `Secret`) raises `TypeError`."""
    return None if value is None else Jsonb(value, dumps=_dumps)


def _dumps(value: Any) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"a {type(value).__name__} cannot be kept as JSON")
