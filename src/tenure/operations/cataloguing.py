"""The use cases of the catalogue: does it say everything, and where are tenants' identifiers that it does not name?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tenure.engine.observer import Observer, nobody
from tenure.errors import UsageError
from tenure.model.names import CellName, StoreName, TenantId, tenant_id
from tenure.model.search import DEFAULT_BODY_LIMIT_BYTES, TENANT_KIND, Identifier, tenant_identifier
from tenure.operations import scan as scans
from tenure.operations import survey as surveys
from tenure.operations.deps import Deps
from tenure.operations.scan_report import ScanReport, report
from tenure.operations.survey import CheckReport

SAMPLE: Final = 0.05
"""The share of items that a scan looks at unless it is told to look at all of them."""


class Cataloguing:
    """What the entry points call for `tenure catalogue`."""

    def __init__(self, deps: Deps, *, actor: str) -> None:
        self._deps = deps
        self._actor = actor

    def check(self, cell: str | None = None) -> CheckReport:
        """Compare what exists with what the catalogue classifies, in one cell or in all. Reads only."""
        return surveys.check(self._deps, self._cells([cell] if cell else []))

    def scan(
        self,
        tenants: Sequence[str] | None,
        *,
        cells: Sequence[str] = (),
        stores: Sequence[str] = (),
        identifiers: Sequence[str] = (),
        sample: float | None = SAMPLE,
        rate_bytes_per_s: float | None = None,
        body_limit_bytes: int | None = None,
        observer: Observer = nobody,
    ) -> ScanReport:
        """Look for these tenants (None: all) in the stores; `sample` None looks at everything. `identifiers` are given
        as `kind=value`. Raises `Interrupted` on Ctrl-C, which says how to go on."""
        chosen = self._tenants(tenants)
        request = scans.ScanRequest(
            tenants=chosen,
            identifiers=_identifiers(chosen, identifiers),
            where=scans.where(self._deps, self._cells(cells), [StoreName(s) for s in stores]),
            sample=sample,
            rate_bytes_per_s=rate_bytes_per_s,
            body_limit_bytes=body_limit_bytes or DEFAULT_BODY_LIMIT_BYTES,
        )
        begun = self._deps.registry.scans.begin(request.kept(), request.where, actor=self._actor)
        return report(self._deps, scans.ScanRun(self._deps, begun, request, observer).run())

    def resume(
        self,
        scan: str,
        *,
        identifiers: Sequence[str] = (),
        rate_bytes_per_s: float | None = None,
        observer: Observer = nobody,
    ) -> ScanReport:
        """Go on with a scan that was interrupted, or whose stores could not all be reached; of a finished one, give the
        report again. `identifiers` are to be given again: they are not kept. Raises `UsageError` for others."""
        begun = self._deps.registry.scans.get(scan)
        chosen = tuple(TenantId(t) for t in begun.request["tenants"])
        request = scans.ScanRequest(
            tenants=chosen,
            identifiers=_identifiers(chosen, identifiers),
            where=tuple((part.cell, part.store) for part in begun.parts),
            sample=begun.request["sample"],
            rate_bytes_per_s=rate_bytes_per_s,
            body_limit_bytes=begun.request["body_limit_bytes"],
        )
        if begun.finished_at is not None and not identifiers:
            return report(self._deps, begun)
        scans.resumable(begun, request)
        return report(self._deps, scans.ScanRun(self._deps, begun, request, observer).run())

    def _cells(self, names: Sequence[str]) -> tuple[CellName, ...]:
        for name in names:
            self._deps.estate.cell(name)
        return tuple(CellName(name) for name in names) or tuple(self._deps.estate.cells)

    def _tenants(self, names: Sequence[str] | None) -> tuple[TenantId, ...]:
        """Tenants need not be registered: one that was erased is looked for as well."""
        if names is None:
            found = tuple(t.id for t in self._deps.registry.tenants.list())
            if not found:
                raise UsageError(
                    "there are no tenants", hint="tenure tenant add NAME --cell CELL --tier TIER"
                )
            return found
        return tuple(map(tenant_id, names))


def _identifiers(tenants: Sequence[TenantId], given: Sequence[str]) -> tuple[Identifier, ...]:
    """The tenants' ids, and what else one of them is recognised by. Raises `UsageError`, which shows no value."""
    found = [tenant_identifier(tenant) for tenant in tenants]
    if given and len(tenants) != 1:
        raise UsageError(
            "--identifier needs one tenant to belong to", hint="name the tenant instead of --all"
        )
    for text in given:
        kind, _, value = text.partition("=")
        if not kind.isidentifier() or not any(c.isalnum() for c in value) or kind == TENANT_KIND:
            raise UsageError(
                "an identifier is given as kind=value, with a letter or digit in the value",
                hint="such as --identifier email=ann@example.com",
            )
        found.append(Identifier(tenant=tenants[0], kind=kind, value=value))
    return tuple(found)
