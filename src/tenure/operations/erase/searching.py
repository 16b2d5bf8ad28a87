"""The independent look: a search of every store for the tenant's id, documented places or not.

It shares nothing with what erases: neither the list of what was deleted nor the catalogue's word for where a tenant's
data is. It only asks of each finding what the catalogue calls the place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenure.certificates.evidence import Looked, Mention, PartName, Unseen
from tenure.engine.context import StepContext
from tenure.engine.observer import Notice, Progressed
from tenure.errors import StoreUnavailable, UnknownName
from tenure.model.names import TenantId
from tenure.model.search import Coverage, Found, PlaceKind, tenant_identifier
from tenure.operations.deps import Deps
from tenure.operations.scan import ScanRequest, ScanRun
from tenure.registry.scans import Scan

ACCESS: Final = frozenset(
    {PlaceKind.ACL_USER, PlaceKind.ROLE, PlaceKind.SCHEMA, PlaceKind.DATABASE, PlaceKind.DEFINITION}
)
"""Means of access and empty containers, where they are the tenant's own: they hold no data."""
_WHY: Final = {
    Coverage.NEIGHBOUR: "in another tenant's data, which this request does not reach",
    Coverage.TENURE: "Tenure's own record that nothing of the tenant is accepted any more",
}


@dataclass(frozen=True, kw_only=True)
class Residue:
    """Data of the tenant where there should be none. `documented`: in a place that the catalogue calls the tenant's."""

    part: PartName
    found: Found

    @property
    def documented(self) -> bool:
        return self.found.coverage is Coverage.OWN

    def as_dict(self) -> dict[str, Any]:
        return {
            "cell": self.part.cell,
            "store": self.part.store,
            "kind": str(self.found.place.kind),
            "place": self.found.place.name,
            "items": self.found.items,
            "coverage": str(self.found.coverage),
            "entry": self.found.entry,
        }

    def __str__(self) -> str:
        return f"{self.part}, {self.found.place.kind} {self.found.place.name} ({self.found.items})"


class Searching:
    """Searches on behalf of one erasure."""

    def __init__(self, deps: Deps, ctx: StepContext, tenant: TenantId) -> None:
        self._deps = deps
        self._ctx = ctx
        self._tenant = tenant

    def run(self, label: str, where: Sequence[PartName]) -> Scan:
        """Search these parts to their ends. An earlier attempt's search, noted as `label`, goes on where it was.

        Raises `StoreUnavailable` if a part could not be searched.
        """
        ctx, scans = self._ctx, self._deps.registry.scans
        request = ScanRequest(
            tenants=(self._tenant,),
            identifiers=(tenant_identifier(self._tenant),),
            where=tuple((part.cell, part.store) for part in where),
        )
        scan = self._earlier(ctx.operation.data.get(label), request)
        if scan is None:
            scan = scans.begin(request.kept(), request.where, actor=ctx.operation.requested_by)
            ctx.remember(**{label: scan.id})
        ctx.reach(f"{label}.searching")
        scan = ScanRun(self._deps, scan, request, self._shown).run(ctx.check)
        failed = [part for part in scan.parts if part.state != "done"]
        if failed:
            first = failed[0]
            raise StoreUnavailable(
                f"{first.store} of {first.cell} could not be searched: {first.problem or first.state}"
                + (f", and {len(failed) - 1} more" if len(failed) > 1 else ""),
                hint="bring it back; the search goes on where it was",
            )
        ctx.reach(f"{label}.searched")
        return scan

    def _earlier(self, id: object, request: ScanRequest) -> Scan | None:
        if id is None:
            return None
        try:
            scan = self._deps.registry.scans.get(str(id))
        except UnknownName:
            return None
        same = {(p.cell, p.store) for p in scan.parts} == set(request.where)
        return scan if same and dict(scan.request) == request.kept() else None

    def _shown(self, notice: Notice) -> None:
        if isinstance(notice, Progressed):
            self._ctx.progress(
                f"search {notice.what}", notice.done, notice.total, notice.unit, **dict(notice.detail)
            )


def looked(scan: Scan) -> dict[PartName, Looked]:
    """How much of each part was searched."""
    return {
        PartName(p.cell, p.store): Looked(
            scan=scan.id,
            done=p.state == "done",
            items=p.items,
            size_bytes=p.size_bytes,
            own=sum(f.items for f in p.found if f.coverage is Coverage.OWN),
        )
        for p in scan.parts
    }


def residue(
    scan: Scan, *, sealed: Collection[PartName] = (), undeletable: Collection[PartName] = ()
) -> Iterator[Residue]:
    """What should not be there: data of the tenant's own, and whatever lies where nobody expects a tenant's.

    Not so what lies sealed in its own place, which keys and locks account for, and what nobody can delete."""
    for part in scan.parts:
        name = PartName(part.cell, part.store)
        for found in part.found:
            own = found.coverage is Coverage.OWN
            if name in undeletable or (own and (found.place.kind in ACCESS or name in sealed)):
                continue
            if own or found.coverage in {Coverage.UNDOCUMENTED, Coverage.IGNORED}:
                yield Residue(part=name, found=found)


def mentions(scan: Scan, undeletable: Mapping[PartName, str]) -> Iterator[Mention]:
    """Where the tenant's id stays, and why; of stores whose contents nobody can delete all that was found."""
    for part in scan.parts:
        for found in part.found:
            why = _WHY.get(found.coverage) or undeletable.get(PartName(part.cell, part.store))
            if why is None and found.coverage is Coverage.OWN and found.place.kind in ACCESS:
                why = "a means of access or an empty container, which holds no data"
            if why is not None:
                yield Mention(
                    part=PartName(part.cell, part.store),
                    kind=str(found.place.kind),
                    name=found.place.name,
                    items=found.items,
                    why=why,
                )


def unseen(scan: Scan) -> Iterator[Unseen]:
    """What was not looked at."""
    for part in scan.parts:
        for its in part.skipped:
            yield Unseen(
                part=PartName(part.cell, part.store),
                kind=str(its.place.kind),
                name=its.place.name,
                reason=its.reason,
                items=its.items,
                size_bytes=its.size_bytes,
            )
