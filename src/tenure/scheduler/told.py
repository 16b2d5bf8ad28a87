"""What the scheduler tells whoever watches it."""

from __future__ import annotations

from typing import Any, Protocol


class Tell(Protocol):
    """Takes what happened: `action` is a stable key in the past tense. Called from several threads."""

    def __call__(self, action: str, **data: Any) -> None: ...
