"""What a scan found, judged: which places nobody documents, what lies in a cell that does not serve the tenant, and
which of that is as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Entry, Found, PlaceKind, Skipped
from tenure.operations.deps import Deps
from tenure.operations.survey import merged
from tenure.registry.links import Link, LinkState
from tenure.registry.scans import Scan, ScanPart

_NAMES: Final = frozenset(
    {PlaceKind.ACL_USER, PlaceKind.ROLE, PlaceKind.SCHEMA, PlaceKind.DATABASE, PlaceKind.DEFINITION}
)
"""Places that are means of access, and no data, where they are a tenant's own."""


class Judgement(StrEnum):
    """What a finding means."""

    UNDOCUMENTED = "undocumented"
    CONTRADICTED = "contradicted"
    """The catalogue says that no tenant's data is there."""
    MISPLACED = "misplaced"
    """The tenant's own data, in a cell that does not serve it, and no link explains it."""
    MENTIONED = "mentioned"
    """In another tenant's data: what is done to the tenant leaves it there."""
    COPY = "copy"
    """In the other cell of the tenant's link, as it should be."""
    OWN = "own"
    TENURE = "tenure"


WRONG: Final = frozenset({Judgement.UNDOCUMENTED, Judgement.CONTRADICTED, Judgement.MISPLACED})
_FIXES: Final = {
    Judgement.UNDOCUMENTED: "say in the catalogue what it holds, or have the app keep the tenant's data elsewhere",
    Judgement.CONTRADICTED: "take it out of `ignore` and classify it, or remove the data",
    Judgement.MENTIONED: "nothing, if the other tenant may keep it: what is done to this one does not reach it",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding, where it is and what to do. `fix` is empty where all is well."""

    cell: CellName
    store: StoreName
    judgement: Judgement
    found: Found
    message: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "store": self.store,
            "judgement": self.judgement,
            "tenant": self.found.tenant,
            "identifier": self.found.label,
            "kind": self.found.place.kind,
            "place": self.found.place.name,
            "items": self.found.items,
            "encodings": list(self.found.encodings),
            "examples": list(self.found.examples),
            "message": self.message,
            "fix": self.fix,
            "entry": self.found.entry,
        }


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """A scan, finished or not. `proposal` is what the catalogue could say of the undocumented places."""

    scan: Scan
    findings: tuple[Finding, ...]
    skipped: tuple[tuple[CellName, StoreName, Skipped], ...]
    proposal: Mapping[str, Entry]

    @property
    def complete(self) -> bool:
        return all(part.state == "done" for part in self.scan.parts)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.judgement in WRONG)

    @property
    def failed(self) -> tuple[ScanPart, ...]:
        return tuple(part for part in self.scan.parts if part.state == "failed")


def report(deps: Deps, scan: Scan) -> ScanReport:
    """Judge what the scan has found up to now by where tenants are placed and linked now."""
    placed = {p.tenant: p.cell for p in deps.registry.placements.list()}
    links: dict[TenantId, Link] = {}
    for state in (LinkState.EXPIRED, LinkState.ENDING, LinkState.ACTIVE):
        links |= {link.tenant: link for link in deps.registry.links.list(state=state)}
    findings = [
        _judged(part, found, placed.get(found.tenant), links.get(found.tenant))
        for part in scan.parts
        for found in part.found
    ]
    order = list(Judgement)
    findings.sort(key=lambda f: (order.index(f.judgement), f.cell, f.store, f.found.tenant, f.found.place))
    return ScanReport(
        scan=scan,
        findings=tuple(findings),
        skipped=tuple((part.cell, part.store, its) for part in scan.parts for its in part.skipped),
        proposal=merged(
            f.found.entry
            for f in findings
            if f.judgement is Judgement.UNDOCUMENTED and f.found.entry is not None
        ),
    )


def _judged(part: ScanPart, found: Found, serves: CellName | None, link: Link | None) -> Finding:
    judgement, message, fix = _judge(part.cell, found, serves, link)
    return Finding(
        cell=part.cell,
        store=part.store,
        judgement=judgement,
        found=found,
        message=message,
        fix=fix or _FIXES.get(judgement, ""),
    )


def _judge(
    cell: CellName, found: Found, serves: CellName | None, link: Link | None
) -> tuple[Judgement, str, str]:
    tenant = found.tenant
    match found.coverage:
        case Coverage.UNDOCUMENTED:
            return Judgement.UNDOCUMENTED, "the catalogue says nothing of it", ""
        case Coverage.IGNORED:
            return Judgement.CONTRADICTED, "the catalogue says that it holds no tenant's data", ""
        case Coverage.NEIGHBOUR:
            return Judgement.MENTIONED, "in another tenant's data", ""
        case Coverage.TENURE:
            return Judgement.TENURE, "one of Tenure's own records of the tenant", ""
    if serves == cell or found.place.kind in _NAMES:
        return Judgement.OWN, "the tenant's own, as the catalogue says", ""
    if link is not None and cell in (link.cell_a, link.cell_b):
        if link.state is LinkState.ACTIVE:
            return Judgement.COPY, f"the copy of the link with {serves}, as it should be", ""
        fix = f"tenure complete {tenant}"
        return Judgement.COPY, f"the outdated copy of the ended link with {serves}", fix
    if serves is None:
        return (
            Judgement.MISPLACED,
            f"{tenant} is not placed in any cell",
            f"tenure tenant add {tenant}, or erase it",
        )
    message = f"{serves} serves {tenant}, and no link explains a copy here"
    return Judgement.MISPLACED, message, f"look into it: it is either residue, or {tenant} was placed wrongly"
