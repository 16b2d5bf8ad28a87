"""The documents that Envoy loads, computed from the route table and nothing else: no I/O, same input, same
bytes.

A direct tenant has one route to its cell's cluster. A gated tenant's routes ask the gate first; the gate's
answer carries `x-tenure-cell`, which selects the cluster `<cell>~<tenant>`. Those clusters exist per tenant
so that their gauges count that tenant's requests and nobody else's; each of their routes counts answers and
latencies under a name of its own, reads apart from everything else. The last routes are those that Envoy
takes when the gate is dead.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tenure.errors import UsageError
from tenure.model.names import CellName, TenantId
from tenure.routing.envoy.options import EnvoyOptions

Document = dict[str, Any]

ROUTE_CONFIG: Final = "tenants"
CELL_HEADER: Final = "x-tenure-cell"
CHECK_PATH: Final = "/check/"
CHECK_READS: Final = "reads"
SESSION_HEADER: Final = "x-tenure-session"
"""On a question to the gate: what the estate's `session_header` says."""
ORIGINAL_URL: Final = "x-envoy-original-url"
"""Set by Envoy on a request that comes back through the gate: a read that a fenced cell refused has to write."""
READ_METHODS: Final = "GET|HEAD|OPTIONS"
SHARED_HOST: Final = "~shared"
AUTHZ: Final = "envoy.filters.http.ext_authz"
TYPE: Final = "type.googleapis.com/"
_CHECK_MARGIN_S: Final = 1.0
_FIRST_TIME: Final[Document] = {"name": ORIGINAL_URL, "present_match": True, "invert_match": True}
_UNLIMITED: Final = 1_000_000
_UNKNOWN_TENANT: Final = '{"error":{"code":"unknown_tenant","message":"no such tenant at this gateway"}}'


@dataclass(frozen=True, kw_only=True)
class Route:
    """One tenant's line of the route table. `cell` is where a gated tenant falls back to without its gate."""

    host: str
    cell: CellName
    gated: bool = False
    epoch: int = 0
    """Of the placement that was routed last; Envoy is not told. 0 is older than every placement."""


def cell_cluster(cell: CellName, tenant: TenantId) -> str:
    """The cluster that carries only this tenant's requests to the cell."""
    return f"{cell}~{tenant}"


def gate_cluster(tenant: TenantId) -> str:
    """The cluster that carries only this tenant's questions to the gate."""
    return f"~gate~{tenant}"


def answer_for(cell: str, *, reads: bool) -> str:
    """What the gate puts into `x-tenure-cell`: the cell, and whether the request is counted as a read."""
    return f"{cell}~{CHECK_READS}" if reads else cell


def counted_as(cell: CellName, tenant: TenantId, *, reads: bool) -> str:
    """The name under which Envoy counts what a gated tenant's requests met in the cell."""
    return f"{cell}~{tenant}~{CHECK_READS if reads else 'others'}"


def duration(seconds: float) -> str:
    """A protobuf duration in JSON."""
    return f"{seconds:.3f}s"


def route_document(
    routes: Mapping[TenantId, Route], *, cells: Iterable[CellName], version: str, options: EnvoyOptions
) -> Document:
    """The RDS response: one virtual host per tenant, and one for the shared host that looks at the tenant
    header."""
    names = sorted(cells)
    hosts = [_virtual_host(tenant, routes[tenant], names, options) for tenant in sorted(routes)]
    return {
        "version_info": version,
        "resources": [
            {
                "@type": f"{TYPE}envoy.config.route.v3.RouteConfiguration",
                "name": ROUTE_CONFIG,
                "ignore_port_in_host_matching": True,
                # Removed on the way to the app, so that a request that comes back through the gate starts
                # clean.
                "request_headers_to_remove": [CELL_HEADER],
                "virtual_hosts": [*hosts, _shared_host(routes, names, options)],
            }
        ],
    }


def cluster_document(
    cells: Mapping[CellName, str],
    gated: Iterable[TenantId],
    *,
    gate_check: str,
    version: str,
    options: EnvoyOptions,
) -> Document:
    """The CDS response: every cell, and for each gated tenant its way to the gate and its own way to every
    cell."""
    idle_s = options.upstream_idle_s
    clusters = [_cluster(cell, cells[cell], idle_s, options) for cell in sorted(cells)]
    for tenant in sorted(gated):
        clusters.append(_cluster(gate_cluster(tenant), gate_check, 300.0, options))
        clusters += [
            _cluster(cell_cluster(cell, tenant), cells[cell], idle_s, options) for cell in sorted(cells)
        ]
    return {
        "version_info": version,
        "resources": [{"@type": f"{TYPE}envoy.config.cluster.v3.Cluster", **cluster} for cluster in clusters],
    }


def default_check(gate_check: str, cluster: str, path: str, options: EnvoyOptions) -> Document:
    """How Envoy asks the gate: no body, no client header, the path names the tenant, 200 names the cell."""
    return {
        "server_uri": {
            "uri": gate_check,
            "cluster": cluster,
            "timeout": duration(options.hold_max_s + _CHECK_MARGIN_S),
        },
        "path_override": path,
        "authorization_response": {
            "allowed_upstream_headers": {"patterns": [{"exact": CELL_HEADER}]},
            "allowed_client_headers": {"patterns": [{"exact": "retry-after"}, {"exact": "content-type"}]},
        },
    }


def _virtual_host(
    tenant: TenantId, route: Route, cells: Sequence[CellName], options: EnvoyOptions
) -> Document:
    return {
        "name": tenant,
        "domains": [route.host],
        "request_body_buffer_limit": options.body_limit_bytes,
        # The host decides: what the client says about the tenant is overwritten, so the app may trust the
        # header.
        "request_headers_to_add": [
            {
                "header": {"key": options.tenant_header, "value": tenant},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "routes": _routes(tenant, route, cells, options),
    }


def _shared_host(
    routes: Mapping[TenantId, Route], cells: Sequence[CellName], options: EnvoyOptions
) -> Document:
    """A hash lookup on the tenant header: a list of header routes would be walked by every request."""
    route_type = f"{TYPE}envoy.config.route.v3.Route"
    unknown = {
        "@type": route_type,
        "name": "unknown-tenant",
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": _UNKNOWN_TENANT}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
    host: Document = {
        "name": SHARED_HOST,
        "domains": ["*"],
        "request_body_buffer_limit": options.body_limit_bytes,
    }
    if not routes:
        return {**host, "routes": [{key: value for key, value in unknown.items() if key != "@type"}]}
    tree: dict[str, Document] = {}
    for tenant in sorted(routes):
        found = _routes(tenant, routes[tenant], cells, options)
        action = (
            {"@type": route_type, **found[0]}
            if len(found) == 1
            else {"@type": f"{TYPE}envoy.config.route.v3.RouteList", "routes": found}
        )
        tree[tenant] = {"action": {"name": "route", "typed_config": action}}
    header_input = {
        "@type": f"{TYPE}envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
        "header_name": options.tenant_header,
    }
    return {
        **host,
        "matcher": {
            "matcher_tree": {
                "input": {"name": "tenant", "typed_config": header_input},
                "exact_match_map": {"map": tree},
            },
            "on_no_match": {"action": {"name": "route", "typed_config": unknown}},
        },
    }


def _routes(
    tenant: TenantId, route: Route, cells: Sequence[CellName], options: EnvoyOptions
) -> list[Document]:
    if not route.gated:
        return [_route(tenant, route.cell, options)]
    named = [
        _gated(tenant, {"prefix": "/", "headers": [_named(cell, reads=reads)]}, cell, options, reads=reads)
        for cell in cells
        if cell != route.cell
        for reads in (True, False)
    ]
    by_method = {"name": ":method", "string_match": {"safe_regex": {"regex": READ_METHODS}}}
    matches: list[Document] = [{"prefix": "/", "headers": [by_method, _FIRST_TIME]}]
    matches += [{"path_separated_prefix": path, "headers": [_FIRST_TIME]} for path in options.read_paths]
    unnamed = [_gated(tenant, match, route.cell, options, reads=True) for match in matches]
    return [*named, *unnamed, _gated(tenant, {"prefix": "/"}, route.cell, options, reads=False)]


def _named(cell: CellName, *, reads: bool) -> Document:
    return {"name": CELL_HEADER, "string_match": {"exact": answer_for(cell, reads=reads)}}


def _route(tenant: TenantId, cluster: str, options: EnvoyOptions) -> Document:
    return {
        "name": tenant,
        "match": {"prefix": "/"},
        "route": {
            "cluster": cluster,
            "timeout": duration(options.request_timeout_s),
            # Both mean that the cell has seen nothing of the request: safe for every method.
            "retry_policy": {"retry_on": "connect-failure,reset-before-request", "num_retries": 1},
        },
    }


def _gated(
    tenant: TenantId, match: Document, cell: CellName, options: EnvoyOptions, *, reads: bool
) -> Document:
    route = _route(tenant, cell_cluster(cell, tenant), options)
    # Only back to the same tenant: an app's redirect to another tenant's host must go through the client.
    same_tenant = {
        "name": "envoy.internal_redirect_predicates.allow_listed_routes",
        "typed_config": {
            "@type": f"{TYPE}envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig",
            "allowed_route_names": [tenant],
        },
    }
    path = f"{CHECK_PATH}{tenant}/{CHECK_READS}" if reads else f"{CHECK_PATH}{tenant}"
    check = default_check("http://gate", gate_cluster(tenant), path, options)
    if reads and options.session_header is not None:
        value = f"%REQ({options.session_header})%"
        check["authorization_request"] = {"headers_to_add": [{"key": SESSION_HEADER, "value": value}]}
    return {
        **route,
        "stat_prefix": counted_as(cell, tenant, reads=reads),
        "match": match,
        "route": {
            **route["route"],
            "internal_redirect_policy": {
                "max_internal_redirects": options.max_reentries,
                "redirect_response_codes": [307],
                "predicates": [same_tenant],
            },
        },
        "typed_per_filter_config": {
            AUTHZ: {
                "@type": f"{TYPE}envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {"http_service": check},
            }
        },
    }


def _cluster(name: str, address: str, idle_s: float, options: EnvoyOptions) -> Document:
    host, port, tls = split_address(address)
    limits = {
        "max_connections": _UNLIMITED,
        "max_pending_requests": _UNLIMITED,
        "max_requests": _UNLIMITED,
        "max_retries": _UNLIMITED,
    }
    cluster: Document = {
        "name": name,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": duration(1.0),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {"socket_address": {"address": host, "port_value": port}},
                            }
                        }
                    ]
                }
            ],
        },
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": duration(idle_s)},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }
    if tls:
        cluster["transport_socket"] = _tls(address, host, options)
    return cluster


def _tls(address: str, host: str, options: EnvoyOptions) -> Document:
    if options.tls_ca_file is None:
        raise UsageError(
            f"{address} needs certificate authorities to check it against",
            hint="set the gateway's tls_ca_file, or reach the cell by http",
        )
    validation = {
        "trusted_ca": {"filename": options.tls_ca_file},
        "match_typed_subject_alt_names": [
            {"san_type": "IP_ADDRESS" if _is_ip(host) else "DNS", "matcher": {"exact": host}}
        ],
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "" if _is_ip(host) else host,
            "common_tls_context": {"validation_context": validation},
        },
    }


def split_address(address: str) -> tuple[str, int, bool]:
    """Host, port and whether it is TLS, of `http://host:port`. Raises `UsageError` for anything else."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise _bad_address(address) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise _bad_address(address)
    tls = parts.scheme == "https"
    return parts.hostname, port or (443 if tls else 80), tls


def _bad_address(address: str) -> UsageError:
    return UsageError(f"{address!r} is not an address of the form http://host:port")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
