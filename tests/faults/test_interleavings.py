"""Random writes at random points of random moves, with aborts, rollbacks and kills in between: what was acknowledged is
what is there, and nothing else.

Every write is made by the test itself at a named point of the operation, so a failing example is the same each time and
shrinks. `make test` runs a few fixed examples; `make faults` many, by a seed that Hypothesis prints
(`ARGS=--hypothesis-seed=N` repeats it).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tenure.engine.observer import Notice, PointReached, StepEnded
from tenure.model.operation import Operation, OperationState
from tests.estate import TestEstate
from tests.faults.app import App, app_of

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)

SLOTS: Final = (
    "before",
    "provision.started",
    "catch_up.following",
    "verify.equal",
    "prepare.equal",
    "arm.reverse",
    "switch.ready",
    "switch.held",
    "switch.fenced",
    "switch.sealed",
    "switch.closed",
    "switch.committed",
    "switch.opened",
    "switch.released",
    "settle.following",
    "settle.equal",
    "after",
)
KILLED_AT: Final = ("provision.started", "verify.equal", "switch.fenced", "switch.closed", "switch.committed")
WRITES: Final = (
    "upsert",
    "upsert",
    "update",
    "delete",
    "bulk",
    "savepoint",
    "begin_long",
    "set_key",
    "set_key_that_expires",
    "set_key_for_a_moment",
    "delete_key",
    "put_object",
    "put_object",
    "delete_object",
)


@dataclass(frozen=True)
class Write:
    what: str
    n: int

    def make(self, app: App) -> bool:
        match self.what:
            case "set_key":
                return app.set_key(self.n, expires=False)
            case "set_key_that_expires":
                return app.set_key(self.n, expires=True)
            case _:
                made: bool = getattr(app, self.what)(self.n)
                return made


@dataclass(frozen=True)
class Round:
    """One operation and the writes around and inside it. `killed_at`: where its process dies before that, if it does;
    `then`: what ends that one."""

    command: str
    writes: Mapping[str, tuple[Write, ...]]
    killed_at: str | None
    then: str


writes = st.builds(Write, st.sampled_from(WRITES), st.integers(0, 4))
rounds = st.builds(
    Round,
    st.sampled_from(["move", "move", "back", "complete"]),
    st.dictionaries(st.sampled_from(SLOTS), st.lists(writes, min_size=1, max_size=3).map(tuple), max_size=6),
    st.none() | st.none() | st.sampled_from(KILLED_AT),
    st.sampled_from(["resume", "cancel"]),
)


class Interleaver:
    """Makes a round's writes when their points are reached, each set once."""

    def __init__(self, app: App, planned: Mapping[str, tuple[Write, ...]]) -> None:
        self._app = app
        self._left = dict(planned)

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, PointReached):
            self.at(notice.point)
        elif isinstance(notice, StepEnded):
            self._app.end_long()

    def at(self, slot: str) -> None:
        for write in self._left.pop(slot, ()):
            acknowledged = write.make(self._app)
            note(f"{slot}: {write.what} {write.n}: {'acknowledged' if acknowledged else 'refused'}")


class Estate:
    """One example: a tenant, its app, and where it should be served."""

    def __init__(self, estate: TestEstate, tenant: str, app: App) -> None:
        self._estate = estate
        self._tenant = tenant
        self._app = app
        self.cell = "blue"
        self._linked = False

    def run(self, round_: Round) -> None:
        interleave = Interleaver(self._app, round_.writes)
        interleave.at("before")
        command = round_.command if self._linked else "move"
        if command == "complete":
            self._app.end_long()
            self._complete()
        else:
            self._switch(command, round_, interleave)
        interleave.at("after")
        self._app.end_long()

    def _switch(self, command: str, round_: Round, interleave: Interleaver) -> None:
        other = "green" if self.cell == "blue" else "blue"
        if command == "back" and other != "blue":
            command = "move"  # a rollback goes to where the tenant came from
        arguments = ("rollback", self._tenant) if command == "back" else ("migrate", self._tenant, other)
        unfinished = None
        if round_.killed_at is not None:
            self._app.end_long()
            died = self._estate.killed_at(round_.killed_at, *arguments)
            note(f"{arguments} killed at {round_.killed_at}: {died.exit_code}")
            if died.exit_code == -9:
                with self._estate.service() as service:
                    (latest, *_) = service.operations(tenant=self._tenant, limit=1)
                unfinished = latest
        with self._estate.service() as service:
            if unfinished is None and round_.killed_at is not None:
                assert died.exit_code == 0, died.stderr  # it never came to that point
                done = service.operations(tenant=self._tenant, limit=1)[0]
            elif unfinished is None and command == "back":
                done = service.rollback(self._tenant, apply=None, observer=interleave)
            elif unfinished is None:
                done = service.migrate(self._tenant, other, apply=None, observer=interleave)
            elif round_.then == "cancel" and unfinished.committed_at is None:
                done = service.cancel(unfinished.id, interleave)
            else:
                done = service.resume(unfinished.id, interleave)
            note(f"{arguments}: {done.state} {done.error or ''}")
            self._linked = service.status(self._tenant).link is not None
        if switched(done):
            self.cell = other

    def _complete(self) -> None:
        done = self._estate.command("complete", self._tenant, "--yes", self._tenant)
        assert done.exit_code == 0, done.stderr
        self._linked = False

    def finish(self) -> None:
        """What was acknowledged is in the serving cell; the link ends, and nothing is left of it."""
        self._app.await_expiry()
        assert self._estate.command("tenant", "show", self._tenant, "--json").json["cell"] == self.cell
        if self._linked:
            # Nothing has followed what was written to keys and objects after the last operation.
            for arguments in (("--repair",), ()):
                seen = self._estate.command("verify", self._tenant, *arguments)
                assert seen.exit_code == 0, seen.stderr
        assert self._app.found(self.cell) == self._app.acknowledged
        if self._linked:
            self._complete()
        assert self._app.found(self.cell) == self._app.acknowledged
        assert self._estate.left_behind(self._tenant) == []

    def abandon(self) -> None:
        """After a failure: end what there is, as far as that goes, so that the next example has the servers' room."""
        with self._estate.service() as service:
            for operation in service.operations(tenant=self._tenant, limit=1):
                if operation.state.unfinished:
                    self._estate.command("op", "cancel", operation.id)
        self._estate.command("complete", self._tenant, "--yes", self._tenant)


def switched(operation: Operation) -> bool:
    ended = (OperationState.SOAKING, OperationState.SUCCEEDED)
    assert operation.state in (*ended, OperationState.ABORTED), operation
    return operation.state in ended


@pytest.mark.timeout(3600)
def test_whatever_happens_what_was_acknowledged_is_there(
    cells_estate: TestEstate, request: pytest.FixtureRequest
) -> None:
    every: bool = request.config.getoption("--every-point", default=False)

    @settings(
        max_examples=60 if every else 4,
        derandomize=not every,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.lists(rounds, min_size=1, max_size=3))
    def example(plan: list[Round]) -> None:
        tenant = f"mixed-{next(_numbers)}"
        cells_estate.add_tenant(tenant)
        with app_of(cells_estate, tenant) as app:
            this = Estate(cells_estate, tenant, app)
            try:
                for round_ in plan:
                    this.run(round_)
                this.finish()
            except BaseException:
                this.abandon()
                raise

    example()
