"""The two parts of a backup's manifest: what the vault says in the clear, signed; and the index, sealed as chunks.

A reader trusts nothing before this order of checks is through: the format, the signature, that it is the manifest of
just this tenant, backup, key and list of chunks; then the key, the index and what it says against all of these.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tenure.backups.contract import CollectionFacts, Part, Stream
from tenure.backups.signing import Signer, Trust
from tenure.errors import BackupTooNew, BackupUntrusted, VaultDamaged
from tenure.model.names import CellName, StoreName, TenantId
from tenure.stores.vault.contract import Backup, BackupId, ChunkId, Contents, KeyReference

FORMAT: Final = 1
_SIGNED: Final = b"tenure backup manifest 1\n"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a backup is one of, as its operation knows it. All of it stands in the clear: no personal data."""

    point: datetime
    cell: CellName
    region: str
    tier: str
    epoch: int
    release: str
    """Of Tenure."""
    catalogue_version: str
    catalogue_digest: str
    schema: str | None = None
    """The version of the app's schema, where the catalogue says how to ask for it."""


@dataclass(frozen=True, kw_only=True)
class StoreTotals:
    """How much a backup has of a store."""

    collections: int
    streams: int
    items: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Public:
    """The part in the clear, as it was signed."""

    tenant: TenantId
    backup: BackupId
    key: KeyReference
    key_check: str
    contents: str
    """`digest_of` its chunks as they lie in a vault."""
    facts: Facts
    stores: Mapping[StoreName, StoreTotals]
    index: Sequence[ChunkId]
    """The chunks of the sealed part, in their order."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Chunks one after the other, and how many bytes each has opened."""

    chunks: Sequence[ChunkId]
    sizes: Sequence[int]

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A stream, and where in which run it begins."""

    stream: Stream
    run: int
    start: int


@dataclass(frozen=True, kw_only=True)
class Index:
    """The sealed part: where every byte is, and what the stores said."""

    tenant: TenantId
    backup: BackupId
    point: datetime
    streams: Sequence[Placed]
    runs: Sequence[Run]
    collections: Sequence[CollectionFacts]
    store_facts: Mapping[StoreName, Mapping[str, Any]]


def canonical(document: Mapping[str, Any]) -> bytes:
    """The same bytes for equal JSON: keys sorted, no blanks, plain ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def totals(index: Index) -> dict[StoreName, StoreTotals]:
    names = {p.stream.store for p in index.streams} | {c.store for c in index.collections}
    return {
        name: StoreTotals(
            collections=sum(c.store == name for c in index.collections),
            streams=sum(p.stream.store == name for p in index.streams),
            items=sum(c.items for c in index.collections if c.store == name),
            size_bytes=sum(p.stream.size_bytes for p in index.streams if p.stream.store == name),
        )
        for name in sorted(names)
    }


# -- the part in the clear ---------------------------------------------------------------------------------------------


def signed(public: Public, signer: Signer) -> dict[str, Any]:
    """The JSON that `Writing.commit` is given."""
    facts = public.facts
    document: dict[str, Any] = {
        "format": FORMAT,
        "tenant": public.tenant,
        "backup": public.backup,
        "key": public.key,
        "key_check": public.key_check,
        "contents": public.contents,
        "point": facts.point.isoformat(),
        "cell": facts.cell,
        "region": facts.region,
        "tier": facts.tier,
        "epoch": facts.epoch,
        "release": facts.release,
        "catalogue": {"version": facts.catalogue_version, "digest": facts.catalogue_digest},
        "schema": facts.schema,
        "stores": {
            name: {
                "collections": total.collections,
                "streams": total.streams,
                "items": total.items,
                "bytes": total.size_bytes,
            }
            for name, total in public.stores.items()
        },
        "index": list(public.index),
    }
    signature = base64.b64encode(signer.sign(_SIGNED + canonical(document))).decode()
    return {**document, "signature": {"by": signer.name, "ed25519": signature}}


def digest_of(contents: Contents) -> str:
    """Of everything a backup consists of, in every vault that has the same bytes: the SHA-256 of a line for each chunk,
    sorted, with its id, the digest at the end of its name, and its size."""
    lines = sorted(f"{c} {s.name.rpartition('.')[2]} {s.size}\n" for c, s in contents.chunks.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def verified(backup: Backup, contents: Contents, trust: Trust, *, tenant: TenantId) -> Public:
    """The part in the clear, if it is what the estate signed for just this backup of this tenant, and these chunks.

    Raises `BackupTooNew`, or `BackupUntrusted` that says which of the checks failed.
    """
    where = f"backup {backup.id} of {backup.tenant}"
    document = dict(backup.public)
    written = document.get("format")
    if isinstance(written, int) and written > FORMAT:
        raise BackupTooNew(
            f"{where} has format {written}; this release reads up to {FORMAT}",
            hint="read it with the release that wrote it, or a later one",
        )
    if backup.tenant != tenant:
        raise BackupUntrusted(f"{where} is not a backup of {tenant}")
    signature = document.pop("signature", None)
    _require_signature(where, signature, canonical(document), trust)
    try:
        public = _public(document)
    except (KeyError, TypeError, ValueError) as error:
        raise BackupUntrusted(f"{where}: its manifest is signed and not understood: {error!r}") from error
    expected = {
        "tenant": (public.tenant, backup.tenant),
        "id": (public.backup, backup.id),
        "key": (public.key, backup.key),
        "list of chunks": (public.contents, digest_of(contents)),
    }
    for what, (said, found) in expected.items():
        if said != found:
            raise BackupUntrusted(
                f"{where}: the manifest in its place was signed for another {what}: {said!r}, not {found!r}",
                hint="somebody has put it there; in a bucket with versions the first one is still to be had",
            )
    return public


def _require_signature(where: str, signature: object, message: bytes, trust: Trust) -> None:
    by, raw = "", b""
    if isinstance(signature, Mapping):
        by = str(signature.get("by", ""))
        try:
            raw = base64.b64decode(str(signature.get("ed25519", "")), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
    if not by:
        raise BackupUntrusted(f"{where}: its manifest is not signed")
    if not trust.knows(by):
        raise BackupUntrusted(
            f"{where}: its manifest is signed with the key {by[:32]!r}, which the estate does not trust",
            hint="the keys it trusts are those of `backups.signing`; add a former one only if you know it",
        )
    if not trust.verifies(by, raw, _SIGNED + message):
        raise BackupUntrusted(f"{where}: the signature under its manifest is not that of what it says")


def _public(document: Mapping[str, Any]) -> Public:
    catalogue = document["catalogue"]
    return Public(
        tenant=TenantId(_text(document["tenant"])),
        backup=BackupId(_text(document["backup"])),
        key=KeyReference(_text(document["key"])),
        key_check=_text(document["key_check"]),
        contents=_text(document["contents"]),
        facts=Facts(
            point=_moment(document["point"]),
            cell=CellName(_text(document["cell"])),
            region=_text(document["region"]),
            tier=_text(document["tier"]),
            epoch=int(document["epoch"]),
            release=_text(document["release"]),
            catalogue_version=_text(catalogue["version"]),
            catalogue_digest=_text(catalogue["digest"]),
            schema=None if document["schema"] is None else _text(document["schema"]),
        ),
        stores={
            StoreName(name): StoreTotals(
                collections=int(total["collections"]),
                streams=int(total["streams"]),
                items=int(total["items"]),
                size_bytes=int(total["bytes"]),
            )
            for name, total in document["stores"].items()
        },
        index=tuple(ChunkId(_text(chunk)) for chunk in document["index"]),
    )


# -- the sealed part ---------------------------------------------------------------------------------------------------


def index_text(index: Index) -> bytes:
    """The index as it is sealed, in pieces."""
    return canonical(
        {
            "format": FORMAT,
            "tenant": index.tenant,
            "backup": index.backup,
            "point": index.point.isoformat(),
            "streams": [_stream_json(placed) for placed in index.streams],
            "runs": [{"chunks": list(run.chunks), "sizes": list(run.sizes)} for run in index.runs],
            "collections": [
                {
                    "store": c.store,
                    "collection": c.collection,
                    "items": c.items,
                    "bytes": c.size_bytes,
                    "digest": c.digest,
                    "fingerprint": c.fingerprint,
                }
                for c in index.collections
            ],
            "facts": {name: dict(facts) for name, facts in index.store_facts.items()},
        }
    )


def _stream_json(placed: Placed) -> dict[str, Any]:
    stream = placed.stream
    return {
        "store": stream.store,
        "collection": stream.collection,
        "part": stream.part,
        "n": stream.n,
        "header": dict(stream.header),
        "bytes": stream.size_bytes,
        "sha256": stream.digest,
        "items": stream.items,
        "run": placed.run,
        "start": placed.start,
    }


def parsed_index(text: bytes, public: Public, contents: Contents) -> Index:
    """The index, if it is that of this backup and fits it. Raises `VaultDamaged` that says what does not."""
    where = f"backup {public.backup} of {public.tenant}"
    try:
        index = _index(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise VaultDamaged(f"{where}: its index is not understood: {error!r}") from error
    said = (index.tenant, index.backup, index.point)
    if said != (public.tenant, public.backup, public.facts.point):
        raise BackupUntrusted(f"{where}: its index is that of backup {index.backup} of {index.tenant}")
    needed = {chunk for run in index.runs for chunk in run.chunks}.union(public.index)
    if needed != contents.chunks.keys():
        lacking = sorted(needed - contents.chunks.keys())
        named = (
            f"lacks {lacking[0]} and {len(lacking) - 1} more" if lacking else "has chunks it does not need"
        )
        raise VaultDamaged(f"{where}: its list of chunks does not fit its index: it {named}")
    for placed in index.streams:
        fits = 0 <= placed.run < len(index.runs) and placed.start >= 0
        if not fits or placed.start + placed.stream.size_bytes > index.runs[placed.run].size_bytes:
            raise VaultDamaged(f"{where}: {named_stream(placed.stream)} is longer than its chunks")
    if totals(index) != dict(public.stores):
        raise VaultDamaged(f"{where}: its index and its manifest tell of different amounts")
    return index


def named_stream(stream: Stream) -> str:
    """A stream in words."""
    late = f" (late {stream.n})" if stream.part is Part.LATE else ""
    return f"{stream.store}, {stream.collection}{late}"


def _index(document: Mapping[str, Any]) -> Index:
    runs = tuple(
        Run(
            chunks=tuple(ChunkId(_text(chunk)) for chunk in run["chunks"]),
            sizes=tuple(int(size) for size in run["sizes"]),
        )
        for run in document["runs"]
    )
    if any(len(run.chunks) != len(run.sizes) or min(run.sizes, default=1) < 1 for run in runs):
        raise ValueError("a run has other sizes than chunks")
    return Index(
        tenant=TenantId(_text(document["tenant"])),
        backup=BackupId(_text(document["backup"])),
        point=_moment(document["point"]),
        streams=tuple(_placed(entry) for entry in document["streams"]),
        runs=runs,
        collections=tuple(
            CollectionFacts(
                store=StoreName(_text(entry["store"])),
                collection=_text(entry["collection"]),
                items=int(entry["items"]),
                size_bytes=int(entry["bytes"]),
                digest=entry["digest"],
                fingerprint=entry["fingerprint"],
            )
            for entry in document["collections"]
        ),
        store_facts={StoreName(name): facts for name, facts in document["facts"].items()},
    )


def _placed(entry: Mapping[str, Any]) -> Placed:
    return Placed(
        stream=Stream(
            store=StoreName(_text(entry["store"])),
            collection=_text(entry["collection"]),
            part=Part(entry["part"]),
            n=int(entry["n"]),
            header=entry["header"],
            size_bytes=int(entry["bytes"]),
            digest=_text(entry["sha256"]),
            items=None if entry["items"] is None else int(entry["items"]),
        ),
        run=int(entry["run"]),
        start=int(entry["start"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("something that has to be text is not")
    return value


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone")
    return moment
