"""Renders `docs/reference/configuration.md` from the settings: run `python -m tenure.estate.reference`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tenure.catalogue.classes import MEANING
from tenure.catalogue.schema import CatalogueSettings
from tenure.document import Described, Settings
from tenure.document.validation import models_in, tag_of
from tenure.estate import examples
from tenure.estate.settings import EstateSettings

_INTRODUCTION: Final = """\
# Configuration

<!-- Rendered from the code by `python -m tenure.estate.reference`; a test compares the two. -->

Two files describe an estate: `tenure.yaml` (the systems: cells, gateway, control database, rules) and the
catalogue it names (where in the stores tenants' data is). Both are read and checked whole before anything
is done. Every problem of both is reported at once, each with its place:

```
tenure.yaml:12:5: cells.blue.region: missing
tenure.yaml:14:7: cells.blue.ap: unknown setting; did you mean 'app'?
catalogue.yaml:31:9: stores.redis.prefix: must contain {tenant} exactly once
```

## The files' form

YAML 1.2 in UTF-8, one document, at most 1 MiB and 32 levels deep. Some parts of YAML are refused, because
they hide what a file says: aliases (`*name`), merge keys, tags (`!name`), and keys given twice. Only `true`
and `false` are truth values: `no`, `off`, dates and `1:30` are text. Nothing is converted silently: text
that looks like a number needs quotes, a number must have none. An unknown setting is an error. Relative
paths start at the folder of the file that contains them.

## Secrets

A secret never stands in a file. A setting of that type says where it is:

| form | the secret is |
|---|---|
| `{env: NAME}` | the value of the environment variable `NAME` |
| `{file: PATH}` | what the file contains, without a line break at its end; at most 64 KiB |

It is read when it is needed, not when the file is checked, so commands that do not need it run without it.
A secret that is missing or empty is an error that names the setting and the variable or file.

## What must fit together

- Every cell has exactly the stores of the catalogue, by the same names and of the same kinds.
- Analytics have the settings of their `engine`, and no others. A `partition` is by one of the table's columns, not by
  the tenant column.
- `rides_with` and `journal` name a store of kind `postgresql` beside it; `rides_with` is the same in both
  files.
- No two cells share an app address, a database, a Redis, a bucket, an index of Pinecone or a warehouse: a move between
  them would copy a tenant onto itself. (Compared by reference here, and by value as soon as the secrets are read.)
- A vault's bucket is no other store's; cells share one only within a region. In Amazon S3 it is in the cell's region.
- `gateway.dns` needs `gateway.probe`; its zone holds the gateway's domain, every cell has an endpoint there, and no
  two places (gateway or cells) have the same target, nor one that the record's type cannot hold.
- `drain_ms` is less than `budget_ms`; `longest_window_s` is at least `window_s`; the price list has every
  cell; a residency rule's regions are regions of cells; a freeze ends after it begins.
- In the catalogue, a shared table has one column of class `tenant`, its tenant column; a table in a schema or a
  database of the tenants' own has none, or a column of that class that only repeats the id. Each is listed once
  per database, as holding tenants' data or under `ignore`; no key pattern is hidden by one above it.
- With `isolation: schema`, no schema can be two tenants': beside `t_{tenant}`, `t_{tenant}_old` is refused, since
  a tenant may be called `acme_old`; `old_{tenant}` is fine. With `isolation: database`, every cell's store has
  a `database`.
"""

_CLASSES: Final = """\
## Classes of data

Every column and key pattern of the catalogue has one.

| class | what it holds |
|---|---|
"""

_TYPES: Final = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
_LIMITS: Final = (
    (Gt, "gt", "more than"),
    (Ge, "ge", "at least"),
    (Lt, "lt", "less than"),
    (Le, "le", "at most"),
)


def render() -> str:
    """The whole page."""
    parts = [
        _INTRODUCTION,
        *(_section(model) for model in documented(EstateSettings)),
        *(_section(model) for model in documented(CatalogueSettings)),
        _CLASSES + "".join(f"| `{held}` | {meaning} |\n" for held, meaning in MEANING.items()),
        f"## Example: tenure.yaml\n\n```yaml\n{examples.ESTATE}```\n",
        f"## Example: catalogue.yaml\n\n```yaml\n{examples.CATALOGUE}```\n",
    ]
    return "\n".join(parts)


def documented(root: type[Settings]) -> list[type[Settings]]:
    """The model and every model inside it, in the order of the page."""
    found: list[type[Settings]] = []

    def visit(model: type[Settings]) -> None:
        if model not in found:
            found.append(model)
            for field in model.model_fields.values():
                for inner in _models(field.annotation):
                    visit(inner)

    visit(root)
    return found


def _models(annotation: Any) -> Iterator[type[Settings]]:
    for part in models_in(annotation):
        if isinstance(part, type) and issubclass(part, Settings):
            yield part
        elif get_origin(part) is not Literal:
            for argument in get_args(part):
                yield from _models(argument)


def _section(model: type[Settings]) -> str:
    whole_file = model in {EstateSettings, CatalogueSettings}
    meaning = (model.__doc__ or "").strip()
    lines = [
        f"{'##' if whole_file else '###'} {model.title}",
        "",
        " ".join(meaning.split()),
        "",
        "| setting | type | unit | default | meaning |",
        "|---|---|---|---|---|",
        *(_row(name, field) for name, field in model.model_fields.items()),
        "",
    ]
    return "\n".join(lines)


def _row(name: str, field: FieldInfo) -> str:
    cells = [f"`{name}`", type_of(field.annotation, field.metadata), unit_of(field) or "", _default(field)]
    return "| " + " | ".join([*cells, field.description or ""]) + " |"


def unit_of(field: FieldInfo) -> str | None:
    """The unit of a setting's value, if it has one."""
    extra = field.json_schema_extra
    return str(extra["unit"]) if isinstance(extra, dict) and "unit" in extra else None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    model = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    if isinstance(field.default, BaseModel) or (model and field.default == {}):
        return "its own defaults"
    if field.default is None:
        return "not set"
    if field.default is False:
        return "`false`"
    return f"`{field.default}`" if field.default else "none"


def type_of(annotation: Any, metadata: list[Any]) -> str:
    """A type in words, with its limits."""
    flat = [m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
    words = [m.words for m in flat if isinstance(m, Described)]
    limits = [
        f"{said} {getattr(m, name):g}" for m in flat for kind, name, said in _LIMITS if isinstance(m, kind)
    ]
    return ", ".join([words[0] if words else _plain(annotation), *limits])


def _plain(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_of(arguments[0], list(arguments[1:]))
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list of {type_of(arguments[0], [])}"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {type_of(arguments[0], [])} to {type_of(arguments[1], [])}"
    if origin is not None:
        return " or ".join(type_of(part, []) for part in arguments if part is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        label = tag_of(annotation) if "(kind:" in annotation.title else "mapping"
        return f"[{label}](#{_anchor(annotation.title)})"
    return _TYPES[annotation]


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def main() -> None:
    sys.stdout.write(render())


if __name__ == "__main__":
    main()
