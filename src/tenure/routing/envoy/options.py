"""What an estate may choose about its gateway, in one place: both the documents for Envoy and the router read
it."""

from __future__ import annotations

from dataclasses import dataclass

from tenure.model.secret import Secret


@dataclass(frozen=True, kw_only=True)
class EnvoyOptions:
    """Settings shared by the bootstrap, the route documents and the router. Everybody must use the same
    values."""

    tenant_header: str = "x-tenant-id"
    """On the shared host this request header names the tenant."""
    read_paths: tuple[str, ...] = ()
    """Paths below which every request only reads, whatever its method; GET, HEAD and OPTIONS always do."""
    session_header: str | None = None
    """In a canary, requests with the same value of this header go to the same cell."""
    request_timeout_s: float = 60.0
    """How long a cell may take to answer. The time a request waits at the gate does not count."""
    hold_max_s: float = 10.0
    """The longest hold budget accepted. Envoy gives up on the gate one second later and lets the request
    pass."""
    body_limit_bytes: int = 16 * 1024 * 1024
    """Bodies up to this size are kept until the answer begins, so that a fenced cell's 307 can replay
    them."""
    max_reentries: int = 5
    """How often one request may come back through the gate before the 307 reaches the client."""
    upstream_idle_s: float = 30.0
    """Idle connections to cells are closed after this; the apps must keep theirs open for longer."""
    tls_ca_file: str | None = None
    """Certificate authorities (as Envoy sees the path) for cells reached by https."""
    apply_timeout_s: float = 15.0
    """How long every Envoy may take to load a new document."""
    io_timeout_s: float = 5.0
    """How long an admin or control request may take."""


@dataclass(frozen=True, kw_only=True)
class GateEndpoint:
    """Where the gate process listens: `check` for Envoy, `control` for Tenure, with its bearer token."""

    check: str
    control: str
    token: Secret
