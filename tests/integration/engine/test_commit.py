"""A commit whose answer is lost: afterwards it is certain whether it happened, or said that it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tenure.engine.context import CommitUndecided, StepContext
from tenure.engine.engine import Engine
from tenure.engine.spec import Done, StepOutcome
from tenure.errors import LeaseLost, StoreUnavailable
from tenure.estate.local import RunningEstate
from tenure.model.names import CellName
from tenure.model.operation import Operation, OperationState
from tenure.model.tenancy import Placement
from tenure.registry.registry import Registry
from tests.integration.engine.conftest import ACME
from tests.integration.engine.sample_operation import SAMPLE, with_step

GREEN = CellName("green")
Swap = Callable[..., Placement]


class Wire:
    """Stands between the step and the database: for each swap, what becomes of the question and of the answer."""

    def __init__(self, swap: Swap, *fates: str) -> None:
        self._swap = swap
        self._fates = list(fates)
        self.late: list[Callable[[], Placement]] = []

    def __call__(self, *args: Any, **named: Any) -> Placement:
        fate = self._fates.pop(0) if self._fates else "arrives"
        if fate == "arrives":
            return self._swap(*args, **named)
        if fate == "answer lost":
            self._swap(*args, **named)
        if fate == "late":
            self.late.append(lambda: self._swap(*args, **named))
        raise StoreUnavailable("the connection broke")


@pytest.mark.parametrize(
    "fates",
    [
        ("answer lost",),
        ("question lost",),
        ("question lost", "answer lost"),
        ("late",),
        ("late", "answer lost"),
    ],
)
def test_a_commit_over_a_broken_connection_happens_exactly_once(
    engine: Engine,
    registry: Registry,
    operation: Operation,
    monkeypatch: pytest.MonkeyPatch,
    fates: tuple[str, ...],
) -> None:
    wire = Wire(registry.placements.compare_and_swap, *fates)
    monkeypatch.setattr(registry.placements, "compare_and_swap", wire)
    ended = engine.run(operation.id, SAMPLE)
    assert ended.state is OperationState.SOAKING
    assert [s.attempt for s in registry.steps.list(operation.id)] == [1, 1, 1, 1]
    for late in wire.late:
        with pytest.raises(LeaseLost):
            late()
    assert [(c.cell, c.epoch) for c in registry.placements.history(ACME)] == [("blue", 1), ("green", 2)]


def test_after_a_commit_that_failed_the_lost_one_cannot_happen_any_more(
    engine: Engine, registry: Registry, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step opens the source again after that error: a swap that arrives then would make two writers."""
    wire = Wire(registry.placements.compare_and_swap, "late", "late")
    monkeypatch.setattr(registry.placements, "compare_and_swap", wire)
    opened_again: list[int] = []

    def switch(context: StepContext) -> StepOutcome:
        try:
            context.commit(expected_epoch=1, to_cell=GREEN)
        except CommitUndecided:
            pytest.fail("the database is there: it can be known")
        except StoreUnavailable:
            opened_again.append(registry.placements.get(ACME).epoch)
            for late in wire.late:
                with pytest.raises(LeaseLost):
                    late()
            wire.late.clear()
            context.event("source_opened_again")
            raise
        return Done()

    ended = engine.run(operation.id, with_step("switch", switch))
    assert opened_again == [1]
    assert ended.state is OperationState.SOAKING, "the second attempt goes through"
    assert registry.steps.list(operation.id)[2].attempt == 2


def test_a_commit_that_cannot_be_decided_says_so(
    engine: Engine, registry: Registry, operation: Operation, servers: RunningEstate
) -> None:
    told: list[str] = []

    def switch(context: StepContext) -> StepOutcome:
        if not told:
            servers.stop("control")
            try:
                context.commit(expected_epoch=1, to_cell=GREEN, decide_within_s=0.2)
            except CommitUndecided as error:
                told.append(error.message)
                raise
            finally:
                servers.start("control")
        context.commit(expected_epoch=1, to_cell=GREEN)
        return Done()

    assert engine.run(operation.id, with_step("switch", switch)).state is OperationState.SOAKING
    assert len(told) == 1
    assert "it is not known whether" in told[0]


def test_a_commit_whose_answer_and_lease_are_lost_is_not_taken_for_one_that_did_not_happen(
    engine: Engine, registry: Registry, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step would open the source again, after the placement has changed."""
    swap = registry.placements.compare_and_swap

    def cut_off(*args: Any, **named: Any) -> Placement:
        swap(*args, **named)
        registry.steps.renew(
            args[0]
        )  # a takeover, or this process's own exchange of the token with its answer lost
        raise StoreUnavailable("the connection broke")

    monkeypatch.setattr(registry.placements, "compare_and_swap", cut_off)
    told: list[str] = []

    def switch(context: StepContext) -> StepOutcome:
        with pytest.raises(CommitUndecided) as undecided:
            context.commit(expected_epoch=1, to_cell=GREEN)
        told.append(undecided.value.message)
        raise undecided.value

    with pytest.raises(LeaseLost):
        engine.run(operation.id, with_step("switch", switch))
    assert len(told) == 1
    assert registry.placements.get(ACME).cell == GREEN
