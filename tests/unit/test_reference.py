"""The reference page of the configuration is the code's own."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from tenure.catalogue import DataClass, load_catalogue
from tenure.catalogue.schema import CatalogueSettings
from tenure.document import Settings
from tenure.estate import examples
from tenure.estate.config import load_estate
from tenure.estate.reference import documented, render, type_of, unit_of
from tenure.estate.settings import EstateSettings

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
MODELS = [*documented(EstateSettings), *documented(CatalogueSettings)]
FIELDS = [(model, name) for model in MODELS for name in model.model_fields]
UNITS = {"_mb_s": "MB/s", "_per_s": "per second", "_ms": "ms", "_s": "s", "_h": "h"}


def _section(model: type[Settings]) -> str:
    """The page's text from the model's heading to the next heading."""
    found = re.search(
        rf"^##+ {re.escape(model.title)}\n(.*?)(?=^## |^### |\Z)", render(), re.MULTILINE | re.DOTALL
    )
    assert found, f"no section for {model.title}"
    return found[1]


def test_the_committed_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == render(), (
        "run: python -m tenure.estate.reference > docs/reference/configuration.md"
    )


def test_the_module_writes_the_page_out() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tenure.estate.reference"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == render()
    assert done.stderr == ""


def test_both_files_and_all_their_parts_are_found() -> None:
    titles = {model.title for model in MODELS}
    assert {
        "tenure.yaml",
        "catalogue.yaml",
        "gateway.gate",
        "gateway.dns",
        "cells.NAME.stores.NAME (kind: s3)",
    } <= titles
    assert len(titles) == len(MODELS) == len(set(MODELS))


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=[f"{m.__name__}.{n}" for m, n in FIELDS])
def test_each_setting_is_described_in_its_section(model: type[Settings], name: str) -> None:
    field = model.model_fields[name]
    assert field.description
    assert field.description.endswith(".")
    row = next(line for line in _section(model).splitlines() if line.startswith(f"| `{name}` |"))
    assert field.description in row
    assert type_of(field.annotation, field.metadata) in row
    assert row.count(" | ") == 4, "an unescaped | would break the table"


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=[f"{m.__name__}.{n}" for m, n in FIELDS])
def test_a_unit_in_a_name_is_the_unit_on_the_page(model: type[Settings], name: str) -> None:
    expected = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
    if expected:
        assert unit_of(model.model_fields[name]) == expected


def test_each_model_says_what_it_is() -> None:
    for model in MODELS:
        assert model.__doc__ is not None
        assert model.__doc__ != Settings.__doc__
        assert model.title


def test_every_link_on_the_page_has_its_heading() -> None:
    page = render()
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^##+ (.*)$", page, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", page))
    assert links
    assert links <= anchors


def test_each_class_of_data_is_explained() -> None:
    page = render()
    for held in DataClass:
        assert re.search(rf"^\| `{held}` \| \w+.* \|$", page, re.MULTILINE)


def test_the_examples_on_the_page_are_valid(tmp_path: pathlib.Path) -> None:
    for name, text in (("tenure.yaml", examples.ESTATE), ("catalogue.yaml", examples.CATALOGUE)):
        assert f"```yaml\n{text}```" in render()
        (tmp_path / name).write_text(text)
    estate = load_estate(tmp_path / "tenure.yaml")
    assert estate.catalogue == load_catalogue(tmp_path / "catalogue.yaml")
    assert list(estate.cells) == ["blue", "frankfurt"]
