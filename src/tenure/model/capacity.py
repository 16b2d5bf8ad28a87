"""What moves take of cells, stores and servers, and how much of it there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final


class Scope(StrEnum):
    """What has the limit. Of a cell and of a store of a cell it is chosen; a server has limits of its own."""

    CELL = "cell"
    STORE = "store"
    SERVER = "server"


class What(StrEnum):
    """What is limited."""

    MOVES = "moves"
    SLOTS = "slots"
    WORKERS = "workers"
    CONNECTIONS = "connections"
    BANDWIDTH = "bytes_per_s"


_WORDS: Final[Mapping[What, tuple[str, str]]] = {
    What.MOVES: ("a move", "moves"),
    What.SLOTS: ("a replication slot", "replication slots"),
    What.WORKERS: ("a replication worker", "replication workers"),
    What.CONNECTIONS: ("a connection", "connections"),
    What.BANDWIDTH: ("bandwidth", "bandwidth"),
}
_MB: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, order=True)
class Resource:
    """One thing that is limited: `name` is a cell, `cell/store`, or a server's `host:port`."""

    scope: Scope
    name: str
    what: What

    @property
    def key(self) -> str:
        """How the control database names it, such as `server 10.0.0.5:5432 slots`."""
        return f"{self.scope} {self.name} {self.what}"

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(key: str) -> Resource:
        """The resource of that `key`."""
        scope, _, rest = key.partition(" ")
        name, _, what = rest.rpartition(" ")
        return Resource(scope=Scope(scope), name=name, what=What(what))

    def one(self) -> str:
        """What somebody waits for: `a replication slot on server 10.0.0.5:5432`."""
        return f"{_WORDS[self.what][0]} {self._where}"

    def several(self) -> str:
        """`replication slots on server 10.0.0.5:5432`."""
        return f"{_WORDS[self.what][1]} {self._where}"

    def amount(self, units: int) -> str:
        """That many units for people: bandwidth in MB/s."""
        return f"{units / _MB:,.1f} MB/s" if self.what is What.BANDWIDTH else f"{units:,}"

    @property
    def _where(self) -> str:
        if self.scope is Scope.SERVER:
            return f"on server {self.name}"
        if self.scope is Scope.STORE:
            cell, _, store = self.name.partition("/")
            return f"of {store} in {cell}"
        return f"in cell {self.name}"


@dataclass(frozen=True, kw_only=True)
class Need:
    """How much of a resource an operation takes: `units` while it is active, `kept` for as long as the link that it
    made stays."""

    units: int
    kept: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(units=self.units + other.units, kept=self.kept + other.kept)


@dataclass(frozen=True, kw_only=True)
class CapacityRequest:
    """What an operation asks for. One `at_once` never waits: it is counted, and may exceed any limit."""

    needs: Mapping[Resource, Need]
    at_once: bool = False


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How many units there are, and in words where the figure comes from."""

    most: int
    why: str
