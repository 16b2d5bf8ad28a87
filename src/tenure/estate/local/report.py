"""What whoever starts an estate reads of its supervisor: one JSON line per server, then one verdict."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from tenure.errors import TenureError
from tenure.estate.local import control


class Report:
    """Writes to standard output, and lets go of it after the verdict."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def progress(self, name: str) -> None:
        self._say({"started": name, "seconds": round(time.monotonic() - self._began, 3)})

    def ready(self) -> None:
        self._say({"ready": True, "seconds": round(time.monotonic() - self._began, 3)}, last=True)

    def failed(self, error: TenureError) -> None:
        self._say(control.error_as_json(error), last=True)

    def _say(self, value: dict[str, Any], *, last: bool = False) -> None:
        with contextlib.suppress(OSError):  # whoever started the estate need not listen
            os.write(1, json.dumps(value).encode() + b"\n")
        if last:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.close(nothing)
