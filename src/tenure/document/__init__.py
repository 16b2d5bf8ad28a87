"""YAML documents that know the line and column of everything in them, and models checked against them.

Configuration files are read by people under pressure: every problem of a file is reported at once, each with
its place.
"""

from tenure.document.problems import Problem, raise_problems
from tenure.document.reading import REFUSED, Block, Document, Path, Value, read_document
from tenure.document.validation import Described, Settings, Version, read_only, refuse, setting, validate

__all__ = [
    "REFUSED",
    "Block",
    "Described",
    "Document",
    "Path",
    "Problem",
    "Settings",
    "Value",
    "Version",
    "raise_problems",
    "read_document",
    "read_only",
    "refuse",
    "setting",
    "validate",
]
