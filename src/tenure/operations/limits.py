"""How much there is of what moves take: what `capacity` in `tenure.yaml` says, and what the servers say themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable
from tenure.estate.config import Estate
from tenure.estate.settings_capacity import ServerCapacity
from tenure.model.capacity import Limit, Resource, Scope, What
from tenure.model.names import CellName, StoreName
from tenure.operations.session import StoreFactory
from tenure.registry.admissions import Use
from tenure.stores.contract import Room, Store

LOOK_AGAIN_S: Final = 2.0
"""How long what a server has said about itself is believed: whoever waits asks for it several times a second."""
ONE_MOVE: Final = {What.SLOTS: 4, What.CONNECTIONS: 16}
"""What one move takes at most of one server: the reserve does not keep it out of a small one."""
_MB: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A server as it was seen at `at` (monotonic): its room, or why it could not be asked."""

    at: float
    rooms: Mapping[What, Room]
    problem: str | None = None


class Limits:
    """Thread-safe. A server is asked at most every `LOOK_AGAIN_S`."""

    def __init__(self, estate: Estate, factory: StoreFactory) -> None:
        self._estate = estate
        self._settings = estate.capacity
        self._factory = factory
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def bandwidth(self, server: str) -> int | None:
        """Bytes per second that all moves together may read from or write to the server, if that is limited."""
        mb_s = self._of_server(server).bandwidth_mb_s or self._settings.bandwidth_mb_s
        return None if mb_s is None else round(mb_s * _MB)

    def stores_of(self, cell: CellName) -> Iterable[str]:
        """The stores of the cell that have a limit of their own."""
        of_cell = self._settings.cells.get(cell)
        return of_cell.stores if of_cell is not None else ()

    def everything(self, servers: Iterable[str]) -> set[Resource]:
        """All that could have a limit in this estate, on these servers."""
        cells = self._estate.cells
        return {
            *(Resource(scope=Scope.CELL, name=cell, what=What.MOVES) for cell in cells),
            *(
                Resource(scope=Scope.STORE, name=f"{cell}/{store}", what=What.MOVES)
                for cell in cells
                for store in self.stores_of(cell)
            ),
            *(
                Resource(scope=Scope.SERVER, name=server, what=what)
                for server in servers
                for what in What
                if what is not What.MOVES
            ),
        }

    def of(self, resources: Iterable[Resource], cells: Iterable[CellName]) -> dict[Resource, Limit]:
        """The limit of each that has one. Servers are asked, where they have not just been."""
        servers = self.servers(cells)
        found = {resource: self._limit(resource, servers) for resource in resources}
        return {resource: limit for resource, limit in found.items() if limit is not None}

    def _limit(self, resource: Resource, servers: Mapping[str, Sequence[Store]]) -> Limit | None:
        if resource.scope is Scope.SERVER:
            return self._server_limit(resource, servers.get(resource.name, ()))
        cell, _, store = resource.name.partition("/")
        of_cell = self._settings.cells.get(CellName(cell))
        if resource.scope is Scope.STORE:
            most = of_cell.stores.get(StoreName(store)) if of_cell is not None else None
            return None if most is None else Limit(most=most, why=f"capacity.cells.{cell}.stores.{store}")
        if of_cell is not None and of_cell.moves is not None:
            return Limit(most=of_cell.moves, why=f"capacity.cells.{cell}.moves")
        return Limit(most=self._settings.moves, why="capacity.moves")

    def _server_limit(self, resource: Resource, stores: Sequence[Store]) -> Limit | None:
        chosen = self._of_server(resource.name)
        if resource.what is What.BANDWIDTH:
            most = self.bandwidth(resource.name)
            return None if most is None else Limit(most=most, why="bandwidth_mb_s")
        seen = self._look(resource.name, stores)
        if seen.problem is not None:
            return Limit(most=0, why=seen.problem)
        room = seen.rooms.get(resource.what)
        if room is None:
            return None
        set_to, reserve = {
            What.SLOTS: (chosen.slots, self._settings.slots_reserve),
            What.WORKERS: (chosen.workers, 0),
            What.CONNECTIONS: (chosen.connections, self._settings.connections_reserve),
        }[resource.what]
        free = max(0, room.most - room.others)
        why = f"{room.setting} {room.most:,}, {room.others:,} in use by others"
        if set_to is not None:
            return Limit(most=min(set_to, free), why=f"set to {set_to:,}; {why}")
        most = max(free - reserve, min(free, ONE_MOVE.get(resource.what, 0)))
        return Limit(most=most, why=f"{why}, {free - most:,} kept free")

    def servers(self, cells: Iterable[CellName]) -> Mapping[str, Sequence[Store]]:
        """The stores of these cells that moves take something of, by their servers."""
        found: dict[str, list[Store]] = {}
        for cell in cells:
            for name in self._factory.moving():
                store = self._factory.store(cell, name)
                found.setdefault(store.server, []).append(store)
        return found

    def _look(self, server: str, stores: Sequence[Store]) -> _Seen:
        with self._lock:
            seen = self._seen.get(server)
        if seen is not None and time.monotonic() - seen.at < LOOK_AGAIN_S:
            return seen
        rooms: dict[What, Room] = {}
        problem = None
        try:
            for store in stores:
                rooms.update({room.what: room for room in store.room() if room.what not in rooms})
        except (StoreUnavailable, StoreRefused, DeadlineExceeded) as error:
            problem = error.message
        seen = _Seen(at=time.monotonic(), rooms=rooms, problem=problem)
        with self._lock:
            self._seen[server] = seen
        return seen

    def with_unaccounted(self, used: Mapping[Resource, Sequence[Use]]) -> dict[Resource, Sequence[Use]]:
        """Slots of Tenure's that are there and that nobody accounts for, such as those that a server that was away kept
        when their link ended, are in use all the same."""
        found = dict(used)
        with self._lock:
            seen = dict(self._seen)
        for server, state in seen.items():
            resource = Resource(scope=Scope.SERVER, name=server, what=What.SLOTS)
            room = state.rooms.get(What.SLOTS)
            accounted = sum(use.units for use in used.get(resource, ()))
            if room is not None and room.ours > accounted:
                left = Use(operation="", tenant=None, active=False, units=room.ours - accounted)
                found[resource] = (*used.get(resource, ()), left)
        return found

    def _of_server(self, server: str) -> ServerCapacity:
        return self._settings.servers.get(server, ServerCapacity())
