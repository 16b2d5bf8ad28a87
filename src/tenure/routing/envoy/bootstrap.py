"""Envoy's bootstrap: one listener whose routes and clusters come from two watched files, and an admin port.

The gate's filter is off unless a route turns it on, and a header by which the gate names a cell is removed
from whatever clients send before any route is chosen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tenure.model.names import CellName
from tenure.routing.envoy.files import replace_file
from tenure.routing.envoy.options import EnvoyOptions
from tenure.routing.envoy.routes import (
    AUTHZ,
    CELL_HEADER,
    ROUTE_CONFIG,
    TYPE,
    Document,
    cluster_document,
    default_check,
    duration,
    route_document,
    split_address,
)

BOOTSTRAP_FILE: Final = "envoy.json"
ROUTES_FILE: Final = "rds.json"
CLUSTERS_FILE: Final = "cds.json"
STAT_PREFIX: Final = "gateway"
_UNASKED_GATE: Final = "~gate"
_STATS_FLUSH_S: Final = 1.0


def bootstrap(*, config_dir: Path, listen: str, admin: str, options: EnvoyOptions) -> Document:
    """The bootstrap document. `config_dir` is the folder as Envoy sees it; the admin port is for Tenure
    only."""
    return {
        "node": {"id": "gateway", "cluster": "gateway"},
        "admin": {"address": _socket(admin)},
        "static_resources": {
            "listeners": [
                {
                    "name": "users",
                    "address": _socket(listen),
                    "filter_chains": [{"filters": [_connection_manager(config_dir, options)]}],
                }
            ]
        },
        # Latencies become visible with each flush: whoever watches a cell wants them soon.
        "stats_flush_interval": duration(_STATS_FLUSH_S),
        "dynamic_resources": {"cds_config": _watched(config_dir / CLUSTERS_FILE)},
    }


def write_bootstrap(
    *,
    config_dir: Path,
    listen: str,
    admin: str,
    gate_check: str,
    cells: Mapping[CellName, str],
    options: EnvoyOptions | None = None,
) -> Path:
    """Write `envoy.json` and, where they are missing, empty `rds.json` and `cds.json`; return the bootstrap's
    path.

    Idempotent; existing routes are left alone. Envoy only starts to listen once both documents exist.
    """
    chosen = options or EnvoyOptions()
    folder = config_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CLUSTERS_FILE).exists():
        clusters = cluster_document(cells, (), gate_check=gate_check, version="0", options=chosen)
        replace_file(folder / CLUSTERS_FILE, json.dumps(clusters))
    if not (folder / ROUTES_FILE).exists():
        routes = route_document({}, cells=cells, version="0", options=chosen)
        replace_file(folder / ROUTES_FILE, json.dumps(routes))
    document = bootstrap(config_dir=folder, listen=listen, admin=admin, options=chosen)
    path = folder / BOOTSTRAP_FILE
    replace_file(path, json.dumps(document, indent=1))
    return path


def _connection_manager(config_dir: Path, options: EnvoyOptions) -> Document:
    strip = {
        "name": "strip",
        "typed_config": {
            "@type": f"{TYPE}envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove": CELL_HEADER}],
        },
    }
    # Disabled here, and every route that enables it brings its own service: this one is never asked.
    authz = {
        "name": AUTHZ,
        "disabled": True,
        "typed_config": {
            "@type": f"{TYPE}envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "clear_route_cache": True,
            "failure_mode_allow": True,
            "status_on_error": {"code": "ServiceUnavailable"},
            "http_service": default_check("http://gate", _UNASKED_GATE, "/", options),
        },
    }
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": f"{TYPE}envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": True,
        },
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": STAT_PREFIX,
            "use_remote_address": True,
            "stream_idle_timeout": duration(max(300.0, options.hold_max_s + options.request_timeout_s)),
            "early_header_mutation_extensions": [strip],
            "rds": {
                "route_config_name": ROUTE_CONFIG,
                "config_source": _watched(config_dir / ROUTES_FILE),
            },
            "http_filters": [authz, router],
        },
    }


def _watched(path: Path) -> Document:
    """Envoy reloads the file when another one is renamed over it, and only this file."""
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def _socket(address: str) -> Document:
    host, port, _ = split_address(address)
    return {"socket_address": {"address": host, "port_value": port}}
