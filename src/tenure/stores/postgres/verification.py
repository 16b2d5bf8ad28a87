"""Comparing and mending the tables of one store over one direction of a link, while the source goes on changing."""

from __future__ import annotations

import json
import math
import time
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
from tenure.stores.postgres.compare import Key, Pair, Tally, compare_keys, compare_table, pairs
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.tables import TenantTable, require

ARRIVAL_S: Final = 60.0
RECORD_DEADLINE_S: Final = 30.0
RESYNC_ROUNDS: Final = 3
SHARE_OF_HOLD: Final = 0.5
"""How much of what is left of the hold's budget may go into comparing tables that were changed in bulk."""

# `key` is null for a relation that was changed in bulk; the second column is `Touched.left_s`.
_TOUCHED: Final = """
with t as (
    select relation, key::jsonb as key, version, null::text as xact from tenure.touched
    where tenant_id = %(tenant)s and relation = any(%(relations)s::text[])
    union all select relation, to_jsonb(key), null, xact::text from tenure.touched_log
    where tenant_id = %(tenant)s and relation = any(%(relations)s::text[])
    union all select relation, null, version, null from tenure.touched_in_bulk
    where tenant_id = %(tenant)s and relation = any(%(relations)s::text[])
)
select f.recording and %(store)s = any(f.compared),
    case when f.writable or f.until <= clock_timestamp() then null when f.until is null then 'infinity'
        else extract(epoch from f.until - clock_timestamp()) end::float8,
    t.relation, t.key, t.version, t.xact
from tenure.fence f left join t on true where f.tenant_id = %(tenant)s
"""

_FORGET: Final = """
with old as (
    -- A row that the app holds just now stays remembered: waiting for it could deadlock with the app.
    select ctid from tenure.touched where tenant_id = %(tenant)s and relation = any(%(relations)s::text[])
    for update skip locked
), gone as (delete from tenure.touched where ctid in (select ctid from old)), gone_log as (
    delete from tenure.touched_log where tenant_id = %(tenant)s and relation = any(%(relations)s::text[])
), in_bulk as (
    select ctid from tenure.touched_in_bulk where tenant_id = %(tenant)s and relation = any(%(relations)s::text[])
    for update skip locked
), gone_in_bulk as (delete from tenure.touched_in_bulk where ctid in (select ctid from in_bulk))
update tenure.fence set compared = array_remove(compared, %(store)s) where tenant_id = %(tenant)s
returning tenure.shut_gate(tenant_id)
"""

_COMPARED: Final = """
update tenure.fence set
    compared = array_remove(compared, %(store)s) || case when %(equal)s then array[%(store)s::text] else '{}' end
where tenant_id = %(tenant)s and recording returning tenant_id
"""


@dataclass(frozen=True, kw_only=True)
class Touched:
    """What changed since a comparison began: (relation, key, version, transaction), one of the last two None, the key
    None where it was in bulk.

    `valid` if that is known. `left_s`: until the source's fence lifts itself; None if it is not down.
    """

    valid: bool
    left_s: float | None
    versions: tuple[tuple[str, Key | None, int | None, str | None], ...]

    @property
    def keys(self) -> set[tuple[str, Key]]:
        return {(relation, key) for relation, key, _, _ in self.versions if key is not None}

    @property
    def in_bulk(self) -> dict[str, set[int]]:
        """The versions of each relation that was changed in bulk."""
        found: defaultdict[str, set[int]] = defaultdict(set)
        for relation, key, version, _ in self.versions:
            if key is None and version is not None:
                found[relation].add(version)
        return dict(found)


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
    _took_s: dict[str, float] = field(default_factory=dict, init=False)

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
            tally = self._compare_whole(pair)
            processed += tally.processed
            differences += self._not_under_way(pair, tally).differences(pair.collection)
            progress(processed)
        touched = self._touched()
        settled = tuple(
            d for d in differences if (d.collection, tuple(json.loads(d.key))) not in touched.keys
        )
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
            changed_meanwhile=len(touched.keys) + len(touched.in_bulk),
        )

    def _compare_whole(self, pair: Pair) -> Tally:
        began = time.monotonic()
        tally = compare_table(pair, self.tenant)
        self._took_s[pair.collection] = time.monotonic() - began
        return tally

    def _not_under_way(self, pair: Pair, tally: Tally) -> Tally:
        """What differs, without what a change in bulk had still under way: that has arrived by a second look.

        If there was another such change before that look, all of it may be under way; it is compared again later.
        """
        before = self._touched().in_bulk.get(pair.collection)
        if before is None or not tally.differing:
            return tally
        self.bring_into_step()
        again = compare_keys(pair, self.tenant, sorted(tally.differing))
        return again if self._touched().in_bulk.get(pair.collection) == before else Tally()

    def compare_changed(self) -> Comparison:
        """See `LiveCopy.compare_changed`. One round trip if nothing changed."""
        touched = self._touched()
        if not touched.valid:
            raise EvidenceStale(
                f"{self.source.where}: changes of {self.tenant} have not been recorded since a comparison",
                hint="verify again",
            )
        self._refuse_what_takes_too_long(touched)
        by_table: defaultdict[str, list[Key]] = defaultdict(list)
        for relation, key in touched.keys:
            by_table[relation].append(key)
        processed = 0
        differences: list[Difference] = []
        for pair in self._pairs(known=True) if touched.versions else ():
            keys = by_table.get(pair.collection, [])
            if pair.collection in touched.in_bulk:
                tally = self._compare_whole(pair)
            elif keys:
                tally = compare_keys(pair, self.tenant, keys)
            else:
                continue
            processed += tally.processed
            differences += tally.differences(pair.collection)
        # What differs stays recorded, by its key or with its relation: it is compared again, until it has been mended.
        differ: set[tuple[str, Key | None]] = {(d.collection, tuple(json.loads(d.key))) for d in differences}
        if differ and touched.in_bulk:
            differ |= {(relation, None) for relation, _ in differ - self._touched().keys}
        equal = [
            [relation, None if key is None else list(key), version, xact]
            for relation, key, version, xact in touched.versions
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

    def _refuse_what_takes_too_long(self, touched: Touched) -> None:
        """Inside the hold, tables that were changed in bulk are compared whole only if there is time enough."""
        if touched.left_s is None or not touched.in_bulk:
            return
        takes_s = sum(self._took_s.get(relation, math.inf) for relation in touched.in_bulk)
        if takes_s > touched.left_s * SHARE_OF_HOLD:
            raise EvidenceStale(
                f"{self.source.where}: {', '.join(sorted(touched.in_bulk))} of {self.tenant} changed in bulk just"
                f" before the fence went down, and comparing it anew takes {takes_s:.1f} s",
                hint="the switch compares again before its next attempt; have bulk writes pause if that does not end",
            )

    def _touched(self) -> Touched:
        rows = self.source.rows(_TOUCHED, self._about)
        return Touched(
            valid=bool(rows and rows[0][0]),
            left_s=rows[0][1] if rows else None,
            versions=tuple(
                (relation, None if key is None else tuple(key), version, xact)
                for _, _, relation, key, version, xact in rows
                if relation is not None
            ),
        )

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
