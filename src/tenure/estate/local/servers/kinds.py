"""Which recipe makes which server."""

from __future__ import annotations

from typing import assert_never

from tenure.estate.local.servers.command import Command
from tenure.estate.local.servers.contract import Recipe
from tenure.estate.local.servers.envoy import Envoy
from tenure.estate.local.servers.pinecone import Pinecone
from tenure.estate.local.servers.postgres import Postgres
from tenure.estate.local.servers.seaweed import Seaweed
from tenure.estate.local.servers.valkey import Valkey
from tenure.estate.local.spec import (
    CommandServer,
    EnvoyServer,
    PineconeServer,
    PostgresServer,
    SeaweedServer,
    Server,
    ValkeyServer,
)


def recipe(server: Server) -> Recipe:
    """How to run this server."""
    match server:
        case PostgresServer():
            return Postgres(server)
        case ValkeyServer():
            return Valkey(server)
        case SeaweedServer():
            return Seaweed(server)
        case PineconeServer():
            return Pinecone(server)
        case EnvoyServer():
            return Envoy(server)
        case CommandServer():
            return Command(server)
        case _:
            assert_never(server)
