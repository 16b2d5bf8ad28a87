"""A whole estate on this machine: real servers from wheels (and a stand-in for Pinecone), under one supervisor."""

from tenure.estate.local.layout import default_folder
from tenure.estate.local.running import (
    Endpoint,
    EstateStatus,
    PineconeEndpoint,
    RunningEstate,
    S3Endpoint,
    ServerStatus,
    attach,
    down,
    status,
    up,
)
from tenure.estate.local.spec import (
    CommandServer,
    EnvoyServer,
    EstateSpec,
    PineconeServer,
    PostgresServer,
    SeaweedServer,
    Server,
    ValkeyServer,
)

__all__ = [
    "CommandServer",
    "Endpoint",
    "EnvoyServer",
    "EstateSpec",
    "EstateStatus",
    "PineconeEndpoint",
    "PineconeServer",
    "PostgresServer",
    "RunningEstate",
    "S3Endpoint",
    "SeaweedServer",
    "Server",
    "ServerStatus",
    "ValkeyServer",
    "attach",
    "default_folder",
    "down",
    "status",
    "up",
]
