"""The `Router` of a fleet of Envoys and their gate.

Routes change by files that every Envoy watches; a hold changes nothing but the memory (and the state file) of
the gate.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tenure.errors import (
    DeadlineExceeded,
    FenceRefused,
    StoreRefused,
    StoreUnavailable,
    UnknownName,
    UsageError,
)
from tenure.model.names import CellName, TenantId
from tenure.model.traffic import CellTraffic
from tenure.routing.contract import HoldReport, RouteState, TenantAddress
from tenure.routing.envoy.fleet import Fleet
from tenure.routing.envoy.gate_client import GateClient, GateStatus
from tenure.routing.envoy.options import EnvoyOptions, GateEndpoint
from tenure.routing.envoy.routes import Route, split_address
from tenure.routing.envoy.table import RouteFiles, Table

_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_DRAIN_POLL_FROM_S: Final = 0.0005
_DRAIN_POLL_TO_S: Final = 0.02
_SETTLED_S: Final = 0.1


class EnvoyRouter:
    """Implements `Router`. Thread-safe; several processes may use the same `config_dir`."""

    def __init__(
        self,
        *,
        config_dir: Path,
        admin: Sequence[str],
        listen: str,
        gate: GateEndpoint,
        cells: Mapping[CellName, str],
        options: EnvoyOptions | None = None,
        logs: Sequence[Path] = (),
    ) -> None:
        """Connect to nothing yet. `logs` are Envoy's log files where this machine can read them: a rejected
        document's reason stands only there."""
        self._options = options or EnvoyOptions()
        self._listen = listen
        self._cells = dict(cells)
        self._files = RouteFiles(config_dir, cells=cells, gate_check=gate.check, options=self._options)
        self._fleet = Fleet(admin, folder=config_dir, options=self._options, logs=logs)
        self._gate = GateClient(gate, timeout_s=self._options.io_timeout_s)

    def ping(self) -> None:
        """Return if every Envoy is ready, its listener takes connections and the gate accepts our token."""
        self._fleet.ready()
        host, port, _ = split_address(self._listen)
        try:
            socket.create_connection((host, port), timeout=self._options.io_timeout_s).close()
        except OSError as error:
            raise StoreUnavailable(
                f"the gateway at {self._listen} takes no connections: {error}", hint="is Envoy running?"
            ) from error
        self._gate.ping()

    def route(self, address: TenantAddress, cell: CellName, *, epoch: int) -> None:
        """Send the tenant straight to the cell. Needs no gate: this is also the way out when the gate is
        dead.

        Raises `FenceRefused` for an epoch smaller than the table's, and while the gate holds the tenant: going
        around it would break the hold.
        """
        line = self._line(address, cell, gated=False, epoch=epoch)
        with self._changing(address.tenant, line) as (before, after):
            self._refuse_held(address.tenant)
            self._change(before, after)
            # Before anybody else can gate the tenant: what comes late must not take it out of their hands.
            self._leave_gate(address.tenant)

    def gate(self, address: TenantAddress, cell: CellName, *, token: int, epoch: int) -> None:
        """Put the tenant behind the gate. During a hold it goes on, and `cell` becomes the way taken without
        a gate.

        Raises `FenceRefused` for an epoch smaller than the table's, or a token smaller than the gate's.
        """
        line = self._line(address, cell, gated=True, epoch=epoch)
        with self._changing(address.tenant, line) as (before, after):
            self._gate.put(address.tenant, cell=cell, token=token)
            self._change(before, after)
        self._fleet.asking(address.tenant)

    def canary(self, tenant: TenantId, *, token: int, cell: CellName, share: float, ttl_s: float) -> None:
        """Let the gate send that share of the tenant's reads to the cell; it ends by itself after `ttl_s`."""
        self._check_cell(cell)
        self._gate.canary(tenant, token=token, cell=cell, share=share, ttl_s=ttl_s)

    def traffic(self, tenant: TenantId, cell: CellName) -> CellTraffic:
        """Read the counters of every Envoy. Answers are in them at once, latencies after Envoy's flush (a second
        with our bootstrap)."""
        return self._fleet.traffic(tenant, cell)

    def hold(self, tenant: TenantId, *, token: int, budget_s: float, fallback: CellName) -> None:
        """Make every new request wait. The gate itself ends the hold when the budget is used up."""
        if not 0 < budget_s <= self._options.hold_max_s:
            raise UsageError(
                f"a hold budget of {budget_s:g} s is not between 0 and {self._options.hold_max_s:g} s",
                hint="lower hold.budget_ms, or raise the gateway's hold_max_s and restart Envoy with a new bootstrap",
            )
        self._check_cell(fallback)
        self._gate.hold(tenant, token=token, budget_s=budget_s, fallback=fallback)

    def throttle(
        self, tenant: TenantId, *, token: int, writes_per_s: float, longest_delay_s: float, for_s: float
    ) -> None:
        """Delay writing requests so that about that many pass per second; reads and neighbours pass at once."""
        self._gate.throttle(
            tenant, token=token, writes_per_s=writes_per_s, longest_delay_s=longest_delay_s, for_s=for_s
        )

    def drain(self, tenant: TenantId, cell: CellName, *, timeout_s: float) -> None:
        """Return when the held tenant has no request under way in the cell.

        Between the gate's answer and Envoy's dispatch a request is counted by neither as running, so being at
        zero is not enough. But Envoy stops counting a question to the gate only after it has dispatched the
        request, and the gate stops when it answers. So once Envoy counts no more questions than the gate has
        open (the gate is read first), every answer from before the hold has become a dispatch. From there two
        samples in a row must find nothing queued or running: one could miss a request that changes from
        queued to running while it is read. Users who arrive between the two readings make them differ, and
        they are taken again; if that never ends, a tenth of a second without anything queued or running is
        accepted. What could slip through then, and requests that began before the tenant was gated, the
        stores' fences keep out.

        Raises `DeadlineExceeded` also if the hold ends meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        poll_s = _DRAIN_POLL_FROM_S
        dispatched = slept = False
        quiet = 0
        quiet_since = time.monotonic()
        while quiet < 2:
            status = None if dispatched else self._held(tenant)
            asking, running = self._fleet.sample(tenant, cell)
            if running:
                quiet, quiet_since = 0, time.monotonic()
            if status is not None:
                settled = time.monotonic() - quiet_since >= _SETTLED_S
                dispatched = asking <= status.waiting or settled
            if dispatched and not running:
                quiet += 1
            if quiet < 2 and time.monotonic() >= deadline:
                raise DeadlineExceeded(
                    f"{running} requests of {tenant} are still under way in {cell} after {timeout_s:g} s",
                    hint="long requests and streams count: raise hold.drain_ms, or end them first",
                )
            if running:
                slept = True
                time.sleep(poll_s)
                poll_s = min(poll_s * 1.5, _DRAIN_POLL_TO_S)
        if slept:
            self._held(tenant)

    def release(self, tenant: TenantId, *, token: int, cell: CellName) -> HoldReport:
        """Open the gate towards the cell; nothing happens for a tenant that is not behind it.

        Without its gate the tenant still goes to the cell given to `gate`: call `route` or `gate` with the new
        cell next.
        """
        self._check_cell(cell)
        return self._gate.release(tenant, token=token, cell=cell)

    def observed(self, address: TenantAddress) -> RouteState:
        """What every Envoy has in use for the tenant's host, and what the gate answers. Raises
        `StoreUnavailable`.

        `cell` is None if nothing serves the tenant or if the Envoys disagree. Reads Envoy's whole
        configuration: about 0.1 s for each 1,000 tenants, so keep it out of a hold.
        """
        return self.survey((address,))[address.tenant]

    def survey(self, addresses: Sequence[TenantAddress]) -> Mapping[TenantId, RouteState]:
        """`observed` of all of them, from one reading of each Envoy."""
        tables = {where: _by_host(config) for where, config in self._fleet.route_configs().items()}
        return {
            address.tenant: self._state(
                address.tenant, {where: table.get(_host(address.host)) for where, table in tables.items()}
            )
            for address in addresses
        }

    def asked(self, tenant: TenantId) -> int:
        """How many of the tenant's requests have come to the gate since its process began."""
        status = self._gate.status(tenant)
        return 0 if status is None else status.asked

    def renew(self) -> None:
        """Publish the table's documents under new versions and wait until every Envoy has them."""
        with self._files.exclusive():
            table = self._files.read()
            change = self._fleet.change()
            clusters = self._files.publish_clusters(table.clustered | table.gated, renew=True)
            change.wait_clusters(clusters)
            change.wait_routes(self._files.publish_routes(table, renew=True))
            change.finish()

    def _state(self, tenant: TenantId, seen: Mapping[str, tuple[str, bool] | None]) -> RouteState:
        found = set(seen.values())
        gated = any(route is not None and route[1] for route in found)
        only = found.pop() if len(found) == 1 else None
        cell = CellName(only[0]) if only else None
        parts = tuple((where, _in_words(route)) for where, route in seen.items())
        if cell is None or not gated:
            return RouteState(cell=cell, gated=gated, held=False, parts=parts)
        try:
            status = self._gate.status(tenant)
        except StoreUnavailable:
            status = None
        if status is None:
            # Envoy lets the requests of a gated tenant pass to the last route when the gate does not know
            # better.
            return RouteState(cell=cell, gated=True, held=False, gate_answers=False, parts=parts)
        return RouteState(
            cell=status.cell,
            gated=True,
            held=status.held,
            waiting=status.waiting,
            canary=status.canary,
            canary_share=status.canary_share,
            parts=parts,
        )

    def forget(self, tenant: TenantId) -> None:
        """Remove the tenant's routes; its requests then find no tenant. Ends a hold. Idempotent."""
        with self._changing(tenant, None) as (before, after):
            self._change(before, after)
        self._gate.remove(tenant, forget=True)

    def close(self) -> None:
        """Give the connections back. Idempotent."""
        self._gate.close()
        self._fleet.close()

    def _held(self, tenant: TenantId) -> GateStatus:
        status = self._gate.status(tenant)
        if status is not None and status.held:
            return status
        if status is not None and status.timed_out:
            raise DeadlineExceeded(
                f"the hold of {tenant} used up its budget while its requests drained",
                hint="raise hold.budget_ms",
            )
        raise StoreRefused(f"{tenant} is not being held", hint="hold the tenant first")

    def _refuse_held(self, tenant: TenantId) -> None:
        try:
            status = self._gate.status(tenant)
        except StoreUnavailable:
            return
        if status is not None and status.held:
            raise FenceRefused(
                f"{tenant} is being held by token {status.token}",
                hint="release it, or wait until its budget ends",
            )

    def _leave_gate(self, tenant: TenantId) -> None:
        """What stays behind in a gate that does not answer is never asked for, and replaced by the next
        `gate`."""
        try:
            self._gate.remove(tenant)
        except StoreUnavailable:
            return

    def _line(self, address: TenantAddress, cell: CellName, *, gated: bool, epoch: int) -> Route:
        self._check_cell(cell)
        return Route(host=_host(address.host), cell=cell, gated=gated, epoch=epoch)

    def _check_cell(self, cell: CellName) -> None:
        if cell not in self._cells:
            raise UnknownName(
                f"the gateway knows no cell {cell}", hint="`tenure estate status` shows the cells"
            )

    @contextmanager
    def _changing(self, tenant: TenantId, line: Route | None) -> Iterator[tuple[Table, Table]]:
        """Keep everybody else from changing routes; give the table as it is and as it is to be with the line.

        Nothing is changed yet, and what may not be changed is refused here.
        """
        with self._files.exclusive():
            before = self._files.read()
            yield before, _with_line(before, tenant, line)

    def _change(self, before: Table, after: Table) -> None:
        """Change the table and wait until every Envoy has it; take it back if one rejects it."""
        texts = self._files.snapshot()
        try:
            self._apply(before, after)
        except StoreRefused:
            self._files.restore(texts)
            raise

    def _apply(self, before: Table, after: Table) -> None:
        """New clusters come before the routes that use them, routes before clusters that they no longer use go."""
        change = self._fleet.change()
        needed = before.clustered | after.gated
        self._files.write(Table(routes=after.routes, clustered=needed))
        change.wait_clusters(self._files.publish_clusters(needed))
        change.wait_routes(self._files.publish_routes(after))
        if needed != after.gated and change.wait_unasked(needed - after.gated):
            change.wait_clusters(self._files.publish_clusters(after.gated))
            self._files.write(Table(routes=after.routes, clustered=after.gated))
        change.finish()


def _with_line(table: Table, tenant: TenantId, line: Route | None) -> Table:
    routes = {name: route for name, route in table.routes.items() if name != tenant}
    if line is not None:
        known = table.routes.get(tenant)
        if known is not None and line.epoch < known.epoch:
            raise FenceRefused(
                f"{tenant} has been routed for its placement {known.epoch}: placement {line.epoch} is outdated",
                hint="another operation has moved the tenant on: `tenure op list`",
            )
        for name, route in routes.items():
            if route.host == line.host:
                raise StoreRefused(
                    f"the host {line.host} already belongs to {name}",
                    hint="give each tenant a host of its own",
                )
        routes[tenant] = line
    return Table(routes=routes, clustered=table.clustered)


def _host(host: str) -> str:
    """Host names as Envoy compares them: in lower case, without the port."""
    name = host.lower().rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host.lower()
    if not _HOST.fullmatch(name):
        raise UsageError(f"{host!r} is not a host name")
    return name


def _by_host(config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """For each host the cell that a route configuration sends it to by default, and whether it asks the gate."""
    found: dict[str, tuple[str, bool]] = {}
    for virtual_host in config.get("virtual_hosts", ()):
        routes: list[dict[str, Any]] = virtual_host.get("routes", [])
        last = routes[-1] if routes else {}
        cluster = str(last.get("route", {}).get("cluster", ""))
        if cluster:
            route = (cluster.partition("~")[0], "typed_per_filter_config" in last)
            found |= dict.fromkeys(virtual_host.get("domains", ()), route)
    return found


def _in_words(route: tuple[str, bool] | None) -> str:
    return "no route" if route is None else f"{route[0]}, {'through the gate' if route[1] else 'directly'}"
