"""A tenant kept equal between two PostgreSQL servers by the servers themselves: logical replication in both ways.

Each direction of a link is a publication of the tenant's rows, a slot and a subscription with `origin = none`, so that
nothing comes back to where it was written. The names follow from the link, so that any process carries on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from tenure.errors import FenceRefused, TenureError
from tenure.model.comparison import Comparison, Difference
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.contract import CopyProgress, Fence, Mark, Standing, Take
from tenure.stores.postgres import cell_schema, marks, names, replication
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres.compare import Side, expected_rows
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.home_checks import database_missing
from tenure.stores.postgres.preflight import preflight
from tenure.stores.postgres.repair import drop_origins
from tenure.stores.postgres.room import takes
from tenure.stores.postgres.store import PostgresStore
from tenure.stores.postgres.tables import Table, describe, describe_all, in_both, require, shared_tables
from tenure.stores.postgres.verification import Verification

RECORD_DEADLINE_S: Final = 30.0

_COPYING: Final = """
select relid::int8, tuples_processed, bytes_processed from pg_stat_progress_copy
where datname = current_database() and command = 'COPY FROM' and type = 'CALLBACK'
"""

_STATES: Final = """
select r.srrelid::int8, r.srsubstate::text from pg_subscription s join pg_subscription_rel r on r.srsubid = s.oid
where s.subname = %(name)s and s.subdbid = (select oid from pg_database where datname = current_database())
"""


class PostgresLiveCopy:
    """One direction of a link. Implements `tenure.stores.contract.LiveCopy`; safe for several threads."""

    def __init__(self, *, link: str, source: PostgresStore, target: PostgresStore, tenant: TenantId) -> None:
        self.source: Final = source
        self.target: Final = target
        self.link: Final = link
        self.tenant: Final = tenant
        self.direction: Final = names.direction(tenant, link, source.name, source.cell, target.cell)
        self._opposite: Final = names.direction(tenant, link, source.name, target.cell, source.cell)
        self._from: Final = source.home(tenant)
        self._to: Final = target.home(tenant)
        self._specs: Final = in_both(self._from.all_tables, self._to.all_tables)
        self._estimates: dict[str, tuple[int, int]] = {}
        self._first_pass: tuple[int, int] | None = None
        """Tables that were left at the last look that saw one come over, and the errors until then."""
        self._verification: Final = Verification(
            store=source.name,
            source=self._from.pool,
            target=self._to.pool,
            specs=in_both(self._from.tables, self._to.tables),
            tenant=tenant,
            direction=self.direction,
        )

    def preflight(self) -> Sequence[Finding]:
        return preflight(self.source, self.target, self.tenant, self.direction)

    def takes(self) -> Sequence[Take]:
        return takes(self.source.pool, self.target.pool, len(self._specs))

    def fingerprint(self) -> Mapping[str, str]:
        if database_missing(self.source.pool, self._from):
            return {}
        return describe_all(describe(self._from.pool, self._from.all_tables))

    def start(self, fence: Fence) -> None:
        source, target = self._from.pool, self._to.pool
        cell_schema.install(source)
        cell_schema.install(target)
        self._claim(fence)
        reverse_of_another = replication.subscription(source, self._opposite) is not None
        if not self._subscribed() and not reverse_of_another and fences.state(target, self.tenant).writable:
            raise FenceRefused(
                f"{target.where} is not fenced for {self.tenant}", hint="fence the target first"
            )
        fences.enrol(source, self._from.all_tables, fence)
        fences.ensure(target, self._to.all_tables, self.tenant)
        fences.record(source, self.tenant, deadline_s=RECORD_DEADLINE_S)
        self._connect(copy_data=not reverse_of_another)

    def arm_reverse(self, fence: Fence) -> PostgresLiveCopy:
        """The feed back exists from now on, so it holds everything the target accepts from its first write on."""
        self._claim(fence)
        reverse = PostgresLiveCopy(link=self.link, source=self.target, target=self.source, tenant=self.tenant)
        fences.ensure(self._to.pool, self._to.all_tables, self.tenant)
        fences.record(self._to.pool, self.tenant, deadline_s=RECORD_DEADLINE_S)
        reverse._connect(copy_data=False)
        return reverse

    def _claim(self, fence: Fence) -> None:
        for pool in (self._from.pool, self._to.pool):
            fences.claim(pool, fence)

    def _connect(self, *, copy_data: bool) -> None:
        tables = shared_tables(require(self._from.pool, self._specs), require(self._to.pool, self._specs))
        if not self._subscribed():
            replication.publish(self._from.pool, self.direction, tables, self.tenant)
            replication.create_slot(self._from.pool, self.direction)
        replication.subscribe(
            self._to.pool,
            self.direction,
            self._from.dsn_from_cells,
            copy_data=copy_data,
            binary=all(c.builtin for t in tables for c in t.stored),
        )

    def _subscribed(self) -> bool:
        return replication.subscription(self._to.pool, self.direction) is not None

    def progress(self) -> CopyProgress:
        source, target = self._from.pool, self._to.pool
        found = replication.check(target, self.direction)
        self._refuse_endless_copy(found)
        slot = replication.check_slot(source, self.direction)
        tables = require(target, self._specs)
        self._estimate(tables)
        states: dict[int, str] = dict(target.rows(_STATES, {"name": self.direction}))
        copying: dict[int, tuple[int, int]] = {oid: (rows, size) for oid, rows, size in target.rows(_COPYING)}
        items = size = 0
        for table in tables:
            total, width = self._estimates[table.collection]
            if states.get(table.oid) in {"f", "s", "r"}:
                items, size = items + total, size + total * width
            elif table.oid in copying:
                rows, done = copying[table.oid]
                items, size = items + min(rows, total), size + min(done, total * width)
        return CopyProgress(
            items_done=items,
            items_total=sum(n for n, _ in self._estimates.values()),
            bytes_done=size,
            bytes_total=sum(n * width for n, width in self._estimates.values()),
            following=not found.tables_left and found.running,
            lag_bytes=slot.lag_bytes,
            applied=slot.confirmed,
        )

    def _refuse_endless_copy(self, found: replication.Subscription) -> None:
        """The worker that follows goes on while those that copy tables fail and start anew, for ever."""
        left, errors = found.tables_left, found.errors
        if self._first_pass is None or left < self._first_pass[0]:
            self._first_pass = (left, errors)
        if left and errors - self._first_pass[1] >= replication.ERRORS_BEFORE_GIVING_UP:
            self._first_pass = None
            raise replication.fails_again_and_again(self._to.pool, self.direction, found)

    def hurry(self, workers: int) -> int:  # noqa: ARG002
        """One worker, always: commits are applied in the order in which the source made them. Large transactions that
        are still open are applied by more of them already (`streaming = parallel`)."""
        return 1

    def standing(self) -> Standing:
        """What the slot and the subscription say. What the slot keeps counts also while the target is away."""
        source, target = self._from.pool, self._to.pool
        try:
            slot = replication.slot(source, self.direction)
        except TenureError as error:
            return Standing(problem=error.message)
        if slot is None or slot.lost:
            how = "gone" if slot is None else "invalidated by the server (max_slot_wal_keep_size)"
            return Standing(problem=f"{source.where}: the slot {self.direction} is {how}", lost=True)
        try:
            running = replication.check(target, self.direction).running
        except TenureError as error:
            problem: str | None = error.message
        else:
            problem = (
                None if running else f"{target.where}: the subscription {self.direction} has no worker now"
            )
        return Standing(problem=problem, lag_bytes=slot.lag_bytes, retained_bytes=slot.retained_bytes)

    def _estimate(self, targets: Sequence[Table]) -> None:
        if len(self._estimates) != len(targets):
            for table in require(self._from.pool, self._specs):
                side = Side(pool=self._from.pool, table=table)
                self._estimates[table.collection] = expected_rows(side, self.tenant)

    def mark(self) -> Mark:
        return marks.write(self._from.pool, self.direction, self.tenant)

    def seal(self, mark: Mark, *, timeout_s: float) -> None:
        with ThreadPoolExecutor(max_workers=1) as thread:
            drawn = thread.submit(marks.last_values, self._from.pool, self._from.all_tables)
            marks.wait(self._to.pool, mark, self.tenant, timeout_s=timeout_s)
            marks.raise_sequences(self._to.pool, self._to.all_tables, drawn.result())

    def compare(self, *, progress: Callable[[int], None] = lambda _items: None) -> Comparison:
        return self._verification.compare(progress)

    def compare_changed(self) -> Comparison:
        return self._verification.compare_changed()

    def repair(self, differences: Sequence[Difference], fence: Fence) -> int:
        return self._verification.repair(differences, fence, workers=1)

    def resync(self, fence: Fence, *, workers: int) -> None:
        self._verification.resync(fence, workers=workers)

    def detach(self) -> None:
        for pool in (self._from.pool, self._to.pool, self.source.pool, self.target.pool):
            pool.close()

    def stop(self, fence: Fence) -> None:
        """Works on each server that can be reached; raises `StoreUnavailable` at the end if one could not be.

        With the last direction of the link gone, the triggers and the fence row go from each side that is open. A side
        that is fenced stays fenced, since nothing follows it any more: erase it, then open it.
        """
        source, target = self._from.pool, self._to.pool
        problems: list[TenureError] = []
        sync_slots: list[str] = []

        def attempt(act: Callable[[], None]) -> None:
            try:
                act()
            except TenureError as error:
                problems.append(error)

        def on_target() -> None:
            subscriber = replication.system_identifier(target)
            oid = replication.unsubscribe(target, self.direction)
            if oid is not None:
                sync_slots.append(rf"pg_{oid}_sync_\d+_{subscriber}")

        for pool in (source, target):
            attempt(partial(fences.claim, pool, fence))
        for problem in problems:
            if isinstance(problem, FenceRefused):
                raise problem
        attempt(on_target)
        attempt(lambda: replication.unpublish(source, self.direction, sync_slots=sync_slots))
        for pool in (source, target):
            attempt(partial(self._leave, pool, fence))
        if problems:
            raise problems[0]

    def _leave(self, pool: Pool, fence: Fence) -> None:
        """Remove this direction's marks, and with the last direction what the link has made in this database."""
        drop_origins(pool, f"{self.direction}_")
        if not cell_schema.installed(pool):
            return
        cell_schema.install(pool)
        gone = {"tenant": self.tenant, "link": self.direction}
        pool.rows(
            "delete from tenure.mark where tenant_id = %(tenant)s and link = %(link)s returning n", gone
        )
        fences.leave(pool, fence)
