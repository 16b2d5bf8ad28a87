"""The composition root: makes the adapters that `tenure.yaml` describes and puts the service together."""

from tenure.wiring.service import (
    held_around,
    open_dispatcher,
    open_locks,
    open_names,
    open_probe,
    open_registry,
    open_router,
    open_service,
    service_of,
)
from tenure.wiring.stores import Stores

__all__ = [
    "Stores",
    "held_around",
    "open_dispatcher",
    "open_locks",
    "open_names",
    "open_probe",
    "open_registry",
    "open_router",
    "open_service",
    "service_of",
]
