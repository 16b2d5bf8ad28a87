"""What somebody asks of a restore, as its operation keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tenure.model.names import CellName, StoreName, TenantId, cell_name
from tenure.plan.restore_steps import Mode
from tenure.stores.backup import EVERYTHING, Selection

Chosen = Mapping[str, Mapping[str, tuple[str, ...] | None] | None]
"""By store, by collection, the keys of single items; None for all of it."""


@dataclass(frozen=True, kw_only=True)
class Newcomer:
    """How a new tenant is registered."""

    tier: str
    host: str
    residency: str | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """`source` is the cell that serves the tenant (of a new one: that will), `target` where it is restored to.
    `chosen` is what is restored; None: everything."""

    backup: str
    tenant: TenantId
    source: CellName
    target: CellName
    mode: Mode
    chosen: Chosen | None = None
    newcomer: Newcomer | None = field(default=None)
    erases_former: bool = False
    """Into another cell: what is left in the former one is deleted in the end."""

    def selection(self, store: StoreName) -> Selection | None:
        """What of that store is restored; None for nothing."""
        if self.chosen is None:
            return EVERYTHING
        if store not in self.chosen:
            return None
        items = self.chosen[store]
        return EVERYTHING if items is None else Selection(items=items)

    def as_dict(self) -> dict[str, Any]:
        """As `Operation.request` has it."""
        value: dict[str, Any] = {
            "backup": self.backup,
            "from": self.source,
            "to": self.target,
            "mode": self.mode.value,
        }
        if self.erases_former:
            value["erases_former"] = True
        if self.chosen is not None:
            value["chosen"] = chosen_dict(self.chosen)
        if self.newcomer is not None:
            who = self.newcomer
            value["newcomer"] = {"tier": who.tier, "host": who.host, "residency": who.residency}
        return value

    @classmethod
    def of(cls, tenant: TenantId, value: Mapping[str, Any]) -> Request:
        """The request of an operation."""
        chosen, newcomer = value.get("chosen"), value.get("newcomer")
        return cls(
            backup=str(value["backup"]),
            tenant=tenant,
            source=cell_name(value["from"]),
            target=cell_name(value["to"]),
            mode=Mode(value["mode"]),
            chosen=None if chosen is None else _chosen(chosen),
            newcomer=None if newcomer is None else Newcomer(**newcomer),
            erases_former=bool(value.get("erases_former", False)),
        )


def chosen_dict(chosen: Chosen) -> dict[str, Any]:
    """As JSON has it."""
    return {
        store: None
        if collections is None
        else {name: None if keys is None else list(keys) for name, keys in collections.items()}
        for store, collections in chosen.items()
    }


def _chosen(value: Mapping[str, Any]) -> Chosen:
    return {
        store: None
        if collections is None
        else {name: None if keys is None else tuple(keys) for name, keys in collections.items()}
        for store, collections in value.items()
    }
