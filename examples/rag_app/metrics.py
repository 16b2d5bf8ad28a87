"""How many requests there were and how long they took, by tenant, in the text format that Prometheus reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one process. They begin at zero with it, as Prometheus expects of counters."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._count: Counter[str] = Counter()

    def observe(self, tenant: str, method: str, status: int, seconds: float) -> None:
        self._requests[tenant, method, status] += 1
        self._seconds[tenant] += seconds
        self._count[tenant] += 1

    def requests(self) -> dict[str, int]:
        """How many each tenant has made."""
        return dict(self._count)

    def exposition(self, *, log_events_dropped: int) -> str:
        return "".join(f"{line}\n" for line in self._lines(log_events_dropped))

    def _lines(self, log_events_dropped: int) -> Iterator[str]:
        yield "# HELP rag_requests_total Requests that were answered."
        yield "# TYPE rag_requests_total counter"
        for (tenant, method, status), count in sorted(self._requests.items()):
            yield f'rag_requests_total{{tenant="{_text(tenant)}",method="{method}",status="{status}"}} {count}'
        yield "# HELP rag_request_seconds How long requests took."
        yield "# TYPE rag_request_seconds summary"
        for tenant in sorted(self._count):
            yield f'rag_request_seconds_sum{{tenant="{_text(tenant)}"}} {self._seconds[tenant]:.6f}'
            yield f'rag_request_seconds_count{{tenant="{_text(tenant)}"}} {self._count[tenant]}'
        yield "# HELP rag_log_events_dropped_total Log events that no group took."
        yield "# TYPE rag_log_events_dropped_total counter"
        yield f"rag_log_events_dropped_total {log_events_dropped}"


def _text(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
