"""The engine's times, each with its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The defaults suit a person at the command line and a fleet of workers alike; tests shorten them."""

    lease_ttl_s: float = 15.0
    """How long a holder may be silent before another host takes its step over: longer than any pause of a
    healthy process or a failover of the control database, short enough to wait for. On one host a dead
    process is seen at once."""
    heartbeat_s: float = 2.0
    """How often a lease is extended and a cancel looked for: several beats may be lost before the lease runs out."""
    backoff_max_s: float = 60.0
    """The longest pause between two attempts of a step, however often it failed."""
    poll_s: float = 0.5
    """How often the in-process executor looks whether it was cancelled or overtaken while it waits."""
    patience_s: float = 60.0
    """How long the control database may be away before an operation is left behind: longer than a failover.
    What a step has done is recorded as soon as it is back."""
    takeovers_max: int = 10
    """How often a step may be cut off (its process died) before it fails: a step that kills its worker must
    not do so for ever. Someone who resumes the operation starts the count anew."""

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_s * 2 <= self.lease_ttl_s:
            raise ValueError("a lease must outlast at least two heartbeats")
