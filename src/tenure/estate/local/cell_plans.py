"""What each cell of the local estate consists of, and how its stores are reached once they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tenure.model.names import CellName

DATABASE: Final = "rag"
CONTROL: Final = "control"
DIMENSION: Final = 32
"""Of the vectors in the indexes that the local estate makes."""


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What a cell consists of: the names of its servers in the data folder."""

    name: CellName
    region: str
    infrastructure: str
    postgres_version: Literal[16, 18]

    @property
    def postgres(self) -> str:
        return f"postgres-{self.name}"

    @property
    def valkey(self) -> str:
        return f"valkey-{self.name}"

    @property
    def objects(self) -> str:
        return f"s3-{self.region}"

    @property
    def bucket(self) -> str:
        return f"rag-{self.name}"

    @property
    def vault(self) -> str:
        """The bucket with the backups of the region, which the region's cells share."""
        return f"vault-{self.region}"

    @property
    def pinecone(self) -> str:
        """A stand-in: its region's, with an index for each cell."""
        return f"pinecone-{self.region}"

    @property
    def index(self) -> str:
        return f"rag-{self.name}"

    @property
    def cloudwatch(self) -> str:
        return f"cloudwatch-{self.region}"

    @property
    def log_prefix(self) -> str:
        """What the names of its log groups begin with: cells of a region share the account."""
        return f"/{self.name}"

    @property
    def app(self) -> str:
        return f"app-{self.name}"


CELLS: Final = (
    CellPlan(name=CellName("blue"), region="us-east-1", infrastructure="v1", postgres_version=16),
    CellPlan(name=CellName("green"), region="us-east-1", infrastructure="v2", postgres_version=18),
    CellPlan(name=CellName("eu"), region="eu-west-1", infrastructure="v2", postgres_version=18),
)


@dataclass(frozen=True, kw_only=True)
class CellAccess:
    """How to reach the stores of a running cell with the rights to deploy. Secrets: do not print."""

    plan: CellPlan
    dsn: str
    redis_url: str
    endpoint: str
    access_key: str
    secret_key: str
    app_access_key: str
    app_secret_key: str
    analytics: Path | None = None
    """The DuckDB file of its analytics, which the app creates when it is deployed, where the catalogue names some."""
    pinecone_host: str = ""
    """Empty, with the two below, where the app's catalogue names no store of kind `pinecone`."""
    pinecone_control: str = ""
    pinecone_api_key: str = ""
    cloudwatch: str = ""
    """The endpoint of its region's CloudWatch, which asks for no keys; empty where the catalogue names none."""

    def __repr__(self) -> str:
        return f"CellAccess({self.plan.name})"
