"""The route table of the gateway, `routes.json`, and the two documents that Envoy loads from beside it.

The table is the truth on this side; the documents are computed from it and only rewritten when they would
differ. Whoever changes the table holds its lock until every Envoy has loaded the change, so versions only
grow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.names import CellName, TenantId
from tenure.routing.envoy.bootstrap import CLUSTERS_FILE, ROUTES_FILE
from tenure.routing.envoy.files import locked, replace_file
from tenure.routing.envoy.options import EnvoyOptions
from tenure.routing.envoy.routes import Document, Route, cluster_document, route_document

TABLE_FILE: Final = "routes.json"
_LOCK_FILE: Final = "routes.lock"
_TABLE_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Table:
    """Every tenant's route. `clustered` are the tenants whose clusters must exist: the gated ones, and while
    a change is under way (or was cut off) also those that some Envoy may still route through."""

    routes: Mapping[TenantId, Route]
    clustered: frozenset[TenantId]

    @property
    def gated(self) -> frozenset[TenantId]:
        return frozenset(tenant for tenant, route in self.routes.items() if route.gated)


class RouteFiles:
    """The files of one `config_dir`. Methods other than `exclusive` and `read` must be called inside
    `exclusive`."""

    def __init__(
        self, folder: Path, *, cells: Mapping[CellName, str], gate_check: str, options: EnvoyOptions
    ) -> None:
        self._folder = folder
        self._cells = dict(cells)
        self._gate_check = gate_check
        self._options = options

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other process and thread from changing the files. Raises `DeadlineExceeded`."""
        with locked(self._folder / _LOCK_FILE, timeout_s=2 * self._options.apply_timeout_s):
            yield

    def read(self) -> Table:
        """The table as it is; empty if there is none yet. Raises `StoreRefused` if it cannot be
        understood."""
        text = self._text(TABLE_FILE)
        if text is None:
            return Table(routes={}, clustered=frozenset())
        try:
            document = json.loads(text)
            if document["version"] != _TABLE_VERSION:
                raise ValueError(f"version {document['version']}")
            routes = {
                TenantId(name): Route(
                    host=line["host"],
                    cell=CellName(line["cell"]),
                    gated=line["gated"],
                    # Lines written before epochs were kept have none: any placement is newer.
                    epoch=int(line.get("epoch", 0)),
                )
                for name, line in document["tenants"].items()
            }
            return Table(routes=routes, clustered=frozenset(TenantId(name) for name in document["clustered"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreRefused(
                f"{self._folder / TABLE_FILE} is not a route table: {error}",
                hint="restore the file, or remove it and route every tenant again",
            ) from error

    def write(self, table: Table) -> None:
        """Replace the table."""
        tenants = {
            name: {"host": route.host, "cell": route.cell, "gated": route.gated, "epoch": route.epoch}
            for name, route in sorted(table.routes.items())
        }
        document = {"version": _TABLE_VERSION, "tenants": tenants, "clustered": sorted(table.clustered)}
        self._replace(TABLE_FILE, json.dumps(document, indent=0))

    def publish_clusters(self, clustered: Iterable[TenantId], *, renew: bool = False) -> str:
        """Let Envoy see exactly the clusters needed; return the version to wait for: a new one with `renew`."""
        document = cluster_document(
            self._cells, clustered, gate_check=self._gate_check, version="", options=self._options
        )
        return self._publish(CLUSTERS_FILE, document, renew=renew)

    def publish_routes(self, table: Table, *, renew: bool = False) -> str:
        """Let Envoy see the table's routes; return the version to wait for, a new one with `renew`. Raises
        `StoreRefused`."""
        unknown = sorted({route.cell for route in table.routes.values()} - self._cells.keys())
        if unknown:
            raise StoreRefused(
                f"the route table sends tenants to cells that the estate does not have: {', '.join(unknown)}",
                hint="add the cell to tenure.yaml, or route those tenants elsewhere first",
            )
        document = route_document(table.routes, cells=self._cells, version="", options=self._options)
        return self._publish(ROUTES_FILE, document, renew=renew)

    def snapshot(self) -> dict[str, str | None]:
        """The files' texts, for `restore`."""
        return {name: self._text(name) for name in (CLUSTERS_FILE, ROUTES_FILE, TABLE_FILE)}

    def restore(self, texts: Mapping[str, str | None]) -> None:
        """Put the texts back where they differ, clusters first, under new versions."""
        for name, text in texts.items():
            if text is None or text == self._text(name):
                continue
            if name == TABLE_FILE:
                self._replace(name, text)
            else:
                self._publish(name, json.loads(text))

    def _publish(self, name: str, document: Document, *, renew: bool = False) -> str:
        present = self._document(name)
        version = str(present.get("version_info", "0"))
        if present.get("resources") == document["resources"] and not renew:
            return version
        # Grows with time even if the folder was emptied meanwhile: an Envoy never takes an old version for a
        # new one.
        newer = str(max(int(version) + 1 if version.isdigit() else 0, time.time_ns() // 1000))
        self._replace(name, json.dumps({**document, "version_info": newer}, separators=(",", ":")))
        return newer

    def _document(self, name: str) -> dict[str, Any]:
        text = self._text(name)
        if text is None:
            return {}
        try:
            found = json.loads(text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _text(self, name: str) -> str | None:
        path = self._folder / name
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"cannot read {path}: {error.strerror}") from error

    def _replace(self, name: str, text: str) -> None:
        path = self._folder / name
        try:
            replace_file(path, text)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot write {path}: {error.strerror}",
                hint="Tenure needs to write the gateway's config_dir",
            ) from error
