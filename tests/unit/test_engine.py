"""The engine's parts that need no database: specs, outcomes, holders and observers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from typing import cast

import pytest

from tenure.engine.attempt import backoff_s, error_document, outcome_of
from tenure.engine.context import StepContext
from tenure.engine.holder import is_gone, this_process
from tenure.engine.observer import Notice, Waiting, compose, nobody
from tenure.engine.settings import EngineSettings
from tenure.engine.spec import Done, Failed, OperationSpec, Park, Retry, StepOutcome, StepSpec
from tenure.errors import Cancelled, LeaseLost, StoreRefused, StoreUnavailable
from tenure.model.operation import OperationState

NO_CONTEXT = cast(StepContext, None)
SETTINGS = EngineSettings()


def _raising(error: BaseException) -> StepSpec:
    def run(context: StepContext) -> StepOutcome:
        raise error

    return StepSpec(name="copy", run=run, backoff_s=2.0)


def _outcome(error: BaseException, used: int = 1) -> StepOutcome:
    return outcome_of(_raising(error), NO_CONTEXT, settings=SETTINGS, used=used)


def test_a_retryable_error_becomes_a_retry_with_growing_pauses() -> None:
    away = StoreUnavailable("away")
    assert _outcome(away) == Retry(after_s=2.0, reason="away", error=away)
    assert _outcome(away, used=3) == Retry(after_s=8.0, reason="away", error=away)


def test_pauses_are_bounded_however_often_it_failed() -> None:
    assert backoff_s(_raising(KeyError()), 500, SETTINGS) == SETTINGS.backoff_max_s


@pytest.mark.parametrize("error", [StoreRefused("no", hint="ask"), Cancelled("stop")])
def test_other_errors_of_tenure_fail_the_step(error: StoreRefused | Cancelled) -> None:
    assert _outcome(error) == Failed(error=error)


def test_an_unknown_exception_fails_the_step_with_its_type() -> None:
    outcome = _outcome(KeyError("where"))
    assert isinstance(outcome, Failed)
    document = error_document(outcome.error, "copy")
    assert document["type"] == "KeyError"
    assert document["code"] == "failed"
    assert document["step"] == "copy"
    assert isinstance(outcome.error.__cause__, KeyError)


@pytest.mark.parametrize("error", [LeaseLost("taken over"), KeyboardInterrupt(), SystemExit(1)])
def test_a_lost_lease_and_an_interruption_are_no_outcomes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        _outcome(error)


def test_an_error_document_keeps_code_and_hint_and_can_be_stored() -> None:
    assert error_document(StoreRefused("n\0o", hint="ask"), "copy") == {
        "code": "store_refused",
        "message": "no",
        "hint": "ask",
        "step": "copy",
        "type": "StoreRefused",
    }


def _done(context: StepContext) -> StepOutcome:
    return Done()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: OperationSpec(kind="k", steps=(StepSpec(name="a", run=_done), StepSpec(name="a", run=_done))),
        lambda: OperationSpec(kind="k", steps=(StepSpec(name="abort", run=_done),)),
        lambda: OperationSpec(kind="k", steps=(), ends_in=OperationState.ABORTED),
        lambda: Park(until=datetime(2026, 1, 1), reason="no zone"),  # noqa: DTZ001
        lambda: EngineSettings(lease_ttl_s=1, heartbeat_s=1),
        lambda: EngineSettings(heartbeat_s=0),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        wrong()


def test_a_living_process_is_not_gone_and_a_dead_one_is() -> None:
    assert not is_gone(this_process())
    code = "from tenure.engine.holder import this_process; print(this_process(), flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    holder = process.stdout.readline().strip()
    assert holder.split(":")[1] == str(process.pid)
    assert not is_gone(holder)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(holder), "a killed process that nobody has waited for is gone too"
    process.communicate(timeout=10)
    assert is_gone(holder)


def test_another_process_with_the_same_number_is_not_the_holder() -> None:
    host, pid, started = this_process().split(":")
    assert is_gone(f"{host}:{pid}:{int(started) - 1}")


@pytest.mark.parametrize("elsewhere", ["other.host:1:2", "", "nonsense", "a:b:c", "{host}:x:1", "{host}:1:0"])
def test_a_holder_of_whom_nothing_is_known_counts_as_alive(elsewhere: str) -> None:
    assert not is_gone(elsewhere.replace("{host}", this_process().split(":")[0]))
    assert not is_gone(None)


def test_observers_are_told_in_their_order() -> None:
    told: list[tuple[str, Notice]] = []
    notice = Waiting(operation="op_1", step="copy", due_in_s=1)
    compose(lambda n: told.append(("first", n)), nobody, lambda n: told.append(("second", n)))(notice)
    assert told == [("first", notice), ("second", notice)]
    assert notice.at_ns > 0
