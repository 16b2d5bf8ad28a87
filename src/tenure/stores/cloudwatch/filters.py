"""Filter patterns of CloudWatch Logs: what lets through at least every event that holds one of some texts.

A term in a pattern matches whole words only in some cases, a regular expression matches anywhere (CloudWatch Logs user
guide, "Filter pattern syntax": regular expressions stand between `%`, know the operators ^ $ ? [ ] { } | \\ * + and the
dot, no parentheses, and of other characters only letters, digits and _ # = @ / ; , - : and blanks).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MOST_LETTERS: Final = 1024
"""The longest filter pattern (API reference, FilterLogEvents)."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_=@/;,#:-]")
_OPERATORS: Final = re.compile(r"[\\^$?\[\]{}|*+.]")


def any_of(texts: Iterable[str]) -> str | None:
    """A pattern for the events that hold at least one of these texts, and perhaps others.

    None if there is none, so that every event has to be looked at: no texts, too many, or one that no pattern can name.
    """
    alternatives = []
    for text in dict.fromkeys(texts):
        quoted = _quoted(text)
        if quoted is None:
            return None
        alternatives.append(quoted)
    pattern = f"%{'|'.join(alternatives)}%"
    return pattern if alternatives and len(pattern) <= MOST_LETTERS else None


def _quoted(text: str) -> str | None:
    """The text as part of a regular expression; None where it has a character that these do not know."""
    quoted = "".join(
        letter if _PLAIN.fullmatch(letter) else f"\\{letter}" if _OPERATORS.fullmatch(letter) else "\0"
        for letter in text
    )
    return quoted if text and "\0" not in quoted else None
