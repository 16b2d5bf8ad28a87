"""What a canary was agreed to be: which shares of the reads, for how long each, and what ends it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tenure.plan.bounds import Bounds


@dataclass(frozen=True, kw_only=True)
class CanaryPlan:
    """`shares` are percent, growing; without any, only the source is measured. Each lasts `soak_s`, and so does the
    measurement of the source before them."""

    shares: tuple[float, ...]
    soak_s: float
    bounds: Bounds

    @property
    def seconds(self) -> float:
        """How long all of it takes when nothing goes wrong."""
        return self.soak_s * (1 + len(self.shares))

    @property
    def does(self) -> str:
        """The step as plans show it."""
        if not self.shares:
            return f"measure what the source's users get for {self.soak_s:g} s"
        steps = ", ".join(f"{share:g}" for share in self.shares)
        return f"send {steps} % of the reads to the target, {self.soak_s:g} s each; back at once if it does badly"

    def as_dict(self) -> dict[str, Any]:
        """As an operation's request keeps it."""
        return {"shares": list(self.shares), "soak_s": self.soak_s, "bounds": asdict(self.bounds)}

    @staticmethod
    def of(values: Mapping[str, Any]) -> CanaryPlan:
        """What `as_dict` gave."""
        return CanaryPlan(
            shares=tuple(values["shares"]), soak_s=values["soak_s"], bounds=Bounds(**values["bounds"])
        )
