"""Whether identifiers appear in a text or in bytes, and in which form: one pure matcher for every store.

An identifier counts where it stands by itself: no letter and no digit directly before or after it, case equal, and not
inside an occurrence of a longer one that is known. So `acme` is in `/acme/x`, `acme-logo.png` and `"acme"`, and neither
in `acme2`, `xacme`, `ACME` nor, where `acme-corp` is a tenant, in `acme-corp`.

Looked at are a text itself and, one level deep, what its backslash escapes (JSON, SQL), its percent escapes and its
base64 parts stand for; of bytes their UTF-8 and UTF-16 readings. What that misses: identifiers that were encrypted,
hashed or compressed, encoded twice or in other ways (hexadecimal, quoted-printable, letters and digits written as
escapes), cut in two, or written with a letter or digit directly beside them, as some binary formats do.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import unquote

from tenure.model.search import Identifier

MIN_IN_BINARY: Final = 4
"""A shorter identifier (in bytes) is not looked for in bytes that are no text: chance alone would put it there."""
FEW: Final = 16
"""Up to so many values are looked for one by one, more by words; base64 is then read from `LONG_BASE64` characters."""
LONG_BASE64: Final = 16
_WORD: Final = re.compile(r"[^\W_]+")
_ASCII_WORD: Final = re.compile(r"[A-Za-z0-9]+")
_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_PERCENT: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_SURROGATES: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_BASE64: Final = (re.compile(r"[A-Za-z0-9+/]{4,}"), re.compile(r"[A-Za-z0-9_-]{4,}"))
_LONG_BASE64: Final = re.compile(rf"[A-Za-z0-9+/_-]{{{LONG_BASE64},}}")
_URL_SAFE: Final = str.maketrans("+/", "-_")
_STANDARD: Final = str.maketrans("-_", "+/")
_NO_TEXT: Final = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\ud800-\udfff]")


class Encoding(StrEnum):
    """The form in which an identifier was found."""

    PLAIN = "plain"
    ESCAPED = "escaped"
    PERCENT = "percent"
    BASE64 = "base64"
    UTF16 = "utf-16"
    BINARY = "binary"
    """As plain bytes among others that are no text."""


@dataclass(frozen=True, kw_only=True, order=True)
class Match:
    """An identifier that is there, at least once in that form."""

    identifier: Identifier
    encoding: Encoding


class Matcher:
    """Finds these identifiers, and none inside a longer one of them or of `known`. Immutable; for several threads.

    Raises `ValueError` for an identifier without a single letter or digit.
    """

    def __init__(self, identifiers: Iterable[Identifier], known: Collection[str] = ()) -> None:
        self.identifiers: Final = tuple(sorted(set(identifiers)))
        self._by_value: Final[dict[str, list[Identifier]]] = {}
        for identifier in self.identifiers:
            if not _WORD.search(identifier.value):
                raise ValueError(f"{identifier.label} has no letter or digit")
            self._by_value.setdefault(identifier.value, []).append(identifier)
        self._wanted: Final = tuple(self._by_value) if len(self._by_value) <= FEW else ()
        longer = {k for k in known if not self._wanted or any(value in k for value in self._wanted)}
        self._by_word: Final = _by_rarest_word(self._by_value.keys() | {k for k in longer if _WORD.search(k)})
        self._words: Final = frozenset(self._by_word)
        self._base64: Final = tuple({n for value in self._wanted for n in base64_needles(value)})
        found = [needles(i) for i in self.identifiers] if self._wanted else []
        self._needles: Final = tuple({n for its in found for n in its}) if all(found) else ()

    def in_text(self, text: str) -> frozenset[Match]:
        """Every identifier in the text, in each form in which it is there."""
        if self._needles and not any(needle in text for needle in self._needles):
            return frozenset()
        found = {Match(identifier=i, encoding=Encoding.PLAIN) for i in self._standing(text)}
        if "\\" in text:
            found |= {Match(identifier=i, encoding=Encoding.ESCAPED) for i in self._standing(unescaped(text))}
        if _PERCENT.search(text):
            view = unquote(text, errors="surrogateescape")
            found |= {Match(identifier=i, encoding=Encoding.PERCENT) for i in self._standing(view)}
        found |= {Match(identifier=i, encoding=Encoding.BASE64) for i in self._in_base64(text)}
        plain = {m.identifier for m in found if m.encoding is Encoding.PLAIN}
        return frozenset(m for m in found if m.encoding is Encoding.PLAIN or m.identifier not in plain)

    def in_bytes(self, content: bytes) -> frozenset[Match]:
        """As `in_text`, where bytes that are no UTF-8 count as neither letter nor digit; and the UTF-16 readings."""
        text = content.decode("utf-8", "surrogateescape")
        found = self.in_text(text)
        if found and _NO_TEXT.search(text):
            found = frozenset(
                Match(identifier=m.identifier, encoding=Encoding.BINARY)
                if m.encoding is Encoding.PLAIN
                else m
                for m in found
                if len(m.identifier.value.encode()) >= MIN_IN_BINARY
            )
        wide = {i for reading in self._wide(content) for i in self._standing(reading)}
        return found | {Match(identifier=i, encoding=Encoding.UTF16) for i in wide}

    def _standing(self, text: str) -> Iterator[Identifier]:
        """The identifiers that stand by themselves in the text as it is."""
        if self._wanted:
            if not any(_stands(text, value) for value in self._wanted):
                return
        elif self._words.isdisjoint(_WORD.findall(text)):
            return
        reach = -1
        for start, end in sorted(self._spans(text), key=lambda span: (span[0], -span[1])):
            if end > reach:
                yield from self._by_value.get(text[start:end], ())
                reach = end

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where values stand by themselves. Each is looked up by one of its words, a whole word of the text too."""
        for word in _WORD.finditer(text):
            for before, value in self._by_word.get(word[0], ()):
                start = word.start() - before
                end = start + len(value)
                alone = start >= 0 and not _is_word(text[start - 1 : start] + text[end : end + 1])
                if alone and text.startswith(value, start):
                    yield start, end

    def _in_base64(self, text: str) -> Iterator[Identifier]:
        if self._wanted and not any(needle in text for needle in self._base64):
            return
        for reading in base64_readings(text, _BASE64 if self._wanted else (_LONG_BASE64,)):
            decoded = reading.decode("utf-8", "surrogateescape")
            binary = _NO_TEXT.search(decoded) is not None
            for identifier in self._standing(decoded):
                if not binary or len(identifier.value.encode()) >= MIN_IN_BINARY:
                    yield identifier

    def _wide(self, content: bytes) -> Iterator[str]:
        if b"\0" not in content:
            return
        for codec, value in itertools.product(("utf-16-le", "utf-16-be"), self._by_value):
            at = content.find(value.encode(codec, "replace"))
            if at >= 0:
                yield content[at % 2 :].decode(codec, "replace")


def needles(identifier: Identifier) -> tuple[str, ...]:
    """Short ASCII texts, for servers that can search: where the matcher finds the identifier in a text, one of them is
    in it as well (unless somebody wrote letters or digits as escapes). Empty: nothing but reading everything helps."""
    words = _ASCII_WORD.findall(identifier.value)
    return (max(words, key=len), *base64_needles(identifier.value)) if words else ()


def base64_needles(value: str) -> tuple[str, ...]:
    """What base64 of any text contains in which the value stands, for each place it may have in a group of three bytes,
    in both alphabets. Empty for values too short to tell."""
    content = value.encode("utf-8", "surrogateescape")
    if len(content) < MIN_IN_BINARY:
        return ()
    found = []
    for before in range(3):
        whole = base64.b64encode(bytes(before) + content + bytes(2)).decode()
        certain = whole[-(-before * 8 // 6) : (before + len(content)) * 8 // 6]
        found += [certain, certain.translate(_URL_SAFE)]
    return tuple(dict.fromkeys(found))


def base64_readings(text: str, patterns: Iterable[re.Pattern[str]] = _BASE64) -> Iterator[bytes]:
    """What the parts of the text stand for that may be base64, from each place where a group may begin."""
    for pattern in patterns:
        for run in pattern.finditer(text):
            standard = run[0].translate(_STANDARD)
            for start in range(4):
                part = standard[start:]
                if len(part) % 4 == 1:
                    part = part[:-1]
                try:
                    yield base64.b64decode(part + "=" * (-len(part) % 4))
                except binascii.Error:
                    continue


def unescaped(text: str) -> str:
    """The text with its backslash escapes replaced by what they stand for, as in JSON and SQL."""

    def meant(escape: re.Match[str]) -> str:
        code = escape[1] or escape[2]
        return chr(int(code, 16)) if code else _ESCAPED.get(escape[3], escape[3])

    plain = _ESCAPE.sub(meant, text)
    return _SURROGATES.sub(
        lambda pair: pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), plain
    )


def _by_rarest_word(values: Collection[str]) -> dict[str, list[tuple[int, str]]]:
    """The values by the word of theirs that the fewest of them have, each with where in it that word begins."""
    often = Counter(word for value in values for word in set(_WORD.findall(value)))
    found: dict[str, list[tuple[int, str]]] = {}
    for value in values:
        word = min(_WORD.finditer(value), key=lambda w: (often[w[0]], -len(w[0])))
        found.setdefault(word[0], []).append((word.start(), value))
    return found


def _stands(text: str, value: str) -> bool:
    """Whether the value stands by itself anywhere in the text."""
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        if not _is_word(text[max(0, start - 1) : start] + text[end : end + 1]):
            return True
        start = text.find(value, start + 1)
    return False


def _is_word(beside: str) -> bool:
    """Whether there is a letter or digit, by the definition that regular expressions have."""
    return any(character.isalnum() for character in beside)
