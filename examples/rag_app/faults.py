"""Makes the app of one cell fail or dawdle for one tenant, to try out what notices it.

`<cell>.faults.json` beside the app's configuration says what goes wrong, for instance
`{"acme": {"fails": true, "methods": ["GET"]}}` or `{"acme": {"delay_s": 0.3}}`. It is read again when it changes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to a tenant's requests: answered with 500, or only later. All of them, or those of some methods."""

    fails: bool = False
    delay_s: float = 0.0
    methods: Sequence[str] = ()

    def hits(self, method: str) -> bool:
        return not self.methods or method in self.methods


class Faults:
    """The faults of one cell, by tenant."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_ns = 0
        self._faults: dict[str, Fault] = {}

    def now(self) -> Mapping[str, Fault]:
        """What the file says now; nothing without a file."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if changed_ns != self._read_ns:
            told = json.loads(self._path.read_text("utf-8"))
            self._faults = {tenant: Fault(**fault) for tenant, fault in told.items()}
            self._read_ns = changed_ns
        return self._faults


def write_faults(path: Path, faults: Mapping[str, Fault]) -> None:
    """Let the app do this from its next request on. An empty mapping puts everything right."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({tenant: asdict(fault) for tenant, fault in faults.items()}), "utf-8")
    new.chmod(0o644)
    os.replace(new, path)
