"""All Envoys of the gateway together: waiting until each has loaded a document, and adding up what is under
way."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable
from tenure.model.names import CellName, TenantId
from tenure.model.traffic import CellTraffic
from tenure.routing.envoy.admin import EnvoyAdmin, Loaded
from tenure.routing.envoy.options import EnvoyOptions
from tenure.routing.envoy.routes import cell_cluster, counted_as, gate_cluster

_POLL_FROM_S: Final = 0.001
_POLL_TO_S: Final = 0.05
_QUIET_S: Final = 0.1
_LOG_TAIL: Final = 65536
_REJECTED: Final = "update rejected: "


class Fleet:
    """Envoys that share one `config_dir` (or copies of it)."""

    def __init__(
        self, admin: Sequence[str], *, folder: Path, options: EnvoyOptions, logs: Sequence[Path]
    ) -> None:
        self._envoys = tuple(EnvoyAdmin(address, timeout_s=options.io_timeout_s) for address in admin)
        self._folder = folder
        self._options = options
        self._logs = tuple(logs)

    def ready(self) -> None:
        """Return if every Envoy takes requests."""
        for envoy in self._envoys:
            envoy.ready()

    def change(self) -> FleetChange:
        """Begin a change: remember what each Envoy has loaded so far."""
        return FleetChange(self._envoys, folder=self._folder, options=self._options, logs=self._logs)

    def asking(self, tenant: TenantId) -> int:
        """How many of the tenant's requests wait for an answer of the gate, as Envoy sees it."""
        name = gate_cluster(tenant)
        return sum(envoy.under_way((name,))[name] for envoy in self._envoys)

    def sample(self, tenant: TenantId, cell: CellName) -> tuple[int, int]:
        """How many of the tenant's requests ask the gate, and how many are queued or running in the cell."""
        at_gate, in_cell = gate_cluster(tenant), cell_cluster(cell, tenant)
        asking = running = 0
        for envoy in self._envoys:
            counts = envoy.under_way((at_gate, in_cell))
            asking += counts[at_gate]
            running += counts[in_cell]
        return asking, running

    def traffic(self, tenant: TenantId, cell: CellName) -> CellTraffic:
        """What each Envoy has counted of the tenant's requests in the cell."""
        cluster = cell_cluster(cell, tenant)
        kinds = [counted_as(cell, tenant, reads=reads) for reads in (True, False)]
        counted = {}
        for envoy in self._envoys:
            reads, others = envoy.traffic(kinds)
            counted[envoy.address] = (reads, others)
        running = sum(envoy.under_way((cluster,), missing_ok=True)[cluster] for envoy in self._envoys)
        return CellTraffic(cell=cell, by_proxy=counted, under_way=running)

    def route_configs(self) -> dict[str, dict[str, Any]]:
        """What each Envoy really routes by, by its admin address."""
        return {envoy.address: envoy.route_config() for envoy in self._envoys}

    def close(self) -> None:
        """Give the connections back."""
        for envoy in self._envoys:
            envoy.close()


class FleetChange:
    """One change on its way to every Envoy.

    An Envoy that does not answer is passed over, as it will read the newest documents when it starts again,
    and reported by `finish`: the change must not be kept from the others.
    """

    def __init__(
        self, envoys: Sequence[EnvoyAdmin], *, folder: Path, options: EnvoyOptions, logs: Sequence[Path]
    ) -> None:
        self._folder = folder
        self._options = options
        self._logs = logs
        self._rejected: dict[EnvoyAdmin, int] = {}
        self._lost: dict[EnvoyAdmin, StoreUnavailable] = {}
        for envoy in envoys:
            try:
                self._rejected[envoy] = envoy.loaded().rejected
            except StoreUnavailable as error:
                self._lost[envoy] = error

    def wait_clusters(self, version: str) -> None:
        """Return when every Envoy that answers has the clusters and none of them is still warming."""
        self._wait("cds.json", lambda loaded: loaded.clusters == version and loaded.warming == 0)

    def wait_routes(self, version: str) -> None:
        """Return when every Envoy that answers has the routes."""
        self._wait("rds.json", lambda loaded: loaded.routes == version)

    def wait_unasked(self, tenants: Collection[TenantId]) -> bool:
        """Return True once no request of tenants that have left the gate is still asking it.

        A request keeps the routes that Envoy had when it came, also past the gate's answer, and fails if their
        clusters are gone by then. The workers take new routes over a moment after Envoy shows them, so it must stay
        quiet for a while. False if it does not become quiet in time: the clusters have to wait for a later change.
        """
        begun = quiet_since = time.monotonic()
        while True:
            now = time.monotonic()
            if self._asking(tenants):
                quiet_since = time.monotonic()
            elif now - quiet_since >= _QUIET_S:
                return True
            if now - begun >= self._options.apply_timeout_s:
                return False
            time.sleep(_POLL_TO_S / 5)

    def finish(self) -> None:
        """Raise `StoreUnavailable` if some Envoy did not answer."""
        for error in self._lost.values():
            raise StoreUnavailable(
                error.message,
                hint="the other Envoys have the change; start this one, or take it off the gateway's admin list",
            ) from error

    def _wait(self, document: str, arrived: Callable[[Loaded], bool]) -> None:
        deadline = time.monotonic() + self._options.apply_timeout_s
        waiting = [envoy for envoy in self._rejected if envoy not in self._lost]
        poll_s = _POLL_FROM_S
        while True:
            waiting = [envoy for envoy in waiting if not self._has_arrived(envoy, document, arrived)]
            if not waiting:
                return
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(
                    f"Envoy at {waiting[0].address} has not loaded {document}"
                    f" after {self._options.apply_timeout_s:g} s",
                    hint=f"is {self._folder} the folder that this Envoy watches?",
                )
            time.sleep(poll_s)
            poll_s = min(poll_s * 1.5, _POLL_TO_S)

    def _asking(self, tenants: Collection[TenantId]) -> int:
        asking = 0
        for envoy in self._rejected:
            if envoy in self._lost:
                continue
            try:
                asking += sum(envoy.under_way(map(gate_cluster, tenants), missing_ok=True).values())
            except StoreUnavailable as error:
                self._lost[envoy] = error
        return asking

    def _has_arrived(self, envoy: EnvoyAdmin, document: str, arrived: Callable[[Loaded], bool]) -> bool:
        try:
            loaded = envoy.loaded()
        except StoreUnavailable as error:
            self._lost[envoy] = error
            return True
        if arrived(loaded):
            return True
        if loaded.rejected > self._rejected[envoy]:
            raise StoreRefused(
                f"Envoy at {envoy.address} rejects {document}: {self._reason()}",
                hint="the previous documents have been put back",
            )
        return False

    def _reason(self) -> str:
        """Envoy tells its reason to nobody but its log."""
        for log in self._logs:
            try:
                with log.open("rb") as file:
                    file.seek(max(0, log.stat().st_size - _LOG_TAIL))
                    lines = file.read().decode(errors="replace").splitlines()
            except OSError:
                continue
            for line in reversed(lines):
                if _REJECTED in line:
                    return line.partition(_REJECTED)[2]
        return "look for 'update rejected' in its log"
