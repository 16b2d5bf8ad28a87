"""The fence: the key pattern of the tenant's ACL user is turned into a read-only one, and back, in one transaction with
the record of who did it. A user of any other shape is left alone; then the record is all there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import redis

from tenure.errors import FenceRefused, StoreRefused, StoreUnavailable
from tenure.stores.contract import Fence
from tenure.stores.redis.keyspace import Keyspace

ATTEMPTS: Final = 50
_NO_ACL_FILE: Final = "not configured to use an ACL file"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the hash `tenure:fence:<tenant>` says. `copier` is the one process that may copy into this store."""

    exists: bool = False
    writable: bool = True
    epoch: int = 0
    token: int = 0
    link: str = ""
    copier: str = ""

    @classmethod
    def parse(cls, fields: dict[bytes, bytes]) -> Record:
        if not fields:
            return cls()
        return cls(
            exists=True,
            writable=fields.get(b"writable", b"1") != b"0",
            epoch=int(fields.get(b"epoch", 0)),
            token=int(fields.get(b"token", 0)),
            link=fields.get(b"link", b"").decode(),
            copier=fields.get(b"copier", b"").decode(),
        )


class AppUser(Enum):
    """How the tenant's ACL user stands."""

    OPEN = "open"
    FENCED = "fenced"
    MISSING = "missing"
    OTHER = "other"
    """Its patterns are not exactly the tenant's prefix: Tenure does not touch it."""

    @property
    def ours(self) -> bool:
        return self in (AppUser.OPEN, AppUser.FENCED)


def open_pattern(prefix: bytes) -> bytes:
    return b"~" + prefix + b"*"


def fenced_pattern(prefix: bytes) -> bytes:
    return b"%R~" + prefix + b"*"


def app_user(answer: Any, prefix: bytes) -> AppUser:
    """Read an answer to ACL GETUSER (version 6: patterns as a list; 7 and later: one string)."""
    if answer is None:
        return AppUser.MISSING
    fields = dict(zip(answer[::2], answer[1::2], strict=True)) if isinstance(answer, list) else answer
    keys = fields[b"keys"]
    patterns = keys.split() if isinstance(keys, bytes) else [k if k[:1] in b"~%" else b"~" + k for k in keys]
    if fields.get(b"selectors"):
        return AppUser.OTHER
    if patterns == [open_pattern(prefix)]:
        return AppUser.OPEN
    if patterns == [fenced_pattern(prefix)]:
        return AppUser.FENCED
    return AppUser.OTHER


def accepts(record: Record, user: AppUser) -> bool:
    """Whether the tenant's writes are accepted: the ACL user decides; without one of ours, the record."""
    return user is AppUser.OPEN if user.ours else record.writable


class Fencing:
    """Changes one tenant's record and ACL user together: WATCH and MULTI leave no moment in which an older holder could
    come between."""

    def __init__(self, client: Any, keyspace: Keyspace, user: str | None) -> None:
        self._client = client
        self._keys = keyspace
        self._user = user

    def read(self) -> tuple[Record, AppUser]:
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(self._keys.record)
        if self._user is not None:
            pipe.execute_command("ACL", "GETUSER", self._user)
        answers = pipe.execute()
        return Record.parse(answers[0]), self._state(answers[1] if self._user is not None else None)

    def fence(self, fence: Fence) -> None:
        def change(pipe: Any, record: Record, user: AppUser) -> bool:
            if record == _with(record, fence, writable=False) and user is not AppUser.OPEN:
                return False
            pipe.hset(self._keys.record, mapping=_fields(fence, writable=False))
            self._set_pattern(pipe, user, AppUser.FENCED)
            return True

        self._change(fence, change)
        self._save()

    def open(self, fence: Fence) -> None:
        """Without a link, opening forgets the record; with one, the record keeps smaller tokens out."""

        def change(pipe: Any, record: Record, user: AppUser) -> bool:
            if not record.exists and user is not AppUser.FENCED:
                return False
            if record.link:
                pipe.hset(self._keys.record, mapping=_fields(fence, writable=True))
            else:
                pipe.delete(self._keys.record)
            self._set_pattern(pipe, user, AppUser.OPEN)
            return True

        if self._change(fence, change):
            self._save()

    def retire(self, fence: Fence) -> None:
        """As `fence`, without a trace of a link. Raises `StoreRefused` while one holds the store."""

        def change(pipe: Any, record: Record, user: AppUser) -> bool:
            if record.link:
                raise StoreRefused(
                    f"{self._keys.tenant} is still linked here",
                    hint="stop the copies of the link before the tenant leaves",
                )
            pipe.delete(self._keys.record)
            pipe.hset(self._keys.record, mapping=_fields(fence, writable=False))
            self._set_pattern(pipe, user, AppUser.FENCED)
            return True

        self._change(fence, change)
        self._save()

    def check(self, fence: Fence) -> None:
        """Raise `FenceRefused` if a newer holder has been here."""
        self._check_token(Record.parse(self._client.hgetall(self._keys.record)), fence)

    def claim(self, fence: Fence) -> None:
        """Refuse holders of smaller tokens from now on, if there is a record."""

        def change(pipe: Any, record: Record, user: AppUser) -> bool:
            if not record.exists or record.token == fence.token:
                return False
            pipe.hset(self._keys.record, mapping=_fields(fence, writable=accepts(record, user)))
            return True

        self._change(fence, change)

    def join(self, fence: Fence, link: str, *, copier: str | None = None, fenced: bool = False) -> None:
        """Note that a link holds this store, and with `copier` who copies into it from now on (nobody else may).

        With `fenced`, raises `FenceRefused` if the store accepts the tenant's writes.
        """

        def change(pipe: Any, record: Record, user: AppUser) -> bool:
            writable = accepts(record, user)
            if fenced and writable:
                raise FenceRefused(
                    f"{self._keys.tenant} is not fenced in the target",
                    hint="fence the target before the copy starts",
                )
            fields = {**_fields(fence, writable=writable), "link": link}
            if copier is not None:
                fields["copier"] = copier
            pipe.hset(self._keys.record, mapping=fields)
            return True

        self._change(fence, change)

    def release(self, fence: Fence, link: str) -> None:
        """Forget the link. The record goes as well where the store is open; a fence stays down."""

        def change(pipe: Any, record: Record, user: AppUser) -> bool:
            if not record.exists or record.link not in ("", link):
                return False
            if accepts(record, user):
                pipe.delete(self._keys.record)
            else:
                pipe.hdel(self._keys.record, "link", "copier")
            return True

        self._change(fence, change)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _state(self, answer: Any) -> AppUser:
        return app_user(answer, self._keys.prefix) if self._user is not None else AppUser.MISSING

    def _set_pattern(self, pipe: Any, user: AppUser, wanted: AppUser) -> None:
        if not user.ours or user is wanted:
            return
        pattern = open_pattern if wanted is AppUser.OPEN else fenced_pattern
        pipe.execute_command("ACL", "SETUSER", self._user, "resetkeys", pattern(self._keys.prefix))

    def _change(self, fence: Fence, change: Callable[[Any, Record, AppUser], bool]) -> bool:
        for _ in range(ATTEMPTS):
            with self._client.pipeline(transaction=True) as pipe:
                pipe.watch(self._keys.record)
                record = Record.parse(pipe.hgetall(self._keys.record))
                self._check_token(record, fence)
                user = self._state(
                    pipe.execute_command("ACL", "GETUSER", self._user) if self._user is not None else None
                )
                pipe.multi()
                if not change(pipe, record, user):
                    return False
                try:
                    pipe.execute()
                except redis.WatchError:
                    continue
                return True
        raise StoreUnavailable(f"the fence of {fence.tenant} is being changed by others all the time")

    @staticmethod
    def _check_token(record: Record, fence: Fence) -> None:
        if record.token > fence.token:
            raise FenceRefused(
                f"the fence of {fence.tenant} belongs to a newer holder ({record.token} > {fence.token})",
                hint="another process has taken this operation over",
            )

    def _save(self) -> None:
        """Let the change outlive a restart, where the server keeps its users in a file of their own."""
        if self._user is None:
            return
        try:
            self._client.execute_command("ACL", "SAVE")
        except redis.ResponseError as error:
            if _NO_ACL_FILE not in str(error):
                raise


def _fields(fence: Fence, *, writable: bool) -> dict[str, str | int]:
    return {"writable": int(writable), "epoch": fence.epoch, "token": fence.token}


def _with(record: Record, fence: Fence, *, writable: bool) -> Record:
    return Record(
        exists=True,
        writable=writable,
        epoch=fence.epoch,
        token=fence.token,
        link=record.link,
        copier=record.copier,
    )
