"""One gateway per test module would let tests disturb each other: each test gets its own (it starts in half a
second)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenure.routing.envoy import EnvoyOptions
from tests.integration.routing.gateway import Gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    started = Gateway(tmp_path, EnvoyOptions(hold_max_s=5.0, io_timeout_s=3.0))
    try:
        started.start()
        yield started
    finally:
        started.stop()
