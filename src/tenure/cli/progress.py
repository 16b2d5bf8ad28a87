"""Shows what an operation does while it runs: a line per phase and per progress, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tenure.cli.output import size
from tenure.engine.observer import (
    HandedOver,
    Notice,
    PhaseChanged,
    Progressed,
    StepEnded,
    StepStarted,
    Waiting,
)
from tenure.engine.rates import Rates, left_s

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
        self._rates = Rates()
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
        elif isinstance(notice, StepStarted):
            self._painted.clear()
            self._rates = Rates()
            self._finished.clear()
            if notice.attempt > 1:
                self._line(f"{notice.step}: attempt {notice.attempt}")
        elif isinstance(notice, HandedOver):
            self._line(handed_over_text(notice))

    def _line(self, text: str) -> None:
        if self._open_line:
            sys.stderr.write("\n")
            self._open_line = False
        sys.stderr.write(f"{time.monotonic() - self._began:8.1f} s  {text}\n")
        sys.stderr.flush()

    def _progress(self, notice: Progressed) -> None:
        now = time.monotonic()
        per_s = self._rates.note(notice.what, notice.done, at_s=now)
        last = notice.total is not None and notice.done >= notice.total
        if notice.total == 0 or (last and notice.what in self._finished):
            return
        if last:
            self._finished.add(notice.what)
        if not last and now - self._painted.get(notice.what, 0.0) < REPAINT_S:
            return
        self._painted[notice.what] = now
        pace = {"per_s": per_s, "left_s": left_s(notice.done, notice.total, per_s)}
        told = {"done": notice.done, "total": notice.total, "unit": notice.unit, **pace, **notice.detail}
        text = progress_text(notice.what, told)
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{now - self._began:8.1f} s  {text}")
            self._open_line = True
            sys.stderr.flush()
        else:
            self._line(text)


def progress_text(what: str, progress: Mapping[str, Any]) -> str:
    """How far one thing is, as a step keeps it (`StepContext.progress`): items, bytes, lag, pace and time left."""
    text = f"{what}: {progress['done']:,}"
    if progress["total"] is not None:
        text += f" of {progress['total']:,}"
    text += f" {progress['unit']}"
    if progress.get("bytes_done"):
        text += f", {size(float(progress['bytes_done']))}"
    if progress.get("lag_bytes") is not None:
        text += f", lag {size(float(progress['lag_bytes']))}"
    elif progress.get("lag_items") is not None:
        text += f", lag {progress['lag_items']:,} items"
    if progress.get("left_s") is not None:
        text += f", {progress['per_s']:,.0f}/s, {progress['left_s']:.0f} s left"
    return text


def handed_over_text(notice: HandedOver) -> str:
    """That the fleet has an operation now, and what becomes of it if nobody could be told."""
    workers = f"{notice.workers} live worker{'s' if notice.workers != 1 else ''}"
    text = f"{notice.operation} goes to {notice.queue}, which {workers} serve{'s' if notice.workers == 1 else ''}"
    if notice.problem is None:
        return f"{text}; Ctrl-C only ends the following"
    return f"{text}, but {notice.problem}: it stays planned until the scheduler's tick announces it"
