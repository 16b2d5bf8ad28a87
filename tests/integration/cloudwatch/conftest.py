"""Two regions of moto's CloudWatch with a PostgreSQL beside each, as the contract's rig has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.contract.rigs.cloudwatch_logs import LogsRig
from tests.contract.rigs.postgres import SERVERS
from tests.folders import prepare


@pytest.fixture
def logs_rig(moto: str, fresh_database: Callable[..., str]) -> Iterator[Callable[..., LogsRig]]:
    """`logs_rig(kind="cloudwatch_logs")` gives a rig without anything in it; closed after the test."""
    made: list[LogsRig] = []

    def make(kind: str = "cloudwatch_logs") -> LogsRig:
        databases = {side: fresh_database(server) for side, server in SERVERS.items()}
        for dsn in databases.values():
            prepare(dsn)
        made.append(LogsRig(kind, moto, databases))
        return made[-1]

    yield make
    for rig in made:
        rig.close()
