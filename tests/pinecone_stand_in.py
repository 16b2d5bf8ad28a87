"""What tests turn up in the stand-in for Pinecone, and what it has seen."""

from __future__ import annotations

import json
import urllib.request
from typing import Any, Final

from tenure.estate.local import PineconeEndpoint

BEHAVIOUR: Final = "/stand-in/behaviour"


class StandIn:
    """The address of the stand-in that only tests use."""

    def __init__(self, endpoint: PineconeEndpoint) -> None:
        self._endpoint = endpoint
        self._now: dict[str, Any] = {}

    def behave(self, **behaviour: Any) -> None:
        """Behave like this from now on, in everything else as documented; the counts begin anew."""
        self._now = behaviour
        self._ask("PUT", behaviour)

    def change(self, **behaviour: Any) -> None:
        """As `behave`, beside what was asked for before."""
        self.behave(**{**self._now, **behaviour})

    def settle(self) -> None:
        """Let reads see everything that was written so far."""
        kept = dict(self._now)
        if kept.get("lag_s") or kept.get("frozen"):
            self._ask("POST", None, path="/stand-in/settle")

    def seen(self) -> dict[str, Any]:
        """`seen`: how many requests of each operation came; `throttled`: how many were refused with 429."""
        answer: dict[str, Any] = json.loads(self._ask("GET", None))
        return answer

    def count(self, operation: str) -> int:
        return int(self.seen()["seen"].get(operation, 0))

    def close(self) -> None:
        """Nothing is open."""

    def _ask(self, method: str, body: Any, *, path: str = BEHAVIOUR) -> bytes:
        request = urllib.request.Request(
            f"{self._endpoint.control}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Api-Key": self._endpoint.api_key.reveal(), "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            said: bytes = answer.read()
        return said
