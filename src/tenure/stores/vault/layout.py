"""Where what is kept in a vault lies, and how it is written. `docs/vault.md` describes it for whoever has to read a
vault without Tenure."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tenure.errors import UsageError, VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.vault.contract import (
    BACKUP_ID,
    CHUNK_ID,
    KEY_REFERENCE,
    MOST_CHUNK_BYTES,
    BackupId,
    ChunkId,
    KeyReference,
    Lock,
    LockMode,
    Stored,
)

FORMAT: Final = 1
OPEN, COMPLETE, ENDED = "open", "complete", "ended"
_NAME: Final = re.compile(r"([A-Za-z0-9_-]{16,86})\.([0-9a-f]{12})\.([0-9a-f]{32})")
_LIST: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,62})\.([0-9a-f]{12})\.([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The keys of one tenant's part of a vault. `prefix` is the tenant's own, and ends with a delimiter or not."""

    prefix: str

    @property
    def backups(self) -> str:
        return f"{self.prefix}backups/"

    @property
    def lists(self) -> str:
        return f"{self.prefix}lists/"

    @property
    def chunks(self) -> str:
        return f"{self.prefix}chunks/"

    @property
    def condemned(self) -> str:
        return f"{self.prefix}condemned/"

    def backup(self, backup: BackupId) -> str:
        return self.backups + backup

    def chunk(self, name: str) -> str:
        return self.chunks + name

    def list(self, name: str) -> str:
        return self.lists + name


def checked_backup(text: str) -> BackupId:
    """Raises `UsageError`."""
    if not BACKUP_ID.fullmatch(text):
        raise UsageError(f"{text!r:.80} is not a backup's id: 1 to 63 lower-case letters, digits or '-'")
    return BackupId(text)


def checked_chunk(chunk: ChunkId, sealed: bytes) -> None:
    """Raises `UsageError` for what is no chunk."""
    if not CHUNK_ID.fullmatch(chunk):
        raise UsageError(f"{chunk!r:.100} is not a chunk's id: 16 to 86 letters, digits, '_' or '-'")
    if not 0 < len(sealed) <= MOST_CHUNK_BYTES:
        raise UsageError(f"a chunk has 1 to {MOST_CHUNK_BYTES} bytes, this one {len(sealed)}")


def checked_key(text: str) -> KeyReference:
    """Raises `UsageError` for what cannot be a reference to a key."""
    if not KEY_REFERENCE.fullmatch(text):
        raise UsageError(
            "the reference of a data key has 1 to 128 letters, digits and '_.:/-'",
            hint="the key itself, wrapped or not, never goes into a vault",
        )
    return KeyReference(text)


# -- chunks and their names ------------------------------------------------------------------------------------------


def digest_of(sealed: bytes) -> str:
    """What the name of a chunk's upload ends with: `b2sum -l 128` of its bytes."""
    return hashlib.blake2b(sealed, digest_size=16).hexdigest()


def upload_name(chunk: ChunkId, tag: str, sealed: bytes) -> str:
    """`<chunk>.<tag>.<digest>`. The tag is the writing's: no two writings ever make an upload of the same name."""
    return f"{chunk}.{tag}.{digest_of(sealed)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadName:
    chunk: ChunkId
    tag: str
    digest: str


def parse_upload(name: str) -> UploadName | None:
    """None for what is no upload of a chunk."""
    found = _NAME.fullmatch(name)
    return UploadName(chunk=ChunkId(found[1]), tag=found[2], digest=found[3]) if found else None


# -- lists of chunks -------------------------------------------------------------------------------------------------


def list_text(chunks: Iterable[Stored]) -> bytes:
    """One line per chunk, `<name> <size>`, in the order of the names."""
    return "".join(f"{s.name} {s.size}\n" for s in sorted(chunks, key=lambda s: s.name)).encode()


def list_name(backup: BackupId, tag: str, digest: str) -> str:
    return f"{backup}.{tag}.{digest}"


def list_owner(name: str) -> tuple[str, str] | None:
    """The backup and the digest of a list's name; None for what is none."""
    found = _LIST.fullmatch(name)
    return (found[1], found[3]) if found else None


def packed(text: bytes) -> bytes:
    return gzip.compress(text, compresslevel=6, mtime=0)


def parse_list(body: bytes, *, digest: str, where: str) -> dict[ChunkId, Stored]:
    """The chunks of a list. Raises `VaultDamaged` unless it is exactly the one of that digest."""
    try:
        text = gzip.decompress(body)
    except (OSError, EOFError, ValueError) as error:
        raise VaultDamaged(f"{where}: the list of its chunks cannot be read") from error
    if hashlib.sha256(text).hexdigest() != digest:
        raise VaultDamaged(f"{where}: the list of its chunks is not the one that the manifest names")
    chunks: dict[ChunkId, Stored] = {}
    for line in text.decode().splitlines():
        name, _, size = line.partition(" ")
        upload = parse_upload(name)
        if upload is None or not size.isdigit():
            raise VaultDamaged(f"{where}: the list of its chunks has a line that names none")
        chunks[upload.chunk] = Stored(name=name, size=int(size))
    return chunks


# -- what stands at a backup's key -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Record:
    """What stands at a backup's key: first that it is being written, in the end its manifest.

    `turn` is new each time a record is written, so that equal ones are the same. `knows`: the lists of condemned
    uploads that the writer keeps clear of.
    """

    state: str
    tenant: TenantId
    backup: BackupId
    key: KeyReference
    tag: str
    turn: str
    lock: Lock | None = None
    knows: tuple[str, ...] = ()
    chunks: int = 0
    size_bytes: int = 0
    contents: str = ""
    public: Mapping[str, Any] | None = None

    def encoded(self) -> bytes:
        """As JSON, with the SHA-256 of all other fields."""
        fields: dict[str, Any] = {
            "format": FORMAT,
            "state": self.state,
            "tenant": self.tenant,
            "backup": self.backup,
            "key": self.key,
            "tag": self.tag,
            "turn": self.turn,
            "lock": None
            if self.lock is None
            else {"mode": self.lock.mode, "until": self.lock.until.isoformat()},
            "knows": list(self.knows),
            "chunks": self.chunks,
            "size_bytes": self.size_bytes,
            "contents": self.contents,
            "public": None if self.public is None else dict(self.public),
        }
        fields["sha256"] = hashlib.sha256(canonical(fields)).hexdigest()
        return canonical(fields) + b"\n"


def canonical(fields: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys, no blanks, in ASCII."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse_record(body: bytes, tenant: TenantId, backup: str) -> Record:
    """Raises `VaultDamaged` with the reason if this is no record of that backup."""
    try:
        fields = json.loads(body)
        claimed = fields.pop("sha256")
        if hashlib.sha256(canonical(fields)).hexdigest() != claimed:
            raise VaultDamaged("it has been changed since it was written")
        if fields["format"] != FORMAT:
            raise VaultDamaged(f"it has the format {fields['format']}, which this release does not know")
        lock = fields["lock"]
        record = Record(
            **{
                **{name: fields[name] for name in _PLAIN},
                "knows": tuple(fields["knows"]),
                "lock": lock
                and Lock(mode=LockMode(lock["mode"]), until=datetime.fromisoformat(lock["until"])),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise VaultDamaged("it is not a manifest") from error
    if record.tenant != tenant:
        raise VaultDamaged(f"it is a manifest of another tenant, {record.tenant}")
    if record.backup != backup:
        raise VaultDamaged(f"it is the manifest of another backup, {record.backup}")
    return record


_PLAIN: Final = (
    *("state", "tenant", "backup", "key", "tag", "turn"),
    *("chunks", "size_bytes", "contents", "public"),
)
