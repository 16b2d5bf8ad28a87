"""Looks for every acknowledged write of a history in the stores of the cell that serves the tenant at the
end.

Exhaustive: each key that was ever written is read from each store that should hold it. A key may also hold
what an unanswered write left behind; nothing else. Reads of the history that show less than was
acknowledged before they began are stale.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rag_app.embedding import chunks_of, embed
from rag_app.history import ABSENT, History, Op, Outcome, Request
from rag_app.reader import CellReader, StoredDocument, StoredRecord
from rag_app.texts import body_of, stated, title_of

_EXPIRY_TOLERANCE_S: Final = 2.0
_EMBEDDING_TOLERANCE: Final = 1e-5


@dataclass(frozen=True, kw_only=True, order=True)
class Lost:
    """An acknowledged write that a store does not show."""

    tenant: str
    store: str
    key: str
    expected: str
    found: str


@dataclass(frozen=True, kw_only=True, order=True)
class Unexplained:
    """Something that no write of the history could have left behind: torn, foreign, or newer than was ever
    written."""

    tenant: str
    store: str
    key: str
    found: str


@dataclass(frozen=True, kw_only=True)
class StaleRead:
    """A read that began after `acked` had been acknowledged and showed `found`."""

    request: Request
    acked: int


@dataclass(frozen=True, kw_only=True)
class LostWrites:
    """What was looked for and what was not found. `checked` counts keys, by store."""

    lost: tuple[Lost, ...]
    stale: tuple[StaleRead, ...]
    unexplained: tuple[Unexplained, ...]
    writes_acked: int
    reads_checked: int
    checked: Mapping[str, int]

    @property
    def clean(self) -> bool:
        return not (self.lost or self.stale or self.unexplained)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a key may hold: the last acknowledged version, or that of a later write nobody knows the end of.

    `written` are all versions that it ever may have held: one of those in the wrong place means a lost write.
    """

    key: str
    label: str
    acked: int
    allowed: frozenset[int]
    written: frozenset[int]
    expires: tuple[tuple[float, float], ...] = ()

    def judge(self, found: int) -> str | None:
        """`lost`, `unexplained`, or None."""
        if found in self.allowed:
            return None
        return "lost" if found in self.written else "unexplained"


def expectations(requests: list[Request]) -> Expected:
    """What one document or session may hold after these writes of it (all of one worker, so one after the
    other).

    A deleted key holds `ABSENT`.
    """
    acked, allowed, written = ABSENT, {ABSENT}, {ABSENT}
    expires: tuple[tuple[float, float], ...] = ()
    for request in requests:
        holds = ABSENT if request.op is Op.DELETE else request.version
        written.add(holds)
        if request.outcome is Outcome.OK:
            acked, allowed = holds, {holds}
            expires = (request.expires,) if request.expires else ()
        elif request.outcome is Outcome.UNKNOWN:
            allowed = allowed | {holds}
            expires = (*expires, request.expires) if request.expires else expires
    return Expected(
        key=requests[0].key,
        label=requests[0].label,
        acked=acked,
        allowed=frozenset(allowed),
        written=frozenset(written),
        expires=expires,
    )


class _Findings:
    def __init__(self) -> None:
        self.lost: list[Lost] = []
        self.unexplained: list[Unexplained] = []
        self.checked: Counter[str] = Counter()

    def judge(self, tenant: str, store: str, expected: Expected, found: int) -> bool:
        """Count the key and note what is wrong with it; say whether it is as it should be."""
        self.checked[store] += 1
        verdict = expected.judge(found)
        shown = _shown(found)
        if verdict == "lost":
            wanted = " or ".join(_shown(version) for version in sorted(expected.allowed))
            self.lost.append(Lost(tenant=tenant, store=store, key=expected.key, expected=wanted, found=shown))
        elif verdict == "unexplained":
            self.puzzle(tenant, store, expected.key, shown)
        return verdict is None

    def puzzle(self, tenant: str, store: str, key: str, found: str) -> None:
        self.unexplained.append(Unexplained(tenant=tenant, store=store, key=key, found=found))


def verify(history: History, reader_of: Callable[[str], CellReader]) -> LostWrites:
    """Compare the history with the stores. `reader_of(tenant)` reads the cell that serves the tenant now.

    The load must have ended. Reads only, straight from the stores: nothing that the app or the gateway
    could cover up.
    """
    findings = _Findings()
    by_tenant: defaultdict[str, defaultdict[str, list[Request]]] = defaultdict(lambda: defaultdict(list))
    for request in history.requests:
        if request.is_write and request.key:
            by_tenant[request.tenant][request.key].append(request)
    for tenant, keys in by_tenant.items():
        reader = reader_of(tenant)
        kinds: defaultdict[str, list[list[Request]]] = defaultdict(list)
        for key, requests in keys.items():
            kinds[key.partition(":")[0]].append(requests)
        _check_documents(findings, reader, tenant, [expectations(writes) for writes in kinds["document"]])
        _check_sessions(findings, reader, tenant, [expectations(writes) for writes in kinds["session"]])
        _check_counters(findings, reader, tenant, kinds["counter"])
        _check_usage(findings, reader, tenant, [request for writes in keys.values() for request in writes])
    stale, reads = stale_reads(history)
    return LostWrites(
        lost=tuple(sorted(findings.lost)),
        stale=tuple(stale),
        unexplained=tuple(sorted(findings.unexplained)),
        writes_acked=sum(r.is_write and r.outcome is Outcome.OK for r in history.requests),
        reads_checked=reads,
        checked=dict(findings.checked),
    )


def _check_documents(findings: _Findings, reader: CellReader, tenant: str, documents: list[Expected]) -> None:
    ids = [int(document.key.removeprefix("document:")) for document in documents]
    rows, files = reader.documents(tenant, ids), reader.files(tenant, ids)
    titles, records = reader.preview_titles(tenant, ids), reader.records(tenant, ids)
    for number, expected in zip(ids, documents, strict=True):
        row = rows.get(number)
        version = _version(row.title if row else None, expected.label)
        if findings.judge(tenant, "postgres", expected, version) and row is not None:
            _check_parts(findings, tenant, expected, row, version)
        body = files.get(number)
        version = _version(body, expected.label)
        if body is not None and body != body_of(tenant, expected.label, version):
            findings.puzzle(tenant, "objects", expected.key, f"other bytes than v{version}'s")
        findings.judge(tenant, "objects", expected, version)
        findings.judge(tenant, "redis", expected, _version(titles.get(number), expected.label))
        if records is not None:
            _check_record(findings, tenant, expected, records.get(number))


def _check_parts(
    findings: _Findings, tenant: str, expected: Expected, row: StoredDocument, version: int
) -> None:
    """The body, the chunks and their embeddings are those of the title's version."""
    title, body = title_of(expected.label, version), body_of(tenant, expected.label, version)
    if row.body != body:
        findings.puzzle(tenant, "postgres", expected.key, f"another body than v{version}'s")
    pieces = chunks_of(title, body)
    findings.checked["vectors"] += 1
    if [text for text, _ in row.chunks] != pieces:
        found = f"{len(row.chunks)} chunks, not the {len(pieces)} of v{version}"
        findings.lost.append(
            Lost(
                tenant=tenant,
                store="postgres",
                key=expected.key,
                expected=f"chunks of v{version}",
                found=found,
            )
        )
        return
    for seq, (text, vector) in enumerate(row.chunks):
        if vector is None or not _near(vector, embed(text)):
            found = "none" if vector is None else "another vector"
            wanted = f"the embedding of v{version}, chunk {seq}"
            findings.lost.append(
                Lost(tenant=tenant, store="vectors", key=expected.key, expected=wanted, found=found)
            )


def _check_record(findings: _Findings, tenant: str, expected: Expected, record: StoredRecord | None) -> None:
    """Pinecone has the document's version, with the vector of its first chunk."""
    version = _version(record.title if record else None, expected.label)
    if not findings.judge(tenant, "pinecone", expected, version) or record is None:
        return
    first = chunks_of(title_of(expected.label, version), body_of(tenant, expected.label, version))[0]
    if not _near(record.values, embed(first)):
        findings.puzzle(tenant, "pinecone", expected.key, f"another vector than v{version}'s")


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= _EMBEDDING_TOLERANCE for a, b in zip(one, other, strict=True)
    )


def _check_usage(findings: _Findings, reader: CellReader, tenant: str, writes: list[Request]) -> None:
    """What was acknowledged is in the outbox or in analytics, and there once."""
    waiting, shipped = reader.usage(tenant)
    for request in writes:
        if request.outcome is not Outcome.OK or not request.event:
            continue
        findings.checked["analytics"] += 1
        times = shipped.get(request.event, 0)
        if times > 1:
            findings.puzzle(tenant, "analytics", request.key, f"event {request.event} {times} times")
        elif not times and request.event not in waiting:
            wanted = f"event {request.event}"
            findings.lost.append(
                Lost(tenant=tenant, store="analytics", key=request.key, expected=wanted, found="nothing")
            )


def _check_sessions(findings: _Findings, reader: CellReader, tenant: str, sessions: list[Expected]) -> None:
    names = [session.key.removeprefix("session:") for session in sessions]
    stored = reader.sessions(tenant, names)
    now = time.time()
    for name, expected in zip(names, sessions, strict=True):
        session = stored.get(name)
        if session is None and expected.expires and min(e[0] for e in expected.expires) <= now:
            continue
        if not findings.judge(tenant, "redis", expected, session.version if session else ABSENT):
            continue
        if session is not None and not any(
            low - _EXPIRY_TOLERANCE_S <= session.expires <= high + _EXPIRY_TOLERANCE_S
            for low, high in expected.expires
        ):
            findings.puzzle(
                tenant, "redis", expected.key, f"expires at {session.expires:.0f}, as no write said"
            )


def _check_counters(
    findings: _Findings, reader: CellReader, tenant: str, counters: list[list[Request]]
) -> None:
    """A counter's value lies between its acknowledged and its attempted increments."""
    names = [writes[0].key.removeprefix("counter:") for writes in counters]
    values = reader.counters(tenant, names)
    for name, writes in zip(names, counters, strict=True):
        outcomes = Counter(write.outcome for write in writes)
        acked = outcomes[Outcome.OK]
        allowed = frozenset(range(acked, acked + outcomes[Outcome.UNKNOWN] + 1))
        written = frozenset(range(acked))
        expected = Expected(key=writes[0].key, label="", acked=acked, allowed=allowed, written=written)
        findings.judge(tenant, "redis", expected, values.get(name, 0))


def stale_reads(history: History) -> tuple[list[StaleRead], int]:
    """Reads that show less than was acknowledged before they began, and how many reads were looked at."""
    stale: list[StaleRead] = []
    reads = 0
    for writes, read in _reads_with_writes(history):
        reads += 1
        if read.op is Op.GET_COUNTER:
            acked = sum(w.outcome is Outcome.OK and w.end <= read.start for w in writes)
            if read.found < acked:
                stale.append(StaleRead(request=read, acked=acked))
            continue
        before = [w for w in writes if w.end <= read.start]
        during = [w for w in writes if w.end > read.start and w.start < read.end]
        expected = expectations(before) if before else None
        allowed = expected.allowed if expected else frozenset({ABSENT})
        allowed |= {ABSENT if w.op is Op.DELETE else w.version for w in during}
        if expected is not None and read.found not in allowed:
            stale.append(StaleRead(request=read, acked=expected.acked))
    return stale, reads


def _reads_with_writes(history: History) -> Iterator[tuple[list[Request], Request]]:
    writes: defaultdict[tuple[str, str], list[Request]] = defaultdict(list)
    for request in history.requests:
        if request.is_write:
            writes[request.tenant, request.key].append(request)
    for request in history.requests:
        if not request.is_write and request.key and request.outcome is Outcome.OK:
            yield writes[request.tenant, request.key], request


def _version(text: str | None, label: str) -> int:
    """The version that a stored text states; `ABSENT` if there is none or it is not this document's."""
    said = stated(text) if text is not None else None
    return said[1] if said and said[0] == label else ABSENT


def _shown(version: int) -> str:
    return "nothing" if version == ABSENT else f"v{version}"
