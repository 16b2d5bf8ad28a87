"""The fence: the key pattern of the tenant's ACL user is turned into a read-only one, and back, in one transaction with
the record of who did it. A user of any other shape is left alone; then the record is all there is.

In a cluster every master has the user and records of its own, and every replica the user, for the day it is promoted:
the fence is down where it is down on all of them, and a token is checked on each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import redis

from tenure.errors import FenceRefused, StoreRefused, StoreUnavailable
from tenure.stores.contract import Fence
from tenure.stores.redis.keyspace import Keyspace
from tenure.stores.redis.nodes import Node, Nodes

ATTEMPTS: Final = 50
_NO_ACL_FILE: Final = "not configured to use an ACL file"
_READ: Final = """
local found = {redis.call('HGETALL', KEYS[1])}
for i = 1, #ARGV do found[i + 1] = redis.call('HGETALL', ARGV[i]) end
return found
"""
_EDIT: Final = """
local edit = cjson.decode(ARGV[1])
for i = 1, #ARGV do
  local key = i == 1 and KEYS[1] or ARGV[i]
  if edit.anew then redis.call('DEL', key) end
  for name, value in pairs(edit.fields) do redis.call('HSET', key, name, value) end
  for _, name in ipairs(edit.without) do redis.call('HDEL', key, name) end
end
"""
"""A master of a cluster has a record in each of several slots, so that one is there wherever slots move to."""


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


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What becomes of a record: deleted first if `anew`, then these fields are set and those removed."""

    anew: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()


def accepts(record: Record, user: AppUser) -> bool:
    """Whether the tenant's writes are accepted: the ACL user decides; without one of ours, the record."""
    return user is AppUser.OPEN if user.ours else record.writable


@dataclass(frozen=True, kw_only=True)
class Held:
    """How a store stands: the record of the newest token, the ACL user, and whether any server accepts writes."""

    record: Record
    user: AppUser
    writable: bool


class Fencing:
    """Changes one tenant's record and ACL user together: WATCH and MULTI leave no moment in which an older holder could
    come between."""

    def __init__(self, nodes: Nodes, keyspace: Keyspace, user: str | None) -> None:
        self._nodes = nodes
        self._keys = keyspace
        self._user = user

    def read(self) -> Held:
        topology = self._nodes.agreed()
        seen = self._nodes.on_each(topology.masters, self._read)
        others = self._nodes.on_each(topology.others, self.app_user)
        return Held(
            record=max((record for record, _ in seen), key=lambda record: record.token),
            user=_together([*(user for _, user in seen), *others]),
            writable=any(accepts(record, user) for record, user in seen) or AppUser.OPEN in others,
        )

    def app_user(self, node: Node) -> AppUser:
        """How the ACL user stands on one server."""
        return self._state(None if self._user is None else node.client.execute_command(*self._get_user()))

    def fence(self, fence: Fence) -> None:
        def decide(record: Record, user: AppUser) -> Edit | None:
            if record == _with(record, fence, writable=False) and user is not AppUser.OPEN:
                return None
            return Edit(fields=_fields(fence, writable=False))

        self._change(fence, decide, user=AppUser.FENCED)
        self._save()

    def open(self, fence: Fence) -> None:
        """Without a link, opening forgets the record; with one, the record keeps smaller tokens out."""

        def decide(record: Record, user: AppUser) -> Edit | None:
            if not record.exists and user is not AppUser.FENCED:
                return None
            return Edit(fields=_fields(fence, writable=True)) if record.link else Edit(anew=True)

        if self._change(fence, decide, user=AppUser.OPEN):
            self._save()

    def retire(self, fence: Fence) -> None:
        """As `fence`, without a trace of a link. Raises `StoreRefused` while one holds the store."""

        def decide(record: Record, user: AppUser) -> Edit | None:  # noqa: ARG001
            if record.link:
                raise StoreRefused(
                    f"{self._keys.tenant} is still linked here",
                    hint="stop the copies of the link before the tenant leaves",
                )
            return Edit(anew=True, fields=_fields(fence, writable=False))

        self._change(fence, decide, user=AppUser.FENCED)
        self._save()

    def check(self, fence: Fence) -> None:
        """Raise `FenceRefused` if a newer holder has been here."""
        for node in self._nodes.agreed().masters:
            self._check_token(self._record(node), fence)

    def claim(self, fence: Fence) -> None:
        """Refuse holders of smaller tokens from now on, if there is a record."""

        def decide(record: Record, user: AppUser) -> Edit | None:
            if not record.exists or record.token == fence.token:
                return None
            return Edit(fields=_fields(fence, writable=accepts(record, user)))

        self._change(fence, decide)

    def join(self, fence: Fence, link: str, *, copier: str | None = None, fenced: bool = False) -> None:
        """Note that a link holds this store, and with `copier` who copies into it from now on (nobody else may).

        With `fenced`, raises `FenceRefused` if the store accepts the tenant's writes.
        """

        def decide(record: Record, user: AppUser) -> Edit | None:
            writable = accepts(record, user)
            if fenced and writable:
                raise FenceRefused(
                    f"{self._keys.tenant} is not fenced in the target",
                    hint="fence the target before the copy starts",
                )
            fields = {**_fields(fence, writable=writable), "link": link}
            return Edit(fields=fields if copier is None else {**fields, "copier": copier})

        self._change(fence, decide)

    def release(self, fence: Fence, link: str) -> None:
        """Forget the link. The record goes as well where the store is open; a fence stays down."""

        def decide(record: Record, user: AppUser) -> Edit | None:
            if not record.exists or record.link not in ("", link):
                return None
            return Edit(anew=True) if accepts(record, user) else Edit(without=("link", "copier"))

        self._change(fence, decide)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _records(self, node: Node) -> tuple[bytes, ...]:
        return tuple(self._keys.record(tag) for tag in (node.tag, *node.tags[1:]))

    def _record(self, node: Node) -> Record:
        first, *more = self._records(node)
        return _newest(node.client.eval(_READ, 1, first, *more))

    def _read(self, node: Node) -> tuple[Record, AppUser]:
        first, *more = self._records(node)
        pipe = node.client.pipeline(transaction=False)
        pipe.eval(_READ, 1, first, *more)
        if self._user is not None:
            pipe.execute_command(*self._get_user())
        answers = pipe.execute()
        return _newest(answers[0]), self._state(answers[1] if self._user is not None else None)

    def _get_user(self) -> tuple[str, str, str]:
        return ("ACL", "GETUSER", self._user or "")

    def _state(self, answer: Any) -> AppUser:
        return app_user(answer, self._keys.prefix) if self._user is not None else AppUser.MISSING

    # -- changing ----------------------------------------------------------------------------------------------------

    def _change(
        self, fence: Fence, decide: Callable[[Record, AppUser], Edit | None], *, user: AppUser | None = None
    ) -> bool:
        """Have `decide` say for every master what becomes of the record, and give the ACL user this state everywhere.

        What `decide` refuses on one master is refused before anything is changed on another.
        """
        topology = self._nodes.agreed()
        if user is AppUser.FENCED and topology.failed:
            raise StoreUnavailable(
                f"{', '.join(topology.failed)} is down and cannot be fenced: it would be open when it comes back",
                hint="bring it back, or make the cluster forget it (CLUSTER FORGET) if it is gone for good",
            )
        if len(topology.masters) > 1:
            for record, seen in self._nodes.on_each(topology.masters, self._read):
                self._check_token(record, fence)
                decide(record, seen)
        changed = self._nodes.on_each(
            topology.masters, lambda node: self._change_on(node, fence, decide, user)
        )
        if self._user is not None and user is not None:
            changed += self._nodes.on_each(topology.others, lambda node: self._set_user(node, user))
        return any(changed)

    def _set_user(self, node: Node, wanted: AppUser) -> bool:
        """On a server that keeps no record of its own."""
        pipe = node.client.pipeline(transaction=False)
        if not self._set_pattern(pipe, self.app_user(node), wanted):
            return False
        pipe.execute()
        return True

    def _change_on(
        self,
        node: Node,
        fence: Fence,
        decide: Callable[[Record, AppUser], Edit | None],
        wanted: AppUser | None,
    ) -> bool:
        first, *more = self._records(node)
        for _ in range(ATTEMPTS):
            with node.client.pipeline(transaction=True) as pipe:
                pipe.watch(first)
                record = _newest(pipe.eval(_READ, 1, first, *more))
                self._check_token(record, fence)
                user = self._state(
                    pipe.execute_command(*self._get_user()) if self._user is not None else None
                )
                edit = decide(record, user)
                if edit is None:
                    return False
                pipe.multi()
                pipe.eval(_EDIT, 1, first, _argument(edit), *more)
                if wanted is not None:
                    self._set_pattern(pipe, user, wanted)
                try:
                    pipe.execute()
                except redis.WatchError:
                    continue
                return True
        raise StoreUnavailable(f"the fence of {fence.tenant} is being changed by others all the time")

    def _set_pattern(self, pipe: Any, user: AppUser, wanted: AppUser) -> bool:
        if not user.ours or user is wanted:
            return False
        pattern = open_pattern if wanted is AppUser.OPEN else fenced_pattern
        pipe.execute_command("ACL", "SETUSER", self._user, "resetkeys", pattern(self._keys.prefix))
        return True

    @staticmethod
    def _check_token(record: Record, fence: Fence) -> None:
        if record.token > fence.token:
            raise FenceRefused(
                f"the fence of {fence.tenant} belongs to a newer holder ({record.token} > {fence.token})",
                hint="another process has taken this operation over",
            )

    def _save(self) -> None:
        """Let the change outlive a restart, where the servers keep their users in files of their own."""
        if self._user is None:
            return
        self._nodes.on_each(self._nodes.current().nodes, _save_users)


def _save_users(node: Node) -> None:
    try:
        node.client.execute_command("ACL", "SAVE")
    except redis.ResponseError as error:
        if _NO_ACL_FILE not in str(error):
            raise


def _newest(answers: Any) -> Record:
    """The newest of a server's records: what moved here with slots can be older."""
    parsed = (Record.parse(dict(zip(a[::2], a[1::2], strict=True))) for a in answers)
    return max(parsed, key=lambda record: record.token)


def _together(users: list[AppUser]) -> AppUser:
    """One answer for several servers: open where any is, and whatever is no user of ours before fenced."""
    for state in (AppUser.OPEN, AppUser.OTHER, AppUser.MISSING):
        if state in users:
            return state
    return AppUser.FENCED


def _argument(edit: Edit) -> str:
    return json.dumps({"anew": edit.anew, "fields": edit.fields, "without": edit.without})


def _fields(fence: Fence, *, writable: bool) -> dict[str, str]:
    return {"writable": str(int(writable)), "epoch": str(fence.epoch), "token": str(fence.token)}


def _with(record: Record, fence: Fence, *, writable: bool) -> Record:
    return Record(
        exists=True,
        writable=writable,
        epoch=fence.epoch,
        token=fence.token,
        link=record.link,
        copier=record.copier,
    )
