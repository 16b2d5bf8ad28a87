"""Checks a document against pydantic models and says what is wrong in sentences, each at its place."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from tenure.document.problems import did_you_mean, shown
from tenure.document.reading import REFUSED, Block, Document, Path, Value, kind_of

_OURS: Final = "tenure"
_LISTED: Final = 12
K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M", bound="Settings")


class Settings(BaseModel):
    """A group of settings: immutable, nothing converted silently, nothing unknown accepted.

    The class docstring and each field's description become the reference page.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )
    title: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class Described:
    """Metadata of an annotated type: how the reference page calls its values."""

    words: str


def read_only(value: Mapping[K, V]) -> Mapping[K, V]:
    """For mappings in frozen settings."""
    return MappingProxyType(dict(value))


def _version(value: object) -> object:
    if value is not REFUSED and (type(value) is not int or value != 1):
        raise refuse("must be 1, the version of the format that is described here")
    return value


Version = Annotated[Literal[1], BeforeValidator(_version)]


def setting(meaning: str, *, default: Any = ..., unit: str | None = None, **constraints: Any) -> Any:
    """A pydantic field with its meaning and unit; required where no default is given."""
    extra: Any = {"unit": unit} if unit else None
    return Field(default, description=meaning, json_schema_extra=extra, **constraints)


def refuse(message: str) -> PydanticCustomError:
    """What a validator raises: the message goes to the user as it is, so it never quotes what may be a
    secret."""
    return PydanticCustomError(_OURS, "{message}", {"message": message})


def validate(model: type[M], document: Document) -> M | None:
    """The document as that model; None if it does not fit, with every reason in `document.problems`."""
    if document.root is REFUSED:
        return None
    try:
        return model.model_validate(document.root, context={"folder": document.file.parent})
    except ValidationError as failure:
        for error in failure.errors(include_url=False):
            _report(model, document, error)
        return None


def _report(model: type[Settings], document: Document, error: ErrorDetails) -> None:
    if error["input"] is REFUSED or (error["type"] == "too_short" and error["input"]):
        return  # Said already: a list counts as too short when what is in it is wrong.
    path, is_key = _path(document.root, error)
    if error["type"] == "extra_forbidden":
        document.report(path, _unknown(model, path, error), key=True)
    elif error["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        _report_tag(model, document, path, error)
    else:
        document.report(path, _message(error), key=is_key)


def _path(root: Value, error: ErrorDetails) -> tuple[Path, bool]:
    """The error's place in the document: pydantic's own parts (union tags, `[key]`) are not in it."""
    at: object = root
    path: Path = ()
    location = error["loc"]
    for n, part in enumerate(location):
        in_block = isinstance(at, Block) and part in at
        in_list = isinstance(at, tuple) and isinstance(part, int) and part < len(at)
        if in_block or in_list:
            at, path = cast(Any, at)[part], (*path, part)
        elif n == len(location) - 1 and error["type"] == "missing":
            path = (*path, part)
    return path, bool(location) and location[-1] == "[key]"


def _report_tag(model: type[Settings], document: Document, path: Path, error: ErrorDetails) -> None:
    """`kind`, which picks the model of a union, is missing or wrong."""
    block = error["input"] if isinstance(error["input"], Block) else {}
    given = block.get("kind")
    if given is REFUSED:
        return
    choices = [tag for tag in map(tag_of, _candidates(model, error["loc"])) if tag is not None]
    message = _choice(given, choices) if "kind" in block else f"missing ({_either(choices)})"
    document.report((*path, "kind"), message)


def _instead(given: object) -> str:
    return "but is empty" if given is None else f"not {kind_of(given)}"


def _choice(given: object, choices: list[str]) -> str:
    if not isinstance(given, str):
        return f"must be {_either(choices)}, {_instead(given)}"
    return f"must be {_either(choices)}, not {shown(given)}{did_you_mean(given, choices)}"


def _either(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"


def _unknown(model: type[Settings], path: Path, error: ErrorDetails) -> str:
    known = sorted(_names_at(model, error["loc"][:-1]))
    suggestion = did_you_mean(str(path[-1]), known)
    if suggestion or not known or len(known) > _LISTED:
        return f"unknown setting{suggestion}"
    return f"unknown setting; known here: {', '.join(known)}"


_TYPES: Final = {
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}
_LIMITS: Final = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _message(error: ErrorDetails) -> str:
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == _OURS:
        return str(context["message"])
    if kind == "missing":
        return "missing"
    if kind in _TYPES:
        quotes = (
            ": put it in quotes" if kind == "string_type" and isinstance(given, bool | int | float) else ""
        )
        instead = f"not {given}" if isinstance(given, float) and not quotes else _instead(given)
        return f"must be {_TYPES[kind]}, {instead}{quotes}"
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"must be {words} {context[key]:g}, not {given:g}"
    if kind in {"literal_error", "enum"}:
        choices = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        if isinstance(given, int | float):
            return f"must be {_either(choices)}, not {str(given).lower()}"
        return _choice(given, choices)
    if kind in {"too_short", "string_too_short"}:
        return "must not be empty"
    if kind == "finite_number":
        return "must be a finite number"
    return str(error["msg"])[:1].lower() + str(error["msg"])[1:]


def models_in(annotation: Any) -> Iterator[Any]:
    """The parts of a type without `Annotated`, `| None` and unions: what a value there may be."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from models_in(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for part in get_args(annotation):
            yield from models_in(part)
    elif annotation is not types.NoneType:
        yield annotation


def tag_of(model: Any) -> str | None:
    """The value of `kind` that picks this model in a union, if it is a model with such a field."""
    if not (isinstance(model, type) and issubclass(model, BaseModel) and "kind" in model.model_fields):
        return None
    annotation = model.model_fields["kind"].annotation
    return str(get_args(annotation)[0]) if get_origin(annotation) is Literal else None


def _candidates(model: type[Settings], location: tuple[str | int, ...]) -> list[Any]:
    """The types that a value at that place of the model may have."""
    candidates: list[Any] = [model]
    for part in location:
        tagged = [c for c in candidates if tag_of(c) == part]
        candidates = tagged or [
            inner for c in candidates for annotation in _step(c, part) for inner in models_in(annotation)
        ]
    return candidates


def _names_at(model: type[Settings], location: tuple[str | int, ...]) -> set[str]:
    """The names of the settings that are known at that place of the model."""
    return {
        name
        for candidate in _candidates(model, location)
        if isinstance(candidate, type) and issubclass(candidate, BaseModel)
        for name in candidate.model_fields
    }


def _step(candidate: Any, part: str | int) -> list[Any]:
    if isinstance(candidate, type) and issubclass(candidate, BaseModel):
        field = candidate.model_fields.get(str(part))
        return [field.annotation] if field else []
    origin = get_origin(candidate)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return [get_args(candidate)[1]]
    return [get_args(candidate)[0]] if origin is tuple else []
