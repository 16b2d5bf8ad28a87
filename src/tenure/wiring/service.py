"""Opens what `tenure.yaml` describes, and puts the service together."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from tenure.engine.context import StepContext
from tenure.engine.engine import Around, Engine
from tenure.engine.heartbeat import never
from tenure.engine.holder import is_gone, this_process
from tenure.estate.config import (
    Estate,
    load_estate,
)
from tenure.estate.values import server_address
from tenure.locks import RedisTenantLocks
from tenure.operations.capacity import Capacity
from tenure.operations.deps import Deps, Dispatcher, TenantLocks
from tenure.operations.session import Sessions
from tenure.registry.database import Database
from tenure.registry.registry import Registry
from tenure.routing.dns import NameServer
from tenure.routing.envoy import EnvoyOptions, EnvoyRouter, GateEndpoint
from tenure.routing.probe import HttpProbe
from tenure.service import Service
from tenure.wiring.backups import open_backups, open_ledger
from tenure.wiring.exports import exporters
from tenure.wiring.schemas import PostgresSchemas
from tenure.wiring.stores import Stores
from tenure.wiring.vaults import RegionVaults

TURN_S: Final = 0.0005
"""How long one thread may keep the others of this process from running Python. In a hold several threads speak with one
store each; with CPython's 5 ms they wait for one another longer than for the stores (`make bench` shows it)."""


LOOK_TIMEOUT_S: Final = 5.0
"""How long the name server, or an app that is probed, may take to answer."""
DNS_PORT: Final = 53


def open_registry(estate: Estate) -> Registry:
    """The control database, reachable but not checked."""
    return Registry(Database(estate.control.dsn.resolve()))


def open_router(estate: Estate) -> EnvoyRouter:
    gateway = estate.gateway
    return EnvoyRouter(
        config_dir=gateway.config_dir,
        admin=gateway.admin,
        listen=gateway.listen,
        gate=GateEndpoint(
            check=gateway.gate.check, control=gateway.gate.control, token=gateway.gate.token.resolve()
        ),
        cells={name: cell.app for name, cell in estate.cells.items()},
        options=EnvoyOptions(
            tenant_header=gateway.tenant_header,
            read_paths=gateway.read_paths,
            session_header=gateway.session_header,
            apply_timeout_s=gateway.apply_timeout_s,
            hold_max_s=max(EnvoyOptions().hold_max_s, estate.hold.budget_s),
        ),
    )


def open_names(estate: Estate) -> NameServer | None:
    settings = estate.gateway.dns
    if settings is None:
        return None
    return NameServer(
        server=server_address(settings.server, default_port=DNS_PORT),
        zone=settings.zone,
        key=settings.key,
        secret=settings.secret.resolve(),
        algorithm=settings.algorithm,
        record=settings.record,
        ttl_s=settings.ttl_s,
        timeout_s=LOOK_TIMEOUT_S,
    )


def open_probe(estate: Estate) -> HttpProbe | None:
    settings = estate.gateway.probe
    if settings is None:
        return None
    return HttpProbe(path=settings.path, header=settings.header, timeout_s=LOOK_TIMEOUT_S)


def open_dispatcher(estate: Estate, registry: Registry) -> Dispatcher | None:
    """What wakes the estate's workers; None where it has no broker."""
    if estate.fleet.broker is None:
        return None
    # Here, because Celery takes longer to load than most commands to run.
    from tenure.worker.dispatcher import CeleryDispatcher

    return CeleryDispatcher(estate, registry)


def open_locks(estate: Estate) -> RedisTenantLocks | None:
    settings = estate.fleet.locks
    if settings is None:
        return None
    return RedisTenantLocks(settings.resolve(), holder=this_process, is_gone=is_gone)


def held_around(locks: TenantLocks | None) -> Around:
    """Every attempt of a step of a tenant's operation with the tenant's lock around it."""

    def around(context: StepContext) -> AbstractContextManager[object]:
        tenant = context.operation.tenant
        if locks is None or tenant is None:
            return nullcontext()
        return locks.hold(tenant, context.token, renewed_while=lambda: context.heard)

    return around


def open_service(path: Path, *, stopping: Callable[[], bool] = never) -> Service:
    """The service for the estate that this `tenure.yaml` describes. Checks the control database's schema version.

    Once `stopping` says so, what runs is given back (`Engine`).
    """
    estate = load_estate(path)
    registry = open_registry(estate)
    registry.check()
    return service_of(estate, registry, stopping=stopping)


def service_of(estate: Estate, registry: Registry, *, stopping: Callable[[], bool] = never) -> Service:
    """The service over this registry. Shortens the turns of this process's threads (`TURN_S`)."""
    sys.setswitchinterval(TURN_S)
    stores, locks = Stores(estate, registry.mutex), open_locks(estate)
    deps = Deps(
        estate=estate,
        registry=registry,
        router=open_router(estate),
        factory=stores,
        sessions=Sessions(stores),
        names=open_names(estate),
        probe=open_probe(estate),
        dispatcher=open_dispatcher(estate, registry),
        locks=locks,
        vaults=RegionVaults(estate, stores),
        schemas=PostgresSchemas(estate, stores),
        sealing=open_backups(estate) if estate.backups is not None else None,
        ledger=open_ledger(estate),
        exporters=exporters,
    )
    actor = f"{getpass.getuser()}@{socket.gethostname()}"
    engine = Engine(
        registry,
        actor=actor,
        stopping=stopping,
        around=held_around(locks),
        admission=Capacity(deps, actor=actor).admit,
    )
    return Service(deps, engine)
