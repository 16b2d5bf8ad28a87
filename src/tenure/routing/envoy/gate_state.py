"""What the gate knows about each gated tenant: where it goes, who may say so, and who is waiting.

One event loop, no locks. Every change is on disk before anybody learns of it, so a gate that is killed and
started again never sends a tenant to a cell that it had already been told to leave, and a hold goes on until
its budget ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tenure.routing.envoy.files import replace_file, sync_file

log = logging.getLogger("tenure.gate")

STATE_VERSION = 1
_ROUNDING = 1e-9


class TokenTooOld(Exception):
    """Somebody with a newer fencing token has spoken for this tenant."""

    def __init__(self, newest: int) -> None:
        super().__init__(newest)
        self.newest = newest


class NotGated(Exception):
    """The tenant is not behind the gate."""


class Held(Exception):
    """The tenant is being held: release it first."""


class TooManyWaiting(Exception):
    """The bound on waiting requests is reached."""


@dataclass(kw_only=True)
class Report:
    """How the last hold went. Times in milliseconds."""

    hold_ms: float
    requests_held: int
    longest_wait_ms: float
    released_to: str
    timed_out: bool


@dataclass(kw_only=True)
class _Hold:
    fallback: str
    since: float
    """Wall clock, so that it still means something to the next process."""
    until: float
    closed_at: float
    """This process's monotonic clock: what is measured with."""
    waiters: dict[asyncio.Future[None], float] = field(default_factory=dict)
    requests_held: int = 0
    longest_gone_s: float = 0.0
    timer: asyncio.TimerHandle | None = None


@dataclass(kw_only=True)
class _Canary:
    """A share of the reads goes to another cell until the deadline, unless that is renewed."""

    cell: str
    share: float
    until: float
    """Wall clock, as in a hold."""
    ends_at: float
    owed: float = 0.0
    """The part of a read that the other cell is behind its share."""

    @property
    def over(self) -> bool:
        """Nobody has renewed it in time."""
        return time.monotonic() >= self.ends_at

    def takes(self, session: str | None) -> bool:
        """Whether this read is one of the share. What a session got it keeps while the share grows."""
        if self.over:
            return False
        if session is not None:
            return zlib.crc32(session.encode("utf-8", "surrogateescape")) < self.share * 2**32
        self.owed += self.share
        if self.owed < 1 - _ROUNDING:
            return False
        self.owed -= 1
        return True


@dataclass(kw_only=True)
class _Tenant:
    token: int
    cell: str | None
    """None once the tenant has left the gate: only its token is remembered."""
    hold: _Hold | None = None
    canary: _Canary | None = None
    report: Report | None = None
    asked: int = 0
    """Requests since this process began; not kept."""


class GateState:
    """All gated tenants. Methods must be called on the event loop's thread."""

    def __init__(self, path: Path, *, max_waiting: int) -> None:
        """Load the state left by the last process and arm its holds' budgets. Raises `OSError` or
        `ValueError`."""
        self._path = path
        self._max_waiting = max_waiting
        self._waiting = 0
        self._unsynced = False
        self._sync: asyncio.Task[None] | None = None
        self._tenants: dict[str, _Tenant] = {}
        self._load()

    async def admit(self, tenant: str, *, reads: bool = False, session: str | None = None) -> str | None:
        """Return the cell for one request, after waiting for the end of the hold if there is one.

        In a canary a share of those that only read goes to its cell, and requests of one `session` go the same way.

        None: the tenant is not behind the gate. Raises `TooManyWaiting`. Cancelling it forgets the request.
        """
        entry = self._tenants.get(tenant)
        if entry is None:
            return None
        entry.asked += 1
        while (hold := entry.hold) is not None:
            await self._wait(hold)
        if reads and entry.canary is not None and entry.canary.takes(session):
            return entry.canary.cell
        return entry.cell

    def check(self, tenant: str, *, token: int) -> None:
        """Return if the tenant is gated and nobody newer has spoken for it. Raises `NotGated`, `TokenTooOld`."""
        _check_token(self._gated(tenant), token)

    def put(self, tenant: str, *, cell: str, token: int) -> None:
        """Bring the tenant behind the gate, towards `cell`. A hold that is under way goes on, a canary ends."""
        entry = self._tenants.get(tenant)
        before = (entry.cell, entry.token, entry.canary) if entry else None
        if entry is None:
            entry = self._tenants[tenant] = _Tenant(token=token, cell=cell)
        else:
            _check_token(entry, token)
            entry.cell, entry.token, entry.canary = cell, token, None
        try:
            self._save()
        except OSError:
            if before is None:
                del self._tenants[tenant]
            else:
                entry.cell, entry.token, entry.canary = before
            raise

    def canary(self, tenant: str, *, token: int, cell: str, share: float, ttl_s: float) -> None:
        """From now on and for `ttl_s` that share of the tenant's reads goes to `cell`; none with a share of 0.

        Nobody has to end it: when it is not renewed, all reads go where everything else goes.
        """
        entry = self._gated(tenant)
        _check_token(entry, token)
        before = (entry.token, entry.canary)
        kept = entry.canary
        entry.token, entry.canary = token, None
        if share > 0:
            entry.canary = _Canary(
                cell=cell,
                share=share,
                until=time.time() + ttl_s,
                ends_at=time.monotonic() + ttl_s,
                owed=kept.owed if kept is not None else 0.0,
            )
        try:
            self._save()
        except OSError:
            if share > 0:
                entry.token, entry.canary = before  # back to the source even if that cannot be written down
            raise

    def hold(self, tenant: str, *, token: int, budget_s: float, fallback: str) -> None:
        """Close the gate, or give a hold under way a new budget. No request is let through after this
        returns."""
        entry = self._gated(tenant)
        _check_token(entry, token)
        now, wall = time.monotonic(), time.time()
        before, hold = (entry.token, entry.report, entry.canary), entry.hold
        terms = (hold.fallback, hold.until) if hold else None
        if hold is None:
            hold = entry.hold = _Hold(fallback=fallback, since=wall, until=wall + budget_s, closed_at=now)
        else:
            hold.fallback, hold.until = fallback, wall + budget_s
        entry.token, entry.report, entry.canary = token, None, None
        try:
            self._save()
        except OSError:
            entry.token, entry.report, entry.canary = before
            if terms is None:
                entry.hold = None
                _wake(hold)
            else:
                hold.fallback, hold.until = terms
            raise
        self._arm(tenant, hold)

    def release(self, tenant: str, *, token: int, cell: str) -> Report:
        """Send the waiting and all later requests to `cell`; repeating it gives the same report again."""
        entry = self._gated(tenant)
        _check_token(entry, token)
        before, hold = (entry.cell, entry.token, entry.report, entry.canary), entry.hold
        entry.cell, entry.token, entry.canary = cell, token, None
        if hold is not None:
            entry.report, entry.hold = _report(hold, to=cell, timed_out=False), None
        try:
            self._save()
        except OSError:
            (entry.cell, entry.token, entry.report, entry.canary), entry.hold = before, hold
            raise
        if hold is not None:
            _wake(hold)
        return entry.report or Report(
            hold_ms=0.0, requests_held=0, longest_wait_ms=0.0, released_to=cell, timed_out=False
        )

    def remove(self, tenant: str, *, forget: bool) -> None:
        """Let the tenant leave the gate. Its token is remembered, unless the tenant is to be forgotten
        altogether.

        Raises `Held` during a hold, except when forgetting: then the gate opens first.
        """
        entry = self._tenants.get(tenant)
        if entry is None:
            return
        hold = entry.hold
        if hold is not None and not forget:
            raise Held
        if forget:
            del self._tenants[tenant]
        entry.hold, entry.cell, entry.report, entry.canary = None, None, None, None
        try:
            self._save()
        finally:
            if hold is not None:
                _wake(hold)

    def status(self, tenant: str) -> dict[str, Any]:
        """What is the case now. Raises `NotGated`."""
        entry = self._gated(tenant)
        hold = entry.hold
        return {
            "cell": entry.cell,
            "token": entry.token,
            "held": hold is not None,
            "asked": entry.asked,
            "waiting": len(hold.waiters) if hold else 0,
            "timed_out": bool(entry.report and entry.report.timed_out),
            "canary": {"cell": canary.cell, "share": canary.share}
            if (canary := entry.canary) is not None and not canary.over
            else None,
        }

    def close(self) -> None:
        """Stop the clocks. Whoever waits is cut off when the listener closes."""
        for entry in self._tenants.values():
            if entry.hold and entry.hold.timer:
                entry.hold.timer.cancel()

    async def _wait(self, hold: _Hold) -> None:
        if self._waiting >= self._max_waiting:
            raise TooManyWaiting
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        arrived = time.monotonic()
        hold.waiters[waiter] = arrived
        hold.requests_held += 1
        self._waiting += 1
        try:
            await waiter
        finally:
            self._waiting -= 1
            if hold.waiters.pop(waiter, None) is not None:
                hold.longest_gone_s = max(hold.longest_gone_s, time.monotonic() - arrived)

    def _gated(self, tenant: str) -> _Tenant:
        entry = self._tenants.get(tenant)
        if entry is None or entry.cell is None:
            raise NotGated(tenant)
        return entry

    def _arm(self, tenant: str, hold: _Hold) -> None:
        if hold.timer is not None:
            hold.timer.cancel()
        delay_s = max(0.0, hold.until - time.time())
        hold.timer = asyncio.get_running_loop().call_later(delay_s, self._expire, tenant, hold)

    def _expire(self, tenant: str, hold: _Hold) -> None:
        entry = self._tenants.get(tenant)
        if entry is None or entry.hold is not hold:
            return
        entry.cell, entry.hold = hold.fallback, None
        entry.report = _report(hold, to=hold.fallback, timed_out=True)
        try:
            self._save()
        except OSError as error:
            # Users come first: a gate that starts again finds the hold in its file, over its budget, and
            # opens too.
            log.error("state_not_saved", extra={"tenant": tenant, "error": str(error)})
        _wake(hold)
        log.warning("hold_timed_out", extra={"tenant": tenant, "cell": hold.fallback})

    def _save(self) -> None:
        tenants = {
            name: {
                "token": entry.token,
                "cell": entry.cell,
                "hold": {"fallback": hold.fallback, "since": hold.since, "until": hold.until}
                if (hold := entry.hold)
                else None,
                "canary": {"cell": canary.cell, "share": canary.share, "until": canary.until}
                if (canary := entry.canary)
                else None,
                "report": asdict(entry.report) if entry.report else None,
            }
            for name, entry in self._tenants.items()
        }
        text = json.dumps({"version": STATE_VERSION, "tenants": tenants})
        replace_file(self._path, text, mode=0o600, durable=False)
        self._unsynced = True
        if self._sync is None:
            self._sync = asyncio.get_running_loop().create_task(self._sync_soon())

    async def _sync_soon(self) -> None:
        """Bring the file to the disk behind the users' backs: an fsync may take longer than a whole hold.

        Only a power cut can lose what is not synced yet, and the cell's fence outlives that: its app sends
        requests that arrive at the wrong cell back here, until the operation is resumed and says again where
        they belong.
        """
        while self._unsynced:
            self._unsynced = False
            try:
                await asyncio.to_thread(sync_file, self._path)
            except OSError as error:
                log.error("state_not_synced", extra={"error": str(error)})
        self._sync = None

    def _load(self) -> None:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        document = json.loads(text)
        try:
            if document["version"] != STATE_VERSION:
                raise ValueError(f"{self._path} has version {document['version']}, not {STATE_VERSION}")
            for name, saved in document["tenants"].items():
                self._tenants[name] = self._restore(name, saved)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._path} is not a gate's state: {error!r}") from error

    def _restore(self, name: str, saved: dict[str, Any]) -> _Tenant:
        entry = _Tenant(token=int(saved["token"]), cell=saved["cell"])
        if saved["report"] is not None:
            entry.report = Report(**saved["report"])
        # Files written before there were canaries have none.
        if (canary := saved.get("canary")) is not None:
            left_s = float(canary["until"]) - time.time()
            entry.canary = _Canary(**canary, ends_at=time.monotonic() + left_s)
        if saved["hold"] is not None:
            since = float(saved["hold"]["since"])
            entry.hold = _Hold(
                fallback=saved["hold"]["fallback"],
                since=since,
                until=float(saved["hold"]["until"]),
                closed_at=time.monotonic() - max(0.0, time.time() - since),
            )
            self._arm(name, entry.hold)
        return entry


def _check_token(entry: _Tenant, token: int) -> None:
    if token < entry.token:
        raise TokenTooOld(entry.token)


def _report(hold: _Hold, *, to: str, timed_out: bool) -> Report:
    now = time.monotonic()
    longest_s = max((now - min(hold.waiters.values()) if hold.waiters else 0.0), hold.longest_gone_s)
    return Report(
        hold_ms=(now - hold.closed_at) * 1000,
        requests_held=hold.requests_held,
        longest_wait_ms=longest_s * 1000,
        released_to=to,
        timed_out=timed_out,
    )


def _wake(hold: _Hold) -> None:
    if hold.timer is not None:
        hold.timer.cancel()
    for waiter in hold.waiters:
        if not waiter.done():
            waiter.set_result(None)
