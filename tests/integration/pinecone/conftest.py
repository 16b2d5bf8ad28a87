"""Two indexes of a stand-in for Pinecone, with PostgreSQL beside each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tenure.estate.local import PineconeEndpoint, RunningEstate
from tests.contract.rigs.pinecone import PineconeRig
from tests.contract.rigs.postgres import SERVERS
from tests.folders import prepare
from tests.pinecone_stand_in import StandIn


@pytest.fixture
def endpoint(servers: RunningEstate) -> PineconeEndpoint:
    servers.start("pinecone-a")
    return servers.pinecone("pinecone-a")


@pytest.fixture
def stand_in(endpoint: PineconeEndpoint) -> Iterator[StandIn]:
    """Behaving as documented before and after the test."""
    made = StandIn(endpoint)
    made.behave()
    yield made
    made.behave()


@pytest.fixture
def rig(endpoint: PineconeEndpoint, fresh_database: Callable[..., str]) -> Iterator[PineconeRig]:
    dsns = {side: fresh_database(server) for side, server in SERVERS.items()}
    for dsn in dsns.values():
        prepare(dsn)
    made = PineconeRig("pinecone", endpoint, dsns)
    yield made
    made.close()
