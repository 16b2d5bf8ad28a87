"""Statements composed of a fixed text and of names that the engine's own quoting has made safe."""

from __future__ import annotations

from string import Template
from typing import NewType

Quoted = NewType("Quoted", str)
"""A name, an expression or a literal that is ready to stand in a statement."""


def composed(text: str, /, **parts: Quoted) -> Quoted:
    """The text with `$name` replaced by the parts; values that come from anywhere else are bound, never composed."""
    return Quoted(Template(text).substitute(parts))


def joined(parts: list[Quoted], between: str = ", ") -> Quoted:
    return Quoted(between.join(parts))


def double_quoted(name: str) -> Quoted:
    """A name as the SQL standard has it."""
    return Quoted('"{}"'.format(name.replace('"', '""')))


def literal(text: str) -> Quoted:
    """A text as the SQL standard has it, for the few places where an engine takes no bound value."""
    return Quoted("'{}'".format(text.replace("'", "''")))
