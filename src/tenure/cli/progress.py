"""Shows what an operation does while it runs: a line per phase and per progress, on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque

from tenure.cli.output import size
from tenure.engine.observer import (
    Notice,
    PhaseChanged,
    Progressed,
    Queued,
    StepEnded,
    StepStarted,
    Waiting,
)

REPAINT_S = 0.5


class ProgressLines:
    """An observer that prints phases as they change, and progress with rate and time left, a few times a second.

    On a terminal a progress line is painted over by the next; elsewhere one line per `REPAINT_S` and thing is printed.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._painted: dict[str, float] = {}
        self._seen: dict[str, deque[tuple[float, float]]] = {}
        self._finished: set[str] = set()
        self._open_line = False

    def __call__(self, notice: Notice) -> None:
        if self._quiet:
            return
        if isinstance(notice, Progressed):
            self._progress(notice)
        elif isinstance(notice, PhaseChanged):
            self._line(notice.phase)
        elif isinstance(notice, StepEnded) and notice.outcome in ("retried", "failed"):
            self._line(f"{notice.step} {notice.outcome}: {notice.detail.get('message', '')}")
        elif isinstance(notice, Waiting) and notice.due_in_s >= 1:
            self._line(f"waiting {notice.due_in_s:.0f} s for the next attempt of {notice.step}")
        elif isinstance(notice, Queued):
            self._line(f"{notice.operation} {notice.waits_for}")
        elif isinstance(notice, StepStarted):
            for seen in (self._painted, self._seen):
                seen.clear()
            self._finished.clear()
            if notice.attempt > 1:
                self._line(f"{notice.step}: attempt {notice.attempt}")

    def _line(self, text: str) -> None:
        if self._open_line:
            sys.stderr.write("\n")
            self._open_line = False
        sys.stderr.write(f"{time.monotonic() - self._began:8.1f} s  {text}\n")
        sys.stderr.flush()

    def _progress(self, notice: Progressed) -> None:
        now = time.monotonic()
        points = self._seen.setdefault(notice.what, deque(maxlen=20))
        points.append((now, float(notice.done)))
        last = notice.total is not None and notice.done >= notice.total
        if notice.total == 0 or (last and notice.what in self._finished):
            return
        if last:
            self._finished.add(notice.what)
        if not last and now - self._painted.get(notice.what, 0.0) < REPAINT_S:
            return
        self._painted[notice.what] = now
        text = f"{notice.what}: {notice.done:,}"
        if notice.total is not None:
            text += f" of {notice.total:,}"
        text += f" {notice.unit}"
        done_bytes = notice.detail.get("bytes_done")
        if done_bytes:
            text += f", {size(float(done_bytes))}"
        lag = notice.detail.get("lag_bytes")
        if lag is not None:
            text += f", lag {size(float(lag))}"
        rate = self._rate(points)
        if rate and notice.total is not None and not last:
            text += f", {rate:,.0f}/s, {max(0.0, (notice.total - notice.done) / rate):.0f} s left"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{now - self._began:8.1f} s  {text}")
            self._open_line = True
            sys.stderr.flush()
        else:
            self._line(text)

    @staticmethod
    def _rate(points: deque[tuple[float, float]]) -> float:
        (t0, n0), (t1, n1) = points[0], points[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 and n1 > n0 else 0.0
