"""What a backup asks of the place where it is kept: `Vault`, and `Writing` for a backup that is being made.

A vault is one bucket per region. What it is given is ciphertext in chunks, of one tenant each, under ids that tell it
nothing; what it is told in the clear stands in the manifest's public part. The data key is kept elsewhere: a manifest
names it by a reference only. A manifest is written last, in one request that fails if the writing was ended meanwhile,
so a torn backup is never listed as complete; and what a complete manifest needs is never collected as garbage.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType, Protocol

from tenure.model.names import TenantId

BackupId = NewType("BackupId", str)
ChunkId = NewType("ChunkId", str)
KeyReference = NewType("KeyReference", str)

BACKUP_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Never used twice for one tenant."""
CHUNK_ID: Final = re.compile(r"[A-Za-z0-9_-]{16,86}")
"""Whatever it is made of, equal ids of one tenant stand for equal contents: what is there already is not put again."""
KEY_REFERENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
MOST_CHUNK_BYTES: Final = 64 * 1024 * 1024
MOST_PUBLIC_BYTES: Final = 256 * 1024


class LockMode(StrEnum):
    """Object lock, as S3 has it: with the right to bypass it, `GOVERNANCE` can be lifted; `COMPLIANCE` by nobody."""

    GOVERNANCE = "GOVERNANCE"
    COMPLIANCE = "COMPLIANCE"


@dataclass(frozen=True, kw_only=True)
class Lock:
    """Until when the server itself refuses to delete something; to the second, as servers count."""

    mode: LockMode
    until: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "until", self.until.replace(microsecond=0))


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the bucket does by itself. `expiring` names its lifecycle rules that delete what lies in the vault."""

    versioned: bool
    locks: bool
    locks_by_default: LockMode | None = None
    default_days: int | None = None
    expiring: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A complete backup, as its manifest says. `stored_at` is the server's own clock, not what a writer claims."""

    tenant: TenantId
    id: BackupId
    key: KeyReference
    """Which data key opens it."""
    public: Mapping[str, Any]
    chunks: int
    size_bytes: int
    """All its chunks together; what it shares with other backups counts in each."""
    contents: str
    """The SHA-256 of the list of its chunks: `Writing.contents` gives it before the manifest is signed."""
    stored_at: datetime
    lock: Lock | None = None
    legal_hold: bool = False
    hidden: bool = False
    """Somebody deleted it in a bucket that keeps versions. It is still there."""
    disputed: bool = False
    """Somebody has written another manifest over it in a bucket that keeps versions. This is the first one."""


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A backup that is being written, or whose writer has died. `quiet_s`: how long ago it last said that it lives."""

    id: BackupId
    quiet_s: float


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """Something in the place of a manifest that is none, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Everything of a tenant that has, or was to have, a manifest; each by id."""

    complete: tuple[Backup, ...]
    unfinished: tuple[Unfinished, ...]
    damaged: tuple[Damaged, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One upload of a chunk: its name in the vault, which ends with the digest of its bytes, and its size."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The chunks of one backup and where each lies. `digest` as in `Backup.contents`."""

    tenant: TenantId
    backup: BackupId
    chunks: Mapping[ChunkId, Stored]
    digest: str

    @property
    def size_bytes(self) -> int:
        return sum(stored.size for stored in self.chunks.values())


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What collecting garbage did. `waiting`: uploads that a backup under way may still use; `locked`: uploads that
    nobody needs and the server keeps until their lock ends."""

    uploads: int
    size_bytes: int
    waiting: int
    locked: int
    ended: tuple[BackupId, ...] = ()
    """Backups whose writers had died."""


class Writing(Protocol):
    """A backup that is being written. Nothing of it is listed before `commit` has returned, or after a crash.

    `has` and `put` may be called from many threads; whatever they have put stays put, also for a process that resumes.
    """

    @property
    def tenant(self) -> TenantId: ...
    @property
    def backup(self) -> BackupId: ...
    @property
    def key(self) -> KeyReference:
        """The one that it was begun with."""

    def has(self, chunk: ChunkId) -> bool:
        """Whether the vault has that chunk of this tenant, so that it need not be put."""

    def put(self, chunk: ChunkId, sealed: bytes) -> bool:
        """Keep these bytes as that chunk; False, and nothing is sent, if it is there already. Idempotent."""

    def renew(self) -> None:
        """Say that the writer lives. Raises `LeaseLost` if the writing was ended, or is carried on by another."""

    def contents(self, chunks: Collection[ChunkId]) -> Contents:
        """Note what the backup consists of. Looks whether all of it is there; raises `VaultDamaged` with what is not.

        Locks what other backups have put, where this one is to be locked.
        """

    def commit(self, contents: Contents, public: Mapping[str, Any]) -> Backup:
        """Write the manifest. From then on the backup is listed; before, nothing of it is.

        `public` is JSON that anybody who gets at the bucket may read: versions, counts, a signature; no personal data.
        Raises `LeaseLost` if the writing was ended, or is carried on by another. Repeating a commit gives it back.
        """

    def abandon(self) -> None:
        """End the writing. What it has put goes with the next `collect`. Idempotent."""


class Vault(Protocol):
    """The backups of one region, each tenant's apart. Thread-safe; every method may be repeated after a crash."""

    def rules(self) -> Rules:
        """What the bucket does by itself, as it is now."""

    def begin(
        self, tenant: TenantId, backup: BackupId, *, key: KeyReference, lock: Lock | None = None
    ) -> Writing:
        """Start a backup, with every part locked as `lock` says.

        Raises `StoreRefused` if there is a backup of that id, or the bucket has no locks and one is asked for; and
        `FenceRefused` while an erasure holds the tenant.
        """

    def resume(self, tenant: TenantId, backup: BackupId) -> Writing:
        """Carry on what another process began; that one's `commit` and `renew` fail from now on.

        Raises `LeaseLost` if it is no longer unfinished.
        """

    def shelf(self, tenant: TenantId) -> Shelf:
        """All backups of the tenant, complete, unfinished and damaged, each kind by id. Needs no key."""

    def contents(self, backup: Backup) -> Contents:
        """The chunks of a backup. Raises `VaultDamaged` if the list is not the one that its manifest names."""

    def get(self, contents: Contents, chunk: ChunkId) -> bytes:
        """The bytes that were put, or those of another upload of the same chunk where that one is lost or damaged.

        Raises `VaultDamaged` if none is whole.
        """

    def missing(self, contents: Contents) -> frozenset[ChunkId]:
        """The chunks whose upload is gone or has another size. Reads no chunk: what is damaged inside stays unseen."""

    def distrust(self, contents: Contents, chunks: Collection[ChunkId]) -> None:
        """Have later backups put these chunks anew. Nothing is deleted that a complete backup needs."""

    def keep(self, backup: Backup, lock: Lock) -> Backup:
        """Lock a backup and all that it needs for longer. Never shortens a lock."""

    def delete(self, tenant: TenantId, backup: str) -> None:
        """Delete that backup's manifest, complete or damaged; its chunks go with the next `collect`. Idempotent.

        Raises `StoreRefused`, and has deleted nothing, while it is locked or on legal hold.
        """

    def collect(self, tenant: TenantId, *, quiet_s: float) -> Collected:
        """Delete what no complete backup needs, and no unfinished one may use. Backups may be written meanwhile.

        Ends unfinished ones that have been quiet that long. Raises `VaultDamaged`, and has deleted nothing, if it
        cannot be known what some backup needs.
        """

    def locked(self, tenant: TenantId) -> Sequence[tuple[str, Lock | None]]:
        """Every version of an object of the tenant that the server keeps now: its key, and its lock (None: only a
        legal hold). Asks for each; for reports, not for loops."""
