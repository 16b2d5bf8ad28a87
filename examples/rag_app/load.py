"""Load through the gateway, as users make it: bounded, mixed, and every request written down.

Each key has one worker that writes it, with versions that count up, so that afterwards every acknowledged write can
be looked for. All workers of a tenant read it, so that what one user sees can be held against what another did.
Nothing is ever sent again: a request that fails has failed, and a key whose last write nobody can be sure of is not
written any more. `rag_app.load_process` runs it in its own process.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from rag_app.embedding import chunks_of
from rag_app.history import ABSENT, WRITES, Op, Outcome, Request
from rag_app.settings import CLIENT_IDS_FROM
from rag_app.texts import body_of, stated, title_of

DEFAULT_MIX: Final[Mapping[str, float]] = {
    Op.CREATE: 12,
    Op.UPDATE: 14,
    Op.DELETE: 3,
    Op.COUNT: 15,
    Op.PUT_SESSION: 10,
    Op.GET: 16,
    Op.FILE: 6,
    Op.SEARCH: 6,
    Op.SIMILAR: 4,
    Op.GET_COUNTER: 8,
    Op.GET_SESSION: 8,
}
CORE_MIX: Final[Mapping[str, float]] = {
    **{op: share for op, share in DEFAULT_MIX.items() if op != Op.SIMILAR},
    Op.SEARCH: DEFAULT_MIX[Op.SEARCH] + DEFAULT_MIX[Op.SIMILAR],
}
"""For cells without an index in Pinecone."""
SEQUENCE_IDS_SHARE: Final = 0.2
"""How many of the documents get their id from the cell's sequence instead of the client."""
SESSION_TTL_S: Final = 6 * 3600.0
_IDS_PER_RUN: Final = 10_000_000
_IDS_PER_WORKER: Final = 100_000
_NOT_DONE: Final = frozenset({307, 308, 400, 401, 403, 404, 405, 409, 413, 429})
"""Statuses that say that nothing was done. Every other one but 2xx leaves it open."""


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """`tenants` maps ids to host names. `rate` is the most requests per second over all tenants and workers
    together.

    `run` tells the keys of different runs apart (0 to 999,999); give each run of the same tenants its own.
    """

    gateway: str
    tenants: Mapping[str, str]
    run: int
    workers: int = 4
    rate: float = 60.0
    timeout_s: float = 10.0
    seed: int = 1
    mix: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_MIX))


@dataclass(slots=True)
class _Key:
    """What the one writer of a key knows. `version` is the last acknowledged one."""

    name: str
    label: str = ""
    version: int = 0
    writable: bool = True
    certain: bool = True
    """Whether the last write of it was answered."""


@dataclass(slots=True)
class _Shared:
    """The keys of a tenant that any of its workers may read."""

    documents: list[_Key] = field(default_factory=list)
    sessions: list[_Key] = field(default_factory=list)
    counters: list[_Key] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Answer:
    outcome: Outcome
    status: int
    cell: str
    body: Any
    start: float
    end: float


class Clock:
    """Time of day that never goes back: `time.time()` of the start, carried on by the monotonic clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.perf_counter()

    def now(self) -> float:
        return self._offset + time.perf_counter()


class Pace:
    """Spreads one worker's requests: at most one each `period_s`, never a burst to catch up. Can be
    paused."""

    def __init__(self, period_s: float, first_s: float) -> None:
        self._period_s = period_s
        self._due = time.perf_counter() + first_s

    async def wait(self) -> None:
        now = time.perf_counter()
        if self._due > now:
            await asyncio.sleep(self._due - now)
        self._due = max(self._due, now - self._period_s) + self._period_s


class Worker:
    """One user of one tenant: one request at a time. The only writer of its keys."""

    def __init__(
        self,
        settings: LoadSettings,
        tenant: str,
        number: int,
        shared: _Shared,
        http: aiohttp.ClientSession,
        clock: Clock,
        record: Callable[[Request], None],
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._tenant = tenant
        self._number = number
        self._http = http
        self._clock = clock
        self._record = record
        self._rng = random.Random(f"{settings.seed}:{settings.run}:{tenant}:{number}")
        self._ops = [Op(op) for op in settings.mix]
        self._weights = list(settings.mix.values())
        self._documents: list[_Key] = []
        self._sessions: list[_Key] = []
        self._counters = [_Key(f"load-{settings.run}-{number}-{n}") for n in range(3)]
        self._shared.counters += self._counters
        self._made = 0

    async def step(self) -> None:
        """Make one request, of a kind that is possible now."""
        op = self._rng.choices(self._ops, self._weights)[0]
        if op is Op.SIMILAR:
            await self._similar()
            return
        if op in {Op.UPDATE, Op.DELETE, Op.GET, Op.FILE, Op.SEARCH}:
            known = self._choice(op)
            if known:
                await self._document_request(op, self._rng.choice(known))
                return
            op = Op.CREATE
        if op is Op.CREATE:
            await self._create()
        elif op in {Op.COUNT, Op.GET_COUNTER}:
            counters = self._counters if op is Op.COUNT else self._shared.counters
            await self._counter_request(op, self._rng.choice(counters))
        elif op is Op.GET_SESSION and self._shared.sessions:
            await self._get_session(self._rng.choice(self._shared.sessions[-150:]))
        else:
            await self._put_session()

    def _choice(self, op: Op) -> list[_Key]:
        """The documents that such a request may be about.

        A search finds a document by the text of one version: it says nothing while another one may be there.
        """
        if op in WRITES:
            return [key for key in self._documents[-200:] if key.writable]
        if op is Op.SEARCH:
            return [key for key in self._documents[-200:] if key.certain]
        return self._shared.documents[-600:]

    async def _send(self, method: str, path: str, **arguments: Any) -> _Answer:
        start = self._clock.now()
        outcome, status, cell, body = Outcome.UNKNOWN, 0, "", None
        try:
            async with self._http.request(
                method,
                self._settings.gateway + path,
                headers={"host": self._settings.tenants[self._tenant]},
                allow_redirects=False,
                **arguments,
            ) as response:
                status, cell = response.status, response.headers.get("x-served-by", "")
                raw = await response.read()
            if 200 <= status < 300:
                json = response.content_type == "application/json"
                body = await response.json() if json else raw.decode()
                outcome = Outcome.OK
            elif status in _NOT_DONE:
                outcome = Outcome.REFUSED
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError):
            outcome = Outcome.UNKNOWN
        return _Answer(outcome, status, cell, body, start, self._clock.now())

    def _note(self, op: Op, key: str, answer: _Answer, **more: Any) -> None:
        self._record(
            Request(
                tenant=self._tenant,
                worker=self._number,
                op=op,
                key=key,
                start=answer.start,
                end=answer.end,
                outcome=answer.outcome,
                status=answer.status,
                cell=answer.cell,
                event=_event(op, answer),
                **more,
            )
        )

    def _written(self, key: _Key, version: int, answer: _Answer) -> None:
        if answer.outcome is Outcome.OK:
            key.version = version
        elif answer.outcome is Outcome.UNKNOWN:
            key.writable = key.certain = False

    async def _create(self) -> None:
        self._made += 1
        run, number = self._settings.run, self._number
        label = f"{run}-{number}-{self._made}"
        fields: dict[str, Any] = {"title": title_of(label, 1), "body": body_of(self._tenant, label, 1)}
        chosen = None
        if self._rng.random() >= SEQUENCE_IDS_SHARE:
            chosen = CLIENT_IDS_FROM + run * _IDS_PER_RUN + number * _IDS_PER_WORKER + self._made
            fields["id"] = chosen
        answer = await self._send("POST", "/documents", json=fields)
        given = answer.body["id"] if answer.outcome is Outcome.OK else chosen
        name = "" if given is None else f"document:{given}"
        self._note(Op.CREATE, name, answer, version=1, label=label)
        if name and answer.outcome is not Outcome.REFUSED:
            key = _Key(name, label)
            self._written(key, 1, answer)
            self._documents.append(key)
            self._shared.documents.append(key)

    async def _document_request(self, op: Op, key: _Key) -> None:
        number = key.name.removeprefix("document:")
        version = key.version + 1
        match op:
            case Op.UPDATE:
                fields = {"title": title_of(key.label, version), "body": self._body(key, version)}
                answer = await self._send("PUT", f"/documents/{number}", json=fields)
            case Op.DELETE:
                answer = await self._send("DELETE", f"/documents/{number}")
            case Op.SEARCH:
                wanted = chunks_of("", self._body(key, key.version))[0]
                answer = await self._send("GET", "/search", params={"q": wanted})
            case _:
                answer = await self._send("GET", f"/{'files' if op is Op.FILE else 'documents'}/{number}")
        if op in WRITES:
            self._note(op, key.name, answer, version=version, label=key.label)
            self._written(key, version, answer)
            if op is Op.DELETE and answer.outcome is not Outcome.REFUSED:
                key.writable = False
        else:
            self._note(op, key.name, _read(answer), found=_found(op, key, number, answer))

    async def _similar(self) -> None:
        """Pinecone shows what was written after a while: which documents it answers with says nothing."""
        words = self._rng.choice(self._shared.documents[-600:] or [_Key("")]).label or self._tenant
        self._note(Op.SIMILAR, "", await self._send("GET", "/similar", params={"q": words}))

    def _body(self, key: _Key, version: int) -> str:
        return body_of(self._tenant, key.label, version)

    async def _counter_request(self, op: Op, key: _Key) -> None:
        answer = await self._send("POST" if op is Op.COUNT else "GET", f"/counters/{key.name}")
        value = int(answer.body["value"]) if answer.outcome is Outcome.OK else 0
        if op is Op.COUNT:
            self._note(op, f"counter:{key.name}", answer, version=value)
        else:
            self._note(op, f"counter:{key.name}", answer, found=value)

    async def _put_session(self) -> None:
        known = [key for key in self._sessions[-50:] if key.writable]
        if known and self._rng.random() < 0.5:
            key = self._rng.choice(known)
        else:
            key = _Key(f"load-{self._settings.run}-{self._number}-{len(self._sessions)}")
            self._sessions.append(key)
            self._shared.sessions.append(key)
        version = key.version + 1
        fields = {"version": str(version), "user": f"user{self._number}@{self._tenant}.example"}
        body = {"id": key.name, "ttl_s": SESSION_TTL_S, "fields": fields}
        answer = await self._send("POST", "/sessions", json=body)
        expires = (answer.start + SESSION_TTL_S, answer.end + SESSION_TTL_S)
        self._note(Op.PUT_SESSION, f"session:{key.name}", answer, version=version, expires=expires)
        self._written(key, version, answer)

    async def _get_session(self, key: _Key) -> None:
        answer = await self._send("GET", f"/sessions/{key.name}")
        found = int(answer.body["fields"]["version"]) if answer.outcome is Outcome.OK else ABSENT
        self._note(Op.GET_SESSION, f"session:{key.name}", _read(answer), found=found)


def _event(op: Op, answer: _Answer) -> str:
    """The usage event that a write's answer acknowledges."""
    acknowledged = op in WRITES and answer.outcome is Outcome.OK
    return str(answer.body.get("event", "")) if acknowledged else ""


def _read(answer: _Answer) -> _Answer:
    """A read that says that there is nothing has succeeded; whether there should be something is asked
    later."""
    if answer.status != 404 or not answer.cell:
        return answer
    return _Answer(Outcome.OK, 404, answer.cell, None, answer.start, answer.end)


def _found(op: Op, key: _Key, number: str, answer: _Answer) -> int:
    """The version of the document that an answer shows."""
    if answer.outcome is not Outcome.OK:
        return ABSENT
    if op is Op.SEARCH:
        hits = [hit for hit in answer.body["hits"] if str(hit["document"]) == number]
        texts = [hit["text"] for hit in hits if hit["seq"] == 0]
    else:
        texts = [answer.body["title"] if op is Op.GET else answer.body]
    versions = [said[1] for said in map(stated, texts) if said and said[0] == key.label]
    return max(versions, default=ABSENT)


class Generator:
    """All workers of all tenants. `record` is called with every request when it has ended, in that order."""

    def __init__(self, settings: LoadSettings, record: Callable[[Request], None]) -> None:
        self._settings = settings
        self._record = record
        self._clock = Clock()
        self._running = asyncio.Event()
        self._running.set()
        self._stopping = False

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def stop(self) -> None:
        """Let each worker end its request, and then `run` return."""
        self._stopping = True
        self._running.set()

    async def run(self) -> None:
        """Make requests until `stop`; then return when the last one has been recorded."""
        settings = self._settings
        number = len(settings.tenants) * settings.workers
        timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
        connector = aiohttp.TCPConnector(limit=number, keepalive_timeout=15)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            http._retry_connection = False  # it would send again, silently, what fails on a kept connection
            period_s = number / settings.rate
            shared = {tenant: _Shared() for tenant in settings.tenants}
            async with asyncio.TaskGroup() as tasks:
                for index in range(number):
                    tenant = list(settings.tenants)[index % len(settings.tenants)]
                    worker = Worker(settings, tenant, index, shared[tenant], http, self._clock, self._record)
                    pace = Pace(period_s, period_s * index / number)
                    tasks.create_task(self._work(worker, pace))

    async def _work(self, worker: Worker, pace: Pace) -> None:
        while not self._stopping:
            await pace.wait()
            await self._running.wait()
            if not self._stopping:
                await worker.step()
