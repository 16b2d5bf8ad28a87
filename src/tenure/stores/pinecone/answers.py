"""Makes the types of the SDK's answers known to its decoder, in one thread, before several need them.

The SDK decodes with msgspec, which describes a type to itself at its first use; when two threads are the first ones at
the same time, msgspec 0.22 crashes the process. The SDK loads its modules when they are needed, and keeps some types of
answers to itself: so all of both are loaded and described here, in some 30 ms.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Final

import msgspec
import pinecone.models
from pinecone._internal import adapters

WITH_ANSWERS: Final[tuple[ModuleType, ...]] = (pinecone.models, adapters)


def describe_answers() -> tuple[type[msgspec.Struct], ...]:
    """Describe every type that can be decoded; return them. To be called while one thread alone can use the SDK."""
    for package in WITH_ANSWERS:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    return tuple(one for one in _types(msgspec.Struct) if _described(one))


def _types(base: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for one in base.__subclasses__():
        yield one
        yield from _types(one)


def _described(answer: type[msgspec.Struct]) -> bool:
    """False for one that is only sent: the decoder takes no such type."""
    try:
        msgspec.json.Decoder(answer)
    except TypeError:
        return False
    return True
