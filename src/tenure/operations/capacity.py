"""Who may begin: what operations need of cells, stores and servers, how much of it there is, and whose turn it is.

A migration and a verification wait until everything they need is there. A rollback is counted and never waits, and
whatever gives capacity back (`complete`, `expire`) is not even counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenure.model.capacity import CapacityRequest, Limit, Need, Resource, Scope, What
from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, TenantId, cell_name
from tenure.model.operation import Operation
from tenure.operations.deps import Deps
from tenure.operations.limits import Limits
from tenure.operations.observe import PAST_MEASUREMENTS, link_name, route
from tenure.plan.capacity import Verdict, Waiting, decide
from tenure.registry.admissions import Admission, Use

AT_MOST: Final = 10_000
"""How many waiting operations are looked at."""
_NAMED: Final = 4


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One resource now. `waiting` are the operations that lack it, in the order of their turns."""

    resource: Resource
    limit: Limit
    by: tuple[Use, ...]
    waiting: tuple[str, ...]

    @property
    def used(self) -> int:
        return sum(use.units for use in self.by)

    def as_dict(self) -> dict[str, Any]:
        return {
            "scope": str(self.resource.scope),
            "name": self.resource.name,
            "what": str(self.resource.what),
            "limit": self.limit.most,
            "why": self.limit.why,
            "used": self.used,
            "by": [
                {"tenant": u.tenant, "operation": u.operation or None, "moving": u.active, "units": u.units}
                for u in self.by
            ],
            "waiting": list(self.waiting),
            "next": self.waiting[0] if self.waiting else None,
        }


@dataclass(frozen=True, kw_only=True)
class CapacityReport:
    """Everything that is limited, and who waits, in the order of their turns. `unmatched`: servers with limits in
    `tenure.yaml` on which no store is."""

    standings: tuple[Standing, ...]
    waiting: tuple[Admission, ...]
    unmatched: tuple[str, ...]


class Capacity:
    """Thread-safe. `actor` is who is named in the journal as having admitted."""

    def __init__(self, deps: Deps, *, actor: str) -> None:
        self._deps = deps
        self._settings = deps.estate.capacity
        self._actor = actor
        self._limits = Limits(deps.estate, deps.factory)
        ranks = sorted({tier.rank for tier in deps.estate.tiers.values()})
        self._ranks = {name: ranks.index(tier.rank) for name, tier in deps.estate.tiers.items()}

    # -- what is asked for -------------------------------------------------------------------------------------------

    def request(
        self, kind: str, tenant: TenantId, source: CellName, target: CellName, *, linked: bool
    ) -> CapacityRequest | None:
        """What an operation of that kind needs; None for one that needs nothing of what is limited."""
        if kind not in {"migrate", "verify", "rollback"}:
            return None
        needs: dict[Resource, Need] = {}
        for cell in (source, target):
            _add(needs, Resource(scope=Scope.CELL, name=cell, what=What.MOVES), Need(units=1))
            for store in self._limits.stores_of(cell):
                _add(
                    needs, Resource(scope=Scope.STORE, name=f"{cell}/{store}", what=What.MOVES), Need(units=1)
                )
        if kind == "rollback":
            return CapacityRequest(needs=needs, at_once=True)
        copies = self._deps.sessions.get(link_name(tenant, source, target), tenant, source, target).copies
        for take in (take for copy in copies.values() for take in copy.takes()):
            if not linked or take.what is What.CONNECTIONS:
                _add(needs, Resource(scope=Scope.SERVER, name=take.server, what=take.what), take.need)
        if kind == "migrate" and not linked:
            for server, units in self._bandwidth(source, target).items():
                _add(needs, Resource(scope=Scope.SERVER, name=server, what=What.BANDWIDTH), Need(units=units))
        return CapacityRequest(needs=needs)

    def out_of_reach(self, request: CapacityRequest | None, cells: Iterable[CellName]) -> tuple[Finding, ...]:
        """What no waiting would help against: a refusal for everything of which it needs more than there ever is."""
        if request is None or request.at_once:
            return ()
        limits = self._limits.of(request.needs, cells)
        return tuple(
            Finding(
                severity=Severity.REFUSAL,
                code="over_capacity",
                where=resource.name,
                message=f"it needs {resource.amount(need.units)} {resource.several()}, and at most "
                f"{resource.amount(limits[resource].most)} can be had ({limits[resource].why})",
                fix="raise the limit: in the server, or in `capacity` of tenure.yaml",
            )
            for resource, need in sorted(request.needs.items(), key=lambda item: item[0])
            if resource in limits and need.units > limits[resource].most
        )

    def _bandwidth(self, source: CellName, target: CellName) -> Mapping[str, int]:
        """Bytes per second on each server with such a limit, as measured; all of it where nothing was."""
        wanted: dict[str, int] = {}
        for name in self._deps.factory.moving():
            past = self._deps.registry.measurements.recent(
                kind="copy", route=route(source, target), store=name, limit=PAST_MEASUREMENTS
            )
            seconds = sum(m.seconds for m in past)
            rate = round(sum(m.bytes for m in past) / seconds) if seconds > 0 else None
            for server in {self._deps.factory.store(cell, name).server for cell in (source, target)}:
                most = self._limits.bandwidth(server)
                if most is not None:
                    wanted[server] = min(most, wanted.get(server, 0) + (most if rate is None else rate))
        return wanted

    # -- whose turn it is --------------------------------------------------------------------------------------------

    def admit(self, operation: Operation) -> str | None:
        """Admit the operation if it is its turn: None then, and for one that has not to be admitted; otherwise what it
        waits for. An `engine.Admit`: asked again and again by whoever wants to run it."""
        registry = self._deps.registry
        if registry.admissions.admitted(operation.id):
            return None
        mine = registry.admissions.get(operation.id)
        if mine is None:
            return None
        cells = [cell_name(operation.request[end]) for end in ("from", "to")]
        limits = self._limits.of(mine.needs, cells)
        told = self._decide((operation.id,), limits).get(operation.id)
        if told is not None and mine.waits_for is None and operation.tenant is not None:
            # Whoever waits keeps no connections: those of many would be what all of them wait for.
            self._deps.sessions.drop(link_name(operation.tenant, *cells))
        return told

    def admit_waiting(self) -> tuple[str, ...]:
        """Admit whoever's turn it is among all that nothing else keeps from beginning; give them in their order. For a
        scheduler, before it looks for what is due: it stands for those for whom nobody waits."""
        among = self._deps.registry.operations.due(admitted=False, limit=AT_MOST)
        if not among:
            return ()
        waiting, _ = self._deps.registry.admissions.look(among=among)
        limits = self._limits.of({r for a in waiting for r in a.needs}, self._deps.estate.cells)
        told = self._decide(among, limits)
        return tuple(operation for operation, waits_for in told.items() if waits_for is None)

    def _decide(self, among: Sequence[str], limits: Mapping[Resource, Limit]) -> dict[str, str | None]:
        """Decide about those `among`, in their order among all that are wanted; what each waits for, None if admitted.

        One that has meanwhile been admitted, or ended, by others is not in the answer of `Deciding`: it waits for
        nothing.
        """
        told: dict[str, str | None] = {}
        chosen = frozenset(among)
        with self._deps.registry.admissions.deciding(among=among, actor=self._actor) as deciding:
            used = self._limits.with_unaccounted(deciding.used)
            known = {a.operation: a for a in deciding.waiting}
            waits: list[tuple[Admission, str, bool]] = []
            for verdict in self._verdicts(deciding.waiting, used, limits, among):
                if verdict.operation not in chosen:
                    continue
                admission = known[verdict.operation]
                if verdict.admitted:
                    deciding.admit(admission)
                    told[verdict.operation] = None
                else:
                    sentence = _sentence(verdict, used, known)
                    waits.append((admission, sentence, verdict.hopeless))
                    told[verdict.operation] = sentence
            if waits:
                deciding.keep_waiting(waits)
        return told

    def _verdicts(
        self,
        waiting: Sequence[Admission],
        used: Mapping[Resource, Sequence[Use]],
        limits: Mapping[Resource, Limit],
        among: Sequence[str],
    ) -> tuple[Verdict, ...]:
        chosen = frozenset(among)
        lowest = len(self._ranks)
        queue = [
            Waiting(
                operation=a.operation,
                tenant=a.tenant or "",
                rank=self._ranks.get(a.tier or "", lowest),
                waited_s=a.waited_s,
                needs=a.needs,
                served_before=a.served_before,
            )
            for a in waiting
            if a.operation in chosen or not a.hopeless
        ]
        sums = {resource: sum(use.units for use in uses) for resource, uses in used.items()}
        return decide(limits, sums, queue, step_up_s=self._settings.step_up_s)

    # -- what there is -----------------------------------------------------------------------------------------------

    def survey(self) -> CapacityReport:
        """Everything that is limited in the whole estate, who takes it, and who waits for it."""
        among = self._deps.registry.operations.due(admitted=False, limit=AT_MOST)
        waiting, accounted = self._deps.registry.admissions.look(among=among)
        servers = self._limits.servers(self._deps.estate.cells)
        limits = self._limits.of(self._limits.everything(servers), self._deps.estate.cells)
        used = self._limits.with_unaccounted(accounted)
        verdicts = self._verdicts(waiting, used, limits, [a.operation for a in waiting])
        known = {a.operation: a for a in waiting}
        return CapacityReport(
            standings=tuple(
                Standing(
                    resource=resource,
                    limit=limit,
                    by=tuple(used.get(resource, ())),
                    waiting=tuple(
                        v.operation for v in verdicts if any(lack.resource == resource for lack in v.lacks)
                    ),
                )
                for resource, limit in sorted(limits.items(), key=lambda item: item[0])
            ),
            waiting=tuple(known[v.operation] for v in verdicts),
            unmatched=tuple(sorted(self._settings.servers.keys() - servers.keys())),
        )


def _add(needs: dict[Resource, Need], resource: Resource, need: Need) -> None:
    needs[resource] = needs[resource] + need if resource in needs else need


def _sentence(
    verdict: Verdict, used: Mapping[Resource, Sequence[Use]], known: Mapping[str, Admission]
) -> str:
    """What the operation waits for: `waits for a replication slot on server X: 8 of 8 in use by acme, globex`."""
    parts = []
    for lack in verdict.lacks:
        resource, most = lack.resource, lack.limit.most
        if lack.wanted > most:
            parts.append(
                f"cannot begin: it needs {resource.amount(lack.wanted)} {resource.several()}, and at most "
                f"{resource.amount(most)} can be had ({lack.limit.why})"
            )
            continue
        names = list(dict.fromkeys(use.tenant or "links that have ended" for use in used.get(resource, ())))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        by = f" by {', '.join(names[:_NAMED])}{more}" if names else ""
        needs = f", {resource.amount(lack.wanted)} needed" if lack.wanted > 1 else ""
        first = known[lack.kept_for].tenant if lack.kept_for is not None else None
        before = f"; {first} goes first" if first is not None else ""
        parts.append(
            f"waits for {resource.one()}: {resource.amount(lack.used)} of {resource.amount(most)} in use"
            f"{by}{needs}{before}"
        )
    return "; ".join(parts)
