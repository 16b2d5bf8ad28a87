"""The two contracts that carry every store: `Store` (one system in one cell) and `LiveCopy` (a pair of them).

Adapters translate their driver's errors into `tenure.errors` (a refused login or connection is `StoreUnavailable`, a
clear no is `StoreRefused`), may be called from several threads unless said otherwise, and never log or return secrets.
Nothing outside an adapter branches on the kind of a store: honest differences are `Capabilities`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tenure.model.capacity import Need, What
from tenure.model.comparison import Comparison, Difference
from tenure.model.finding import Finding
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey

if TYPE_CHECKING:
    from tenure.stores.backup import Capture, Restoring


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a store can and cannot do, so that plans can say it."""

    fence_enforced: bool
    """The store itself refuses a fenced tenant's writes. If not, only the gate and `tenure.client` keep them out."""
    fence_drains: bool
    """`fence` waits for the tenant's open work (transactions, permits), so it goes down before the others."""
    fence_expires: bool
    """A fence with a deadline lifts itself."""
    rides_with: StoreName | None = None
    """The store whose live copy and backups carry this one's data as well."""
    fenced_with: StoreName | None = None
    """The store of the same cell whose fence is this one's too: it is fenced, opened and retired with that one."""
    stays: str | None = None
    """Why a move leaves this store's data where it is; None: it has a live copy."""
    not_backed_up: str | None = None
    """Why this store's data is in no backup; None: it has captures, or rides with a store that has."""
    lapses_after_days: int = 0
    """For how many days after an erasure whoever runs the store keeps copies of it that nobody can erase sooner
    (time travel, fail-safe)."""
    sealed: bool = False
    """What it holds can be read with the tenant's data keys only: once these are destroyed, by nobody."""
    undeletable: str | None = None
    """Why nobody can delete what it holds of a tenant; it goes after `lapses_after_days`. None: `erase` does."""
    residue: str | None = None
    """Where bytes of what was erased may lie until the engine writes over them or lets go of them; None: nowhere."""


@dataclass(frozen=True, kw_only=True)
class Fence:
    """Who sets or lifts a fence. A holder with a smaller `token` than the last one is refused (`FenceRefused`)."""

    tenant: TenantId
    epoch: int
    token: int


@dataclass(frozen=True, kw_only=True)
class FenceState:
    """Whether the store accepts the tenant's writes now. `token` is 0 where none was ever set."""

    writable: bool
    epoch: int
    token: int
    expires: bool = False


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much of something a server has, and who takes it now. `ours`: Tenure's links, whether or not anybody still
    accounts for them. `setting` is where the server says `most`."""

    what: What
    most: int
    others: int
    ours: int
    setting: str


@dataclass(frozen=True, kw_only=True)
class Take:
    """What a move, and afterwards its link, takes of a server."""

    server: str
    what: What
    need: Need


class Mutex(Protocol):
    """A lock by name that spans all of Tenure's processes, for read-modify-write of things that tenants share.

    Whoever stalls while holding it loses it, so the block is given a check to make right before it writes: it raises
    `LeaseLost` if the lock may be another's by now.
    """

    def __call__(self, name: str) -> AbstractContextManager[Callable[[], None]]: ...


class Pace(Protocol):
    """The caller's limiter and its way to stop. Safe for several threads."""

    def __call__(self, *, items: int, size_bytes: int) -> None:
        """Told after each request what it read. Waits as long as the caller's rate demands, and raises to end the work:
        the store lets that through, and leaves nothing behind on its server."""


def unhurried(*, items: int, size_bytes: int) -> None:
    """A `Pace` without limit."""


class Store(Protocol):
    """One system in one cell that holds tenants' data."""

    @property
    def name(self) -> StoreName: ...
    @property
    def cell(self) -> CellName: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def server(self) -> str:
        """The server it is on, as `host:port`: stores on one server share what that has."""

    def room(self) -> Sequence[Room]:
        """What its server has for links, as it is now; nothing where that is not limited. Raises `StoreUnavailable`."""

    def ping(self) -> None:
        """Return if the store can be reached and lets us in; raise `StoreUnavailable` otherwise, within 5 seconds."""

    def inventory(self, tenant: TenantId) -> Inventory:
        """Count and digest everything the catalogue places here for the tenant. Reads only."""

    def survey(self, tenants: Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        """Everything there is in this store, place by place, with whether the catalogue classifies it; and what the
        catalogue names for this cell that is not there.

        `tenants` are all ids there are, to tell what belongs to a tenant from what only looks so. Tenure's own records
        are no places. Places that tenants share the shape of (a schema, a key prefix each) are given once, in the form
        of the catalogue. Covers the store's own databases, bucket, index or groups, not what else its server has: that
        is `find`'s. What the login may not see is `skipped`. Reads only. Raises `StoreUnavailable`.
        """

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """Where these identifiers appear, page by page, each page about a second's work or less.

        Looks at every name, value, key, label and description in which the store can hold text, in whatever form
        `matching.Matcher` reads, and not only at live data: old versions and unfinished uploads too. Items that are
        there all the time are looked at at least once; those that come, go or change meanwhile may be missed. After a
        resumption, and where a server lists an item twice, an item may be counted again. `cursor` is that of a page of
        an equal search, also of another process or day; where the server has forgotten the place meanwhile, the search
        begins the part anew, rather than leave anything out.

        Nothing is left out silently: values over the limit, containers that cannot be opened, places the login may not
        read, are in `skipped`. One such place ends nothing. Reads only, takes no locks that writers wait for, holds no
        transaction, cursor or scroll on the server between pages. Raises `StoreUnavailable`, and `UsageError` for a
        cursor that is none of this store's. Does nothing until the first page is asked for.
        """

    def claim(self, fence: Fence) -> None:
        """Refuse holders of smaller tokens from now on, wherever this store knows anything of the tenant's fences.

        Changes nothing else. Raises `FenceRefused` if a newer holder has been here. Idempotent.
        """

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:
        """Refuse the tenant's writes from now on. When it returns, no write of the tenant can commit any more.

        Waits at most `drain_s` for the tenant's open work, then raises `DeadlineExceeded` and leaves the store open.
        With `expires_in_s` the fence lifts itself after that time where `fence_expires`; None makes it (or an existing
        one that has not lapsed) permanent. Raises `DeadlineExceeded` if it has lapsed meanwhile. Idempotent.
        """

    def open(self, fence: Fence) -> None:
        """Accept the tenant's writes again. Idempotent; a no-op where no fence was ever set."""

    def fence_state(self, tenant: TenantId) -> FenceState:
        """What the store does with the tenant's writes now."""

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda items: None) -> int:
        """Delete everything of the tenant that the catalogue places here; return how many items went.

        Only under a fence: raises `FenceRefused` while the store accepts the tenant's writes or if the fence is a newer
        holder's. Works in batches, safe to repeat; repeating returns 0.
        """

    def retire(self, fence: Fence) -> None:
        """The tenant has left this store for good: keep refusing its writes where that costs nobody else anything,
        remove everything else. Idempotent. A later `fence` and `open` work as ever."""

    def capture(self, tenant: TenantId) -> Capture:
        """What takes the tenant's data for a backup; nothing happens until it is told to. Raises `StoreRefused` where
        the store rides with another one or is not backed up."""

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:
        """What makes the tenant's data here equal to a backup of `origin`, which is the tenant itself or the one whose
        data it is to become. Nothing happens until it is told to. Raises as `capture` does."""

    def close(self) -> None:
        """Give connections back. Idempotent."""


@dataclass(frozen=True, kw_only=True)
class CopyProgress:
    """How far a live copy is. Totals are estimates until `following`."""

    items_done: int
    items_total: int
    bytes_done: int
    bytes_total: int
    following: bool
    """The first pass is over: what remains is what changes."""
    lag_items: int | None = None
    lag_bytes: int | None = None
    """What the target still lacks, in the unit that the engine knows; None where it does not know."""
    applied: int | None = None
    """What the target has been brought since ever, in the unit of the lag: its rate is how fast the copy can follow."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one direction of a link stands, as its two stores tell any process, also one that copies nothing itself."""

    problem: str | None = None
    """Why the target does not follow now; None where nothing stands in the way."""
    lost: bool = False
    """It never will again: what it would have to be brought is gone."""
    lag_bytes: int | None = None
    """What the target still lacks; None where the stores do not know it."""
    retained_bytes: int = 0
    """What the source's server keeps on its disk for this direction, and would remove without it."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point in a store's change feed: the n-th mark of a link."""

    link: str
    n: int


class LiveCopy(Protocol):
    """One tenant's data kept equal from `source` to `target` while it changes, as part of a link between two cells.

    A link has one live copy per store and direction; both share the link's name and so find what the other created.
    Everything may be called again after a crash, by another process, with new objects of the same link.
    """

    @property
    def source(self) -> Store: ...
    @property
    def target(self) -> Store: ...

    def preflight(self) -> Sequence[Finding]:
        """Everything that stands in the way or should be known, all at once, each with its fix. Changes nothing."""

    def fingerprint(self) -> Mapping[str, str]:
        """What must not change in the source during a move (tables, columns, keys, types), item by item in words that
        a message can use; equal on equal schemas. Describes what is there, and raises nothing if it will not do."""

    def takes(self) -> Sequence[Take]:
        """What a move over a link that is still to be made takes of both servers, in both directions together; nothing
        where that is not limited. Reads only."""

    def start(self, fence: Fence) -> None:
        """Begin, or carry on, copying and following; return soon, the work goes on in the engine or a thread.

        The target must be fenced for the tenant. Installs the means of fencing on both sides. Idempotent. An error of
        the work in the background is raised by the next `progress`, `seal` or `compare`.
        """

    def progress(self) -> CopyProgress:
        """How far it is. Raises what stopped the copy, if something has."""

    def hurry(self, workers: int) -> int:
        """Have up to that many workers follow; return how many do, also where the store has no use for more."""

    def standing(self) -> Standing:
        """Whether the target follows, or could be followed on by the next process, and what that makes the source keep.

        Works without `start`. What cannot be reached is a `problem`, not an error.
        """

    def arm_reverse(self, fence: Fence) -> LiveCopy:
        """Prepare the copy in the other direction, before the hold, so that it loses nothing from the moment the target
        opens; give it back. Nothing flows back what this copy brought. Idempotent."""

    def mark(self) -> Mark:
        """Write the next mark into the source's feed (also while the tenant is fenced) and say which."""

    def seal(self, mark: Mark, *, timeout_s: float) -> None:
        """Return when everything the source accepted before the mark is on the target (sequences included).

        Raises `DeadlineExceeded` if that takes longer.
        """

    def compare(self, *, progress: Callable[[int], None] = lambda items: None) -> Comparison:
        """Compare every item of the tenant on both sides while the source goes on changing.

        What changes meanwhile, and from then on, is remembered for `compare_changed`; it never counts as a difference
        here. Starting again forgets what was remembered.
        """

    def compare_changed(self) -> Comparison:
        """Compare what changed since `compare` began or since the last call, both sides being at the same mark.

        What differs stays remembered for the next call. Unless the source is fenced and sealed, what is in flight is
        reported as different.
        Raises `EvidenceStale` if it cannot be known what changed, or (some stores) if the last `compare` found
        differences: these are reported or refused, never passed over.
        """

    def repair(self, differences: Sequence[Difference], fence: Fence) -> int:
        """Make these items on the target equal to the source; return how many were changed. Touches nothing else."""

    def resync(self, fence: Fence, *, workers: int) -> None:
        """Make every item equal again, with that many workers in parallel, without stopping to follow."""

    def detach(self) -> None:
        """Let go of threads and connections of this process only. What the link has created stays."""

    def stop(self, fence: Fence) -> None:
        """Remove everything the link created in both stores for this direction, but no tenant data. Idempotent, and
        works on what a crash has left behind.

        Whether a store accepts the tenant's writes stays as it is: a closed store keeps its fence (so that the passive
        side of a link is never open for an instant), an open one keeps no trace. `Store.open` lifts and forgets it."""


class Journal(Protocol):
    """What the app has said it changed in a store without a change feed (`tenure.touch`), kept beside its data.

    One per cell. A row becomes visible when the app's transaction commits, which is after it wrote to the store; so
    whoever copies the keys of every visible row, once the tenant is fenced, has missed nothing that was acknowledged.
    """

    def begin(self, tenant: TenantId, fence: Fence, *, deadline_s: float = 10.0) -> None:
        """Record the tenant's changes from now on. When it returns, no transaction is open that does not record."""

    def pending(self, tenant: TenantId, store: StoreName) -> Sequence[tuple[int, str]]:
        """All visible rows as (id, key), in the order of their ids."""

    def settle(self, tenant: TenantId, ids: Sequence[int]) -> None:
        """Delete exactly these rows, a link's or a reader's. Idempotent."""

    def subscribe(
        self, tenant: TenantId, store: StoreName, reader: str, fence: Fence, *, deadline_s: float = 10.0
    ) -> None:
        """Keep what changes in the store for this reader as well, from now on: rows of its own, which no link takes
        away, as this reader takes none of a link's. What an earlier one of that name has left goes first.

        When it returns, no transaction is open that does not know of the reader. It counts as a link of the tenant
        until `unsubscribe`. Raises `FenceRefused`, and `DeadlineExceeded` if open transactions do not end.
        """

    def unread(
        self, tenant: TenantId, store: StoreName, reader: str, *, most: int
    ) -> Sequence[tuple[int, str]]:
        """The reader's first visible rows as (id, key), in the order of their ids; `settle` takes them away."""

    def unsubscribe(self, tenant: TenantId, store: StoreName, reader: str, fence: Fence) -> None:
        """Forget the reader and its rows. Idempotent, and works on what a crash has left. Raises `FenceRefused`."""


@dataclass(frozen=True, kw_only=True)
class Copier:
    """What holds one tenant in one store: the link, and the process that copies into the store (both '' if none does).

    `passed`: how far the first pass over everything has come, in the copy's own words. `accepts`: the store accepts the
    tenant's writes. `token`: the newest that was ever used for the tenant.
    """

    link: str = ""
    process: str = ""
    passed: str = ""
    accepts: bool = True
    token: int = 0


class TenantFence(Protocol):
    """The fence of the tenants of one cell, for its stores that cannot refuse a tenant's writes themselves.

    The app writes to such a store inside a transaction of the cell's PostgreSQL that holds the tenant's permit, so the
    fence there keeps the writes out, and waits for those under way. It also remembers, for each of these stores, which
    link holds it and which process copies into it. Whatever takes a `Fence` raises `FenceRefused` for a stale token.
    """

    @property
    def name(self) -> StoreName:
        """The store that the fence is in."""

    @property
    def journal(self) -> Journal:
        """Where the app notes, in that store, what it changes in the others."""

    def claim(self, fence: Fence) -> None:
        """See `Store.claim`."""

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:
        """See `Store.fence`."""

    def open(self, fence: Fence) -> None:
        """See `Store.open`."""

    def fence_state(self, tenant: TenantId) -> FenceState:
        """See `Store.fence_state`."""

    def require_unlinked(self, fence: Fence, store: StoreName) -> None:
        """Claim; raise `StoreRefused` while a link holds that store."""

    def copier(self, tenant: TenantId, store: StoreName) -> Copier:
        """What holds the tenant in that store, in one look."""

    def join(
        self, fence: Fence, store: StoreName, link: str, *, copier: str | None = None, fenced: bool = False
    ) -> None:
        """Claim, and note that the link holds that store; with `copier`, that this process copies into it from now on;
        '' if nobody does. Unless it is another link or nobody, how far the first pass had come stays known.

        With `fenced`, raises `FenceRefused` if the store accepts the tenant's writes. Idempotent.
        """

    def note(self, tenant: TenantId, store: StoreName, link: str, *, copier: str, passed: str) -> None:
        """Note how far the first pass has come, if that process is still the one that copies."""

    def release(self, fence: Fence, store: StoreName, link: str) -> None:
        """Claim, and forget that the link holds that store. A fence stays down; where the tenant is open and nothing
        holds it here any more, no trace is left. Idempotent."""
