"""What happened in a run, as it happens: one line of JSON each in the evidence, one short line on stderr."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_SHOWN: Final = 110


class Journal:
    """Thread-safe. `violations` are things that must not happen, whatever was done to the estate."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "run.jsonl").open("w", encoding="utf-8")
        self._began = time.time()
        self._lock = threading.Lock()
        self.violations: list[str] = []
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.outages: list[tuple[float, float, str]] = []
        """Begin, end and name of everything that was down."""
        self.struck: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        """When a tenant's own operation had been struck and not been carried on yet."""

    def note(self, what: str, **more: Any) -> None:
        with self._lock:
            line = {"at": round(time.time() - self._began, 2), "time": time.time(), "what": what, **more}
            self._file.write(json.dumps(line, default=str) + "\n")
            self._file.flush()
            shown = " ".join(str(value).replace("\n", " ")[:_SHOWN] for value in more.values() if value != "")
            sys.stderr.write(f"{line['at']:8.2f}  {what}  {shown}\n")

    def count(self, what: str, which: str) -> None:
        with self._lock:
            self.counts[what][which] += 1

    def violation(self, text: str) -> None:
        self.violations.append(text)
        self.note("VIOLATION", text=text)

    def close(self) -> None:
        with suppress(ValueError):
            self._file.close()
