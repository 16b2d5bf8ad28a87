"""What Tenure asks Envoy's admin port: is it ready, what has it loaded, what is under way, what does it
really do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from tenure.errors import StoreUnavailable
from tenure.model.traffic import Traffic
from tenure.routing.envoy.bootstrap import STAT_PREFIX
from tenure.routing.envoy.connection import Connection
from tenure.routing.envoy.routes import ROUTE_CONFIG

_ROUTES: Final = f"http.{STAT_PREFIX}.rds.{ROUTE_CONFIG}"
_CLUSTERS: Final = "cluster_manager.cds"
_WARMING: Final = "cluster_manager.warming_clusters"
_LOADED: Final = re.compile(
    f"{re.escape(_ROUTES)}.(version_text|update_rejected)|{re.escape(_CLUSTERS)}.(version_text|update_rejected)|{_WARMING}"
)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The versions that an Envoy has in use, and how many documents it has rejected since it started."""

    routes: str
    clusters: str
    rejected: int
    warming: int


class EnvoyAdmin:
    """One Envoy. Calls raise `StoreUnavailable`."""

    def __init__(self, address: str, *, timeout_s: float) -> None:
        self.address = address
        self._connection = Connection(address, what="Envoy's admin port", timeout_s=timeout_s)

    def ready(self) -> None:
        """Return if this Envoy takes requests."""
        answer = self._connection.request("GET", "/ready")
        if answer.status != 200:
            raise StoreUnavailable(
                f"Envoy at {self.address} is not ready: {answer.body.decode(errors='replace').strip()}",
                hint="it waits for its first rds.json and cds.json, or is shutting down",
            )

    def loaded(self) -> Loaded:
        """What this Envoy has in use."""
        stats = self._stats(_LOADED.pattern)
        return Loaded(
            routes=stats.get(f"{_ROUTES}.version_text", "").strip('"'),
            clusters=stats.get(f"{_CLUSTERS}.version_text", "").strip('"'),
            rejected=_number(stats, f"{_ROUTES}.update_rejected")
            + _number(stats, f"{_CLUSTERS}.update_rejected"),
            warming=_number(stats, _WARMING),
        )

    def under_way(self, clusters: Iterable[str], *, missing_ok: bool = False) -> dict[str, int]:
        """For each cluster how many requests are queued or running there.

        A cluster that does not exist in this Envoy raises, or counts as idle with `missing_ok`.
        """
        names = list(clusters)
        either = "|".join(re.escape(name) for name in names)
        stats = self._stats(f"^cluster\\.({either})\\.upstream_rq_(pending_)?active$")
        counts = {}
        for name in names:
            prefix = f"cluster.{name}.upstream_rq"
            if f"{prefix}_active" not in stats and not missing_ok:
                raise StoreUnavailable(
                    f"Envoy at {self.address} has no cluster {name}",
                    hint="the tenant is not gated in this Envoy",
                )
            counts[name] = _number(stats, f"{prefix}_active") + _number(stats, f"{prefix}_pending_active")
        return counts

    def traffic(self, names: Sequence[str]) -> list[Traffic]:
        """What was counted under each of these names of routes, on the tenant's own host and on the shared one.

        A name that nothing was counted under gives zeros.
        """
        either = "|".join(re.escape(name) for name in names)
        which = f"\\.route\\.({either})\\.upstream_rq_(total|completed|5xx|time)$"
        path = f"/stats?format=json&histogram_buckets=detailed&usedonly&filter={quote(which, safe='')}"
        answer = self._connection.request("GET", path)
        try:
            counters: dict[str, int] = {}
            found: list[dict[str, Any]] = []
            for each in json.loads(answer.body)["stats"]:
                if "histograms" in each:
                    found += each["histograms"].get("details", [])
                else:
                    counters[each["name"]] = int(each["value"])
            histograms = {each["name"]: _latencies(each["totals"]) for each in found}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._strange() from error
        return [_counted(name, counters, histograms) for name in names]

    def route_config(self) -> dict[str, Any]:
        """The route configuration that this Envoy really uses."""
        answer = self._connection.request("GET", "/config_dump?resource=dynamic_route_configs")
        try:
            found = [
                entry["route_config"]
                for entry in json.loads(answer.body).get("configs", [])
                if entry.get("route_config", {}).get("name") == ROUTE_CONFIG
            ]
        except (ValueError, AttributeError) as error:
            raise self._strange() from error
        return found[0] if found else {}

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def _stats(self, pattern: str) -> dict[str, str]:
        answer = self._connection.request("GET", f"/stats?filter={quote(pattern, safe='')}")
        if answer.status != 200:
            raise self._strange()
        lines = answer.body.decode(errors="replace").splitlines()
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}

    def _strange(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.address} does not answer like Envoy's admin port",
            hint="is its port taken by something else?",
        )


def _latencies(bins: Iterable[dict[str, float]]) -> dict[float, int]:
    """Envoy's bins, two significant digits wide, by their upper edges in milliseconds."""
    return {round(one["lower_bound"] + one["width"], 6): int(one["count"]) for one in bins}


def _counted(name: str, counters: dict[str, int], histograms: dict[str, dict[float, int]]) -> Traffic:
    prefixes = {key[: key.index(mark)] + mark for key in counters if (mark := f".route.{name}.") in key}

    def of(prefix: str) -> Traffic:
        return Traffic(
            begun=counters.get(f"{prefix}upstream_rq_total", 0),
            answered=counters.get(f"{prefix}upstream_rq_completed", 0),
            failed=counters.get(f"{prefix}upstream_rq_5xx", 0),
            latencies=histograms.get(f"{prefix}upstream_rq_time", {}),
        )

    return Traffic.total(of(prefix) for prefix in prefixes)


def _number(stats: dict[str, str], name: str) -> int:
    text = stats.get(name, "0")
    return int(text) if text.isdigit() else 0
