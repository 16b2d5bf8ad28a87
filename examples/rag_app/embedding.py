"""A deterministic stand-in for an embedding model: equal texts give equal vectors, similar texts near
ones."""

from __future__ import annotations

import hashlib
import math
import re
from functools import lru_cache
from typing import Final

DIMENSIONS: Final = 32
CHUNK_CHARACTERS: Final = 400
_WORD: Final = re.compile(r"\w+")


def chunks_of(title: str, body: str) -> list[str]:
    """Cut a document into pieces of at most 400 characters, between words. An empty body gives its title."""
    pieces: list[str] = []
    current = ""
    for word in body.split():
        if current and len(current) + 1 + len(word) > CHUNK_CHARACTERS:
            pieces.append(current)
            current = word
        else:
            current = f"{current} {word}" if current else word
    if current:
        pieces.append(current)
    return pieces or [title]


@lru_cache(maxsize=50_000)
def _place(word: str) -> tuple[int, float]:
    digest = hashlib.blake2b(word.encode(), digest_size=4).digest()
    return digest[0] % DIMENSIONS, (1.0 if digest[1] & 1 else -1.0) * (0.5 + digest[2] / 255)


def embed(text: str) -> list[float]:
    """Hash the words of a text into a unit vector of 32 numbers (feature hashing)."""
    vector = [0.0] * DIMENSIONS
    for word in _WORD.findall(text.lower()):
        place, weight = _place(word)
        vector[place] += weight
    length = math.sqrt(sum(x * x for x in vector))
    if not length:
        return [1.0, *vector[1:]]
    return [round(x / length, 6) for x in vector]


def as_vector(numbers: list[float]) -> str:
    """pgvector's input format."""
    return "[" + ",".join(map(repr, numbers)) + "]"
