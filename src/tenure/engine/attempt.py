"""Turns whatever one attempt of a step does, raising included, into one of the five outcomes."""

from __future__ import annotations

import logging

from tenure.engine.context import StepContext
from tenure.engine.settings import EngineSettings
from tenure.engine.spec import Done, Failed, OperationSpec, Retry, StepOutcome, StepSpec
from tenure.errors import LeaseLost, TenureError
from tenure.model.operation import JsonObject

log = logging.getLogger(__name__)


class StepCrashed(TenureError):
    """A step ended with an exception that Tenure does not raise: a defect, or something nobody thought of."""

    def __init__(self, step: str, kind: str, message: str) -> None:
        super().__init__(
            f"the step {step!r} ended with an unexpected error: {kind}: {message}",
            hint="this is a defect: report it with the operation's journal (`tenure op show`)",
        )
        self.kind = kind


class AttemptsExhausted(TenureError):
    """A step was tried as often as it may be; the message says what happened last, and `last` is that error."""

    def __init__(self, message: str, *, last: TenureError | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=(last.hint if last else None) or hint)
        self.last = last


def outcome_of(spec: StepSpec, context: StepContext, *, settings: EngineSettings, used: int) -> StepOutcome:
    """Run the step once and give its outcome. Raises only `LeaseLost`, after which nothing may be recorded."""
    try:
        return spec.run(context)
    except LeaseLost:
        raise
    except TenureError as error:
        if error.retryable:
            return Retry(after_s=backoff_s(spec, used, settings), reason=error.message, error=error)
        return Failed(error=error)
    except Exception as error:
        # The one place for it: whatever it was that the step failed with is recorded, unretried, with its type.
        log.exception("step_crashed", extra={"action": "step_crashed", "step": spec.name})
        crashed = StepCrashed(spec.name, type(error).__qualname__, str(error))
        crashed.__cause__ = error
        return Failed(error=crashed)


def backoff_s(spec: StepSpec, used: int, settings: EngineSettings) -> float:
    """Say how long to wait after that many attempts: doubled with each, up to a limit."""
    return float(min(spec.backoff_s * 2 ** max(used - 1, 0), settings.backoff_max_s))


def error_document(error: TenureError, step: str) -> JsonObject:
    """Describe an error for the journal: code, message, hint, the step and the exception's type.

    Attempts that are used up are reported under the code and type of the last one's error.
    """
    cause = error.last or error if isinstance(error, AttemptsExhausted) else error
    return {
        "code": cause.code,
        "message": error.message.replace("\0", ""),
        "hint": error.hint,
        "step": step,
        "type": cause.kind if isinstance(cause, StepCrashed) else type(cause).__qualname__,
    }


def abort_step(spec: OperationSpec, name: str) -> StepSpec:
    """Give the operation's abort the shape of a step."""

    def run(context: StepContext) -> StepOutcome:
        if spec.abort is not None:
            spec.abort(context)
        return Done()

    return StepSpec(
        name=name, run=run, max_attempts=spec.abort_attempts, backoff_s=spec.abort_backoff_s, phase="aborting"
    )
