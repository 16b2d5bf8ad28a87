"""Finds the sample app that the local estate deploys: it comes with a clone, not with the package."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tenure.errors import ConfigurationError

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def example(module: str) -> ModuleType:
    """Import `rag_app.<module>`. Raises `ConfigurationError` where there is no clone."""
    if not (EXAMPLES / "rag_app").is_dir():
        raise ConfigurationError(
            "the local estate deploys the sample app, and that comes with a clone of Tenure, not with the package",
            hint="run this in a clone: make demo",
        )
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return import_module(f"rag_app.{module}")
