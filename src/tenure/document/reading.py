"""Reads a YAML file into plain values that know their place, without the parts of YAML that bite.

Aliases, tags and duplicate keys are reported as problems; words like `no` and `on`, dates and `1:30` stay
text.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml

from tenure.document.problems import Problem, dotted
from tenure.errors import ConfigurationError

Path = tuple[str | int, ...]
Place = tuple[int, int]

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32


class _Refused:
    """Stands where a value was refused and already reported: nothing more is said about it."""

    def __repr__(self) -> str:
        return "REFUSED"


REFUSED: Final = _Refused()


class Block(dict[str, "Value"]):
    """A mapping of the file that knows its own path and document."""

    def __init__(self, document: Document, path: Path) -> None:
        super().__init__()
        self.document = document
        self.path = path


Value = None | bool | int | float | str | tuple["Value", ...] | Block | _Refused


@dataclass(kw_only=True, eq=False)
class Document:
    """A file that was read: its values, the place of each, and the problems found so far.

    `name` is the path as it was given: messages show it, so that terminals can link it.
    """

    name: str
    file: pathlib.Path
    root: Value = REFUSED
    problems: list[Problem] = field(default_factory=list)
    values: dict[Path, Place] = field(default_factory=dict, repr=False)
    keys: dict[Path, Place] = field(default_factory=dict, repr=False)

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Where the value (or the key) of that path stands; of the nearest parent that is there, if it is
        not."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (1, 1))

    def where(self, path: Path) -> str:
        """`file:line:column: dotted.path`, for messages about a setting that are only written later."""
        line, column = self.place(path)
        return f"{self.name}:{line}:{column}: {dotted(path)}"

    def report(self, path: Path, message: str, *, key: bool = False) -> None:
        """Add a problem of that setting, at its value or at its key."""
        prefix = f"{dotted(path)}: " if path else ""
        self.report_at(self.place(path, key=key), f"{prefix}{message}")

    def report_at(self, place: Place, message: str) -> None:
        self.problems.append(Problem(file=self.name, line=place[0], column=place[1], message=message))


def read_document(path: pathlib.Path) -> Document:
    """Read the file. What is wrong with it is in `problems`, and `root` is then what could be read, or
    `REFUSED`.

    Raises `ConfigurationError` if there is no such file or it cannot be opened.
    """
    document = Document(name=str(path), file=path)
    try:
        with path.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except OSError as error:
        reason = f"{path}: cannot be read: {error.strerror or error}"
        raise ConfigurationError(reason, problems=(reason,), hint="check the path") from error
    text = _decode(document, raw)
    if text is None:
        return document
    try:
        loader = _Loader(document, text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        _report_syntax(document, error)
        return document
    if node is None:
        document.report_at((1, 1), "the file is empty")
        return document
    document.root = _Converter(document, loader.refused).value(node, ())
    return document


def _decode(document: Document, raw: bytes) -> str | None:
    if len(raw) > MAX_BYTES:
        document.report_at((1, 1), f"the file is larger than {MAX_BYTES // 1024} KiB")
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        document.report_at(_place_after(before.decode("utf-8", "replace")), "the file is not UTF-8 text here")
        return None
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd:
        code = f"U+{ord(odd.group()):04X}"
        document.report_at(_place_after(text[: odd.start()]), f"the character {code} is not allowed in YAML")
        return None
    return text


def _place_after(text: str) -> Place:
    return text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1


def _report_syntax(document: Document, error: yaml.MarkedYAMLError) -> None:
    mark = error.problem_mark or error.context_mark
    place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = error.problem or "cannot be read"
    if problem.startswith("but "):
        document.report_at(place, f"not valid YAML: {error.context}, {problem}")
        return
    if "'\\t'" in problem:
        problem = "a tab: YAML indents with spaces"
    if error.context and error.context_mark and error.context_mark.line != place[0] - 1:
        problem = f"{problem}, {error.context} that began on line {error.context_mark.line + 1}"
    document.report_at(place, f"not valid YAML: {problem}")


_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")

if TYPE_CHECKING:
    _Implicit = dict[str | None, list[tuple[str, re.Pattern[str]]]]

_NULL, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))


def _core_schema() -> _Implicit:
    """YAML 1.2's core schema, with integers short enough for any store (the specification sets no limit)."""
    number = "-+.0123456789"
    rules = (
        (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        (_INT, r"[-+]?[0-9]{1,18}", list(number)),
        (_FLOAT, r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list(number)),
        (_FLOAT, r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list(number)),
    )
    table: _Implicit = {}
    for tag, pattern, first in rules:
        for character in first:
            table.setdefault(character, []).append((tag, re.compile(rf"(?:{pattern})\Z")))
    return table


class _Loader(yaml.SafeLoader):
    """Composes the node tree. Nodes in `refused` (aliases, tags) have been reported and have no value."""

    yaml_implicit_resolvers = _core_schema()

    def __init__(self, document: Document, text: str) -> None:
        super().__init__(text)
        self.document = document
        self.refused: set[int] = set()
        self._kept: list[yaml.Node] = []
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            return self._refuse(_placeholder(event), "an alias ('*...') is not allowed: write the value out")
        if self._depth >= MAX_DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"nested deeper than {MAX_DEPTH} levels", event.start_mark
            )
        self._depth += 1
        composed = super().compose_node(parent, index)
        self._depth -= 1
        if composed is not None and getattr(event, "tag", None) is not None:
            return self._refuse(composed, "a tag ('!...') is not allowed: write the plain value")
        return composed

    def _refuse(self, node: yaml.Node, message: str) -> yaml.Node:
        self.document.report_at(_place(node), message)
        self.refused.add(id(node))
        self._kept.append(node)
        return node


def _placeholder(event: Any) -> yaml.Node:
    return yaml.ScalarNode("", "", event.start_mark, event.end_mark)


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _Converter:
    """Turns nodes into values, notes the place of each, reports duplicate keys."""

    def __init__(self, document: Document, refused: set[int]) -> None:
        self._document = document
        self._refused = refused

    def value(self, node: yaml.Node, path: Path) -> Value:
        self._document.values[path] = _place(node)
        if id(node) in self._refused:
            return REFUSED
        if isinstance(node, yaml.MappingNode):
            return self._block(node, path)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.value(item, (*path, n)) for n, item in enumerate(node.value))
        if _odd(node):
            self._document.report_at(_place(node), f"{dotted(path)}: contains a control character")
            return REFUSED
        return _scalar(node)

    def _block(self, node: yaml.MappingNode, path: Path) -> Block:
        block = Block(self._document, path)
        for name, key, value in self._entries(node):
            here = (*path, name)
            if name in block:
                first = self._document.keys[here][0]
                self._document.report_at(
                    _place(key), f"{dotted(here)}: given twice (the first is on line {first})"
                )
                continue
            self._document.keys[here] = _place(key)
            block[name] = self.value(value, here)
        return block

    def _entries(self, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        for key, value in node.value:
            if id(key) in self._refused:
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._document.report_at(_place(key), "a key must be text, not a list or a mapping")
                continue
            if _odd(key):
                self._document.report_at(_place(key), "a key must not contain control characters")
                continue
            yield key.value, key, value


def _odd(node: yaml.Node) -> bool:
    """Whether an escape in the text stands for a character that no setting may contain."""
    return _CONTROL.search(node.value) is not None


def _scalar(node: yaml.Node) -> Value:
    text: str = node.value
    if node.tag == _NULL:
        return None
    if node.tag == _BOOL:
        return text.lower() == "true"
    if node.tag == _INT:
        return int(text)
    if node.tag == _FLOAT:
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def text_at(value: Value) -> str | None:
    """The value if it is text. For checks that look at a document which may be wrong elsewhere."""
    return value if isinstance(value, str) else None


def block_at(value: Value) -> dict[str, Value]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Block) else {}


def kind_of(value: object) -> str:
    """What a value other than null is, in the words of messages."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a mapping" if isinstance(value, dict) else "a list"
