"""What tests turn up in the stand-in: late reads, throttling, failures before and after the work, expiring page tokens.

Nothing of it happens by itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from tenure.estate.local.pinecone_stand_in.refusals import Refused

ANY: Final = "*"


class Dropped(Exception):
    """The connection is to be closed without an answer."""


@dataclass(kw_only=True)
class Fault:
    """What happens to the next `times` requests of an operation, after the first `skip` of them.

    `status` answers with it, 0 closes the connection. With `done` the work is done all the same; of an upsert with
    `records`, only that of the first ones. `delay_s` waits before the work.
    """

    operation: str = ANY
    times: int = 1
    skip: int = 0
    status: int | None = None
    retry_after_s: float | None = None
    delay_s: float = 0.0
    done: bool = False
    records: int | None = None

    def concerns(self, operation: str) -> bool:
        return self.times > 0 and self.operation in (ANY, operation)


@dataclass(kw_only=True)
class Behaviour:
    """How the stand-in behaves now."""

    lag_s: float = 0.0
    """How long a write stays invisible to reads."""
    frozen: bool = False
    """No write becomes visible at all."""
    lenient: bool = False
    """Writes to a namespace that is not there are no errors, and queries of it say no log sequence number: the vendor's
    pages do not say which it is."""
    shy: bool = False
    """A namespace is neither listed nor described, and queries of it say no log sequence number, before reads see what
    was written to it first: the vendor's pages do not say when it is."""
    token_pages: int | None = None
    """How many pages follow a listing's first one before its page token has expired; once."""
    faults: list[Fault] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    """How many requests of each operation came, refused ones included."""
    throttled: int = 0

    def fault(self, operation: str) -> Fault | None:
        """What is to happen to this request, counted off."""
        self.seen[operation] = self.seen.get(operation, 0) + 1
        for one in self.faults:
            if one.concerns(operation):
                if one.skip > 0:
                    one.skip -= 1
                    continue
                one.times -= 1
                return one
        return None

    def expired(self, pages: int) -> bool:
        """Whether the token of a listing that has given so many pages is to be refused now."""
        if self.token_pages is None or pages < self.token_pages:
            return False
        self.token_pages = None
        return True


def from_json(text: dict[str, Any]) -> Behaviour:
    """A behaviour from what a test has sent. Raises `TypeError` for what is none."""
    faults = [Fault(**one) for one in text.pop("faults", [])]
    return Behaviour(**text, faults=faults)


async def before(fault: Fault | None) -> None:
    """What the fault does before the work; raises if there is to be none."""
    if fault is None:
        return
    if fault.delay_s:
        await asyncio.sleep(fault.delay_s)
    if not fault.done and fault.records is None:
        after(fault)


def after(fault: Fault | None) -> None:
    """What the fault answers instead of the result."""
    if fault is None or fault.status is None:
        return
    if fault.status == 0:
        raise Dropped
    raise Refused(fault.status, "as a test has asked for", retry_after_s=fault.retry_after_s)
