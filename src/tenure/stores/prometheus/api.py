"""Prometheus' HTTP API, as far as Tenure uses it (Prometheus documentation, "HTTP API")."""

from __future__ import annotations

import base64
import http.client
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.secret import Secret

ANSWER_TIMEOUT_S: Final = 120.0
"""Deleting rewrites what is on disk while the request waits."""
PING_TIMEOUT_S: Final = 4.0
ADMIN_FLAG: Final = "--web.enable-admin-api"
_PLAIN_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_BUSY: Final = frozenset({429, 500, 502, 503, 504})

Matchers = Sequence[str]


def selector(**labels: str) -> str:
    """A series selector with these labels, each exactly so. The values are quoted as PromQL's strings are, and so are
    names that only Prometheus 3 can have (`tenant.id`): an older server refuses those, and says so."""
    return "{" + ",".join(f"{_name(name)}={quoted(value)}" for name, value in labels.items()) + "}"


def _name(label: str) -> str:
    return label if _PLAIN_NAME.fullmatch(label) else quoted(label)


def quoted(text: str) -> str:
    """A string literal of PromQL, whose escapes are Go's: JSON's are a part of them but for the slash's."""
    return json.dumps(text, ensure_ascii=False)


class PrometheusApi:
    """One server. Each call is a connection of its own, so it can be used by several threads.

    Raises `StoreUnavailable` if it cannot be reached, refuses the login or is busy, `StoreRefused` for a clear no.
    """

    def __init__(
        self, url: str, *, where: str, user: str | None, password: Secret | None, token: Secret | None
    ) -> None:
        parts = urlsplit(url)
        self.server: Final = parts.netloc.rpartition("@")[2]
        self._where = where
        self._tls = parts.scheme == "https"
        self._base = parts.path.rstrip("/")
        self._headers: dict[str, str] = {}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token.reveal()}"
        elif user is not None and password is not None:
            login = base64.b64encode(f"{user}:{password.reveal()}".encode()).decode()
            self._headers["Authorization"] = f"Basic {login}"

    def ready(self) -> None:
        """Return if it answers and lets us in."""
        self._get("/api/v1/status/buildinfo", {}, timeout_s=PING_TIMEOUT_S)

    def series(self, match: str) -> list[dict[str, str]]:
        """The labels of every series that matches."""
        return list(self._post("/api/v1/series", {"match[]": match, "start": "0"}))

    def labels(self) -> list[str]:
        return list(self._get("/api/v1/labels", {"start": "0"}))

    def values(self, label: str, match: str | None = None) -> list[str]:
        """Every value of the label, among the series that match."""
        asked = {"start": "0", **({"match[]": match} if match is not None else {})}
        return list(self._get(f"/api/v1/label/{quote(label, safe='')}/values", asked))

    def vector(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The result of an instant query that gives a vector."""
        data = self._post("/api/v1/query", {"query": query})
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def delete(self, match: str) -> None:
        """Mark the samples of every series that matches as deleted, of all times. Needs the admin API."""
        self._post("/api/v1/admin/tsdb/delete_series", {"match[]": match})

    def clean(self) -> None:
        """Rewrite the blocks on disk without what was deleted. Needs the admin API."""
        self._post("/api/v1/admin/tsdb/clean_tombstones", {})

    def _get(self, path: str, asked: Mapping[str, str], *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        query = f"?{urlencode(asked)}" if asked else ""
        return self._answer("GET", f"{self._base}{path}{query}", None, timeout_s)

    def _post(self, path: str, asked: Mapping[str, str]) -> Any:
        return self._answer("POST", f"{self._base}{path}", urlencode(asked), ANSWER_TIMEOUT_S)

    def _answer(self, method: str, target: str, body: str | None, timeout_s: float) -> Any:
        status, content = self._request(method, target, body, timeout_s)
        if status == 204:
            return None
        try:
            answer = json.loads(content)
        except ValueError:
            answer = {}
        said = str(answer.get("error", "")) or f"HTTP {status}"
        if status in (401, 403):
            raise StoreUnavailable(
                f"{self._where} refuses the login ({said})", hint="check the user and password, or the token"
            )
        if "admin APIs disabled" in said:
            raise StoreRefused(
                f"{self._where}: its admin API is off, so nothing can be erased",
                hint=f"start Prometheus with {ADMIN_FLAG}, reachable for Tenure alone",
            )
        if status in _BUSY and answer.get("errorType") != "execution":
            raise StoreUnavailable(f"{self._where} cannot serve now: {said}")
        if status != 200 or answer.get("status") != "success":
            raise StoreRefused(f"{self._where} refused {target.partition('?')[0]}: {said}")
        return answer.get("data")

    def _request(self, method: str, target: str, body: str | None, timeout_s: float) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        connection = kind(self.server, timeout=timeout_s)
        form = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        try:
            connection.request(method, target, body=body, headers={**self._headers, **form})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise StoreUnavailable(
                f"{self._where} cannot be reached: {error}", hint="is Prometheus up, and its url right?"
            ) from error
        finally:
            connection.close()
