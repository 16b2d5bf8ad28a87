"""What the gateway counts of one tenant's requests in one cell: how many, how many failed, how long they took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tenure.model.names import CellName


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests of one kind. Add those of several proxies; subtract an earlier reading with `since`.

    `failed` are those that the cell answered with 5xx and those for which the gateway had to, because the cell could
    not be reached or took too long. `latencies` counts answers by the upper edge of a narrow range, in milliseconds.
    """

    begun: int = 0
    answered: int = 0
    failed: int = 0
    latencies: Mapping[float, int] = field(default_factory=dict)

    @property
    def error_rate(self) -> float:
        """The share of answers that were failures; 0 without answers."""
        return self.failed / self.answered if self.answered else 0.0

    @property
    def timed(self) -> int:
        """How many answers have a latency. Proxies add latencies up a moment after they count the answer."""
        return sum(self.latencies.values())

    def quantile_ms(self, share: float) -> float:
        """The latency that this share of the answers did not exceed; 0 without answers."""
        wanted, seen = share * self.timed, 0
        for edge in sorted(self.latencies):
            seen += self.latencies[edge]
            if seen >= wanted:
                return edge
        return 0.0

    def slower_than(self, limit_ms: float) -> int:
        """How many answers took longer."""
        return sum(count for edge, count in self.latencies.items() if edge > limit_ms)

    def since(self, earlier: Traffic) -> Traffic:
        """What came after an earlier reading. A counter that went down began again: then all of this came after."""
        if self.begun < earlier.begun or self.answered < earlier.answered or self.timed < earlier.timed:
            return self
        came = {edge: count - earlier.latencies.get(edge, 0) for edge, count in self.latencies.items()}
        return Traffic(
            begun=self.begun - earlier.begun,
            answered=self.answered - earlier.answered,
            failed=max(0, self.failed - earlier.failed),
            latencies={edge: count for edge, count in came.items() if count > 0},
        )

    @staticmethod
    def total(parts: Iterable[Traffic]) -> Traffic:
        """Everything together."""
        begun = answered = failed = 0
        latencies: dict[float, int] = {}
        for part in parts:
            begun += part.begun
            answered += part.answered
            failed += part.failed
            for edge, count in part.latencies.items():
                latencies[edge] = latencies.get(edge, 0) + count
        return Traffic(begun=begun, answered=answered, failed=failed, latencies=latencies)

    def as_dict(self) -> dict[str, float | int]:
        """The numbers that people are shown."""
        return {
            "requests": self.answered,
            "failed": self.failed,
            "error_rate": round(self.error_rate, 4),
            "p50_ms": round(self.quantile_ms(0.50), 2),
            "p99_ms": round(self.quantile_ms(0.99), 2),
        }


@dataclass(frozen=True, kw_only=True)
class CellTraffic:
    """One reading of what a tenant's requests met in a cell: those that only read, and all others.

    The counts only grow as long as the tenant is behind the gate and the proxy runs; a proxy that was started again
    begins at zero. `by_proxy` keeps them apart for that reason. `under_way` are the requests running now.
    """

    cell: CellName
    by_proxy: Mapping[str, tuple[Traffic, Traffic]]
    under_way: int = 0

    def since(self, earlier: CellTraffic) -> tuple[Traffic, Traffic]:
        """Reads and others that came after an earlier reading of the same cell."""
        none = (Traffic(), Traffic())
        came = [
            tuple(now.since(then) for now, then in zip(kinds, earlier.by_proxy.get(name, none), strict=True))
            for name, kinds in self.by_proxy.items()
        ]
        return Traffic.total(reads for reads, _ in came), Traffic.total(others for _, others in came)
