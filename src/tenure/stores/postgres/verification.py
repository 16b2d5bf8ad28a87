"""Comparing and mending the tables of one store over one direction of a link, while the source goes on changing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from psycopg.types.json import Jsonb

from tenure.errors import EvidenceStale, StoreRefused
from tenure.model.comparison import Comparison, Difference
from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Fence
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres import marks, repair
from tenure.stores.postgres.compare import Key, Pair, compare_keys, compare_table, pairs
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.tables import TenantTable, require

ARRIVAL_S: Final = 60.0
RECORD_DEADLINE_S: Final = 30.0
RESYNC_ROUNDS: Final = 3

_TOUCHED: Final = """
select f.recording and %(store)s = any(f.compared), t.relation, t.key, t.version
from tenure.fence f left join tenure.touched t on t.tenant_id = f.tenant_id and t.relation = any(%(relations)s::text[])
where f.tenant_id = %(tenant)s
"""

_FORGET: Final = """
with old as (
    -- A row that the app holds just now stays remembered: waiting for it could deadlock with the app.
    select ctid from tenure.touched where tenant_id = %(tenant)s and relation = any(%(relations)s::text[])
    for update skip locked
), gone as (delete from tenure.touched where ctid in (select ctid from old))
update tenure.fence set compared = array_remove(compared, %(store)s) where tenant_id = %(tenant)s returning tenant_id
"""

_COMPARED: Final = """
update tenure.fence set
    compared = array_remove(compared, %(store)s) || case when %(equal)s then array[%(store)s::text] else '{}' end
where tenant_id = %(tenant)s and recording returning tenant_id
"""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """`specs` are the tables of `store`; `direction` is the feed that brings the target into step."""

    store: StoreName
    source: Pool
    target: Pool
    specs: tuple[TenantTable, ...]
    tenant: TenantId
    direction: str
    _seen: list[Pair] = field(default_factory=list, init=False)

    @property
    def _about(self) -> dict[str, object]:
        return {
            "tenant": self.tenant,
            "store": self.store,
            "relations": [t.collection for t in self.specs],
        }

    def _pairs(self, *, known: bool = False) -> list[Pair]:
        """The tables on both sides: as they are, or (`known`) as they were when last looked at."""
        if not known or not self._seen:
            self._seen[:] = pairs(
                self.source, require(self.source, self.specs), self.target, require(self.target, self.specs)
            )
        return list(self._seen)

    def bring_into_step(self) -> None:
        """Everything the source has accepted until now is on the target."""
        mark = marks.write(self.source, self.direction, self.tenant)
        marks.wait(self.target, mark, self.tenant, timeout_s=ARRIVAL_S)

    def compare(self, progress: Callable[[int], None] = lambda _items: None) -> Comparison:
        """See `LiveCopy.compare`."""
        fences.record(self.source, self.tenant, deadline_s=RECORD_DEADLINE_S)
        self.source.rows(_FORGET, self._about)
        self.bring_into_step()
        processed = 0
        differences: list[Difference] = []
        for pair in self._pairs():
            tally = compare_table(pair, self.tenant)
            processed += tally.processed
            differences += tally.differences(pair.collection)
            progress(processed)
        _, touched = self._touched()
        keys = {(relation, key) for relation, key, _ in touched}
        settled = tuple(d for d in differences if (d.collection, tuple(json.loads(d.key))) not in keys)
        # Only two equal sides are evidence: what differs here is not remembered, so nothing would look at it again.
        if not self.source.rows(_COMPARED, {**self._about, "equal": not settled}):
            raise EvidenceStale(
                "the link was stopped while its rows were being compared", hint="verify again"
            )
        return Comparison(
            store=self.store,
            processed=processed,
            matching=processed - len(settled),
            differences=settled,
            changed_meanwhile=len(keys),
        )

    def compare_changed(self) -> Comparison:
        """See `LiveCopy.compare_changed`. One round trip if nothing changed."""
        valid, touched = self._touched()
        if not valid:
            raise EvidenceStale(
                f"{self.source.where}: changes of {self.tenant} have not been recorded since a comparison",
                hint="verify again",
            )
        by_table: defaultdict[str, list[Key]] = defaultdict(list)
        for relation, key, _ in touched:
            by_table[relation].append(key)
        processed = 0
        differences: list[Difference] = []
        for pair in self._pairs(known=True) if by_table else ():
            keys = by_table.get(pair.collection)
            if keys:
                tally = compare_keys(pair, self.tenant, keys)
                processed += tally.processed
                differences += tally.differences(pair.collection)
        # What differs stays recorded: it is compared again, until it has been mended.
        differ = {(d.collection, tuple(json.loads(d.key))) for d in differences}
        equal = [
            [relation, list(key), version]
            for relation, key, version in touched
            if (relation, key) not in differ
        ]
        if equal:
            seen = Jsonb(equal)
            self.source.rows(
                "select tenure.settle(%(tenant)s, %(seen)s)", {"tenant": self.tenant, "seen": seen}
            )
        return Comparison(
            store=self.store,
            processed=processed,
            matching=processed - len(differences),
            differences=tuple(differences),
        )

    def _touched(self) -> tuple[bool, list[tuple[str, Key, int]]]:
        rows = self.source.rows(_TOUCHED, self._about)
        return bool(rows and rows[0][0]), [(r, tuple(k), v) for _, r, k, v in rows if r is not None]

    def repair(self, differences: Sequence[Difference], fence: Fence, *, workers: int) -> int:
        """See `LiveCopy.repair`."""
        self._claim(fence)
        wanted: defaultdict[str, list[Key]] = defaultdict(list)
        for difference in differences:
            wanted[difference.collection].append(tuple(json.loads(difference.key)))
        done = 0
        for pair in self._pairs():
            keys = wanted.pop(pair.collection, [])
            if keys:
                done += repair.repair(
                    pair,
                    fence,
                    keys,
                    origin=f"{self.direction}_repair",
                    bring_into_step=self.bring_into_step,
                    workers=workers,
                )
        if wanted:
            raise StoreRefused(f"{self.store} has no collection {', '.join(sorted(wanted))}")
        return done

    def _claim(self, fence: Fence) -> None:
        for pool in (self.source, self.target):
            fences.claim(pool, fence)

    def resync(self, fence: Fence, *, workers: int) -> None:
        """See `LiveCopy.resync`. Whoever calls it compares afterwards: it promises no more than that shows."""
        self._claim(fence)
        for _ in range(RESYNC_ROUNDS):
            comparison = self.compare()
            if comparison.equal:
                return
            self.repair(comparison.differences, fence, workers=workers)
