"""Background jobs, cron and webhooks, which do not pass the gateway: they look up where the tenant is
served."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psycopg

from tenure.client.permits import Fenced

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which cell serves a tenant; `epoch` grows with every change."""

    tenant: str
    cell: str
    epoch: int


def run_in_cell(
    tenant: str,
    resolve: Callable[[str], Placement],
    work: Callable[[Placement], T],
    *,
    attempts: int = 8,
    backoff_s: float = 0.05,
    backoff_limit_s: float = 2.0,
) -> T:
    """Run `work` in the cell that serves the tenant; while it is refused, look the cell up again and run it
    again.

    `work(placement)` opens its own transaction there and takes the permit before it changes anything, so
    that a refused attempt has done nothing. `resolve(tenant)` must look (a cached answer must not outlive a
    refusal). Runs at most `attempts` times, waiting twice as long after each refusal (with jitter, at most
    `backoff_limit_s`): with the defaults about six seconds in all, a multiple of the hold budget. Then the
    last `Fenced` or `SerializationFailure` is raised; everything else is raised at once.
    """
    if attempts < 1:
        raise ValueError("attempts must be at least 1")
    for attempt in range(1, attempts):
        try:
            return work(resolve(tenant))
        except (Fenced, psycopg.errors.SerializationFailure):
            limit_s = min(backoff_s * 2 ** (attempt - 1), backoff_limit_s)
            time.sleep(limit_s * random.uniform(0.75, 1.0))  # noqa: S311 - spreads retries, no secret
    return work(resolve(tenant))
