"""The texts that the load generator writes: each names its document and version, and nothing else decides
its words."""

from __future__ import annotations

import random
import re
from typing import Final

_STATED: Final = re.compile(r"load ([\w.-]+) v(\d+)\b")
_SYLLABLES: Final = (
    "ra",
    "te",
    "lo",
    "mi",
    "su",
    "ne",
    "ka",
    "do",
    "vi",
    "pe",
    "ju",
    "ha",
    "go",
    "si",
    "lu",
    "ba",
)


def title_of(label: str, version: int) -> str:
    return f"load {label} v{version}"


def body_of(tenant: str, label: str, version: int) -> str:
    """Between one and three chunks of words, different for each tenant, document and version."""
    rng = random.Random(f"{tenant}:{label}:{version}")
    words = ["".join(rng.choices(_SYLLABLES, k=rng.randrange(2, 5))) for _ in range(rng.randrange(30, 140))]
    return f"{title_of(label, version)} {' '.join(words)}"


def stated(text: str) -> tuple[str, int] | None:
    """The label and version that a title or body states, or None if the load generator did not write it."""
    match = _STATED.match(text)
    return (match[1], int(match[2])) if match else None
