"""The model of the switch: what must hold holds, what is broken on purpose fails. `make model` runs all of it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from model import check as model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "model" / "README.md").read_text(encoding="utf-8")
SWITCH = model.MODEL.read_text(encoding="utf-8")


SELECTION = (
    "nothing goes wrong",
    "stopped and cancelled",
    "fence P before drain",
    "commit before close",
    "open P before commit",
    "P checks no tokens",
    "O checks no tokens",
    "commit without the lease",
    "seal P before mark P, not compared",
    "a lost lease taken for no commit",
)
SELECTED = [check for check in model.CHECKS if check.name in SELECTION]


def test_the_selection_is_of_checks_that_there_are() -> None:
    assert len(SELECTED) == len(SELECTION)


@pytest.mark.parametrize("check", SELECTED, ids=lambda check: check.name)
def test_the_search_ends_with_the_expected_result(check: model.Check) -> None:
    if lack := model.missing():
        pytest.skip(lack)
    outcome = model.run(check)
    assert outcome.result == check.expects, f"{outcome.states} states, depth {outcome.depth}"


def test_every_two_neighbouring_actions_of_the_hold_are_swapped_in_some_check() -> None:
    for first, second in pairwise(model.ORDER):
        swap = set(model.places(second, first))
        assert any(swap <= set(check.defines) for check in model.SWAPPED), f"{second} before {first}"


def test_the_order_of_the_runner_is_the_order_of_the_model() -> None:
    assert re.findall(r"#ifndef (\w+)\n#define \1 \d+\n#endif", SWITCH)[-len(model.ORDER) :] == list(
        model.ORDER
    )


def test_the_page_names_every_action_property_and_check() -> None:
    names = set(re.findall(r"^bool (\w+) = true; +/\*", SWITCH, re.MULTILINE))
    assert names >= {check.expects for check in model.CHECKS} - {model.HOLDS, "deadlock", "endless"}
    for name in (*model.ORDER, *names):
        assert f"`{name}`" in PAGE, name
    for check in model.CHECKS:
        assert check.name in PAGE, check.name


def test_the_code_that_the_page_maps_steps_to_is_there() -> None:
    found = re.findall(r"`([\w/]+\.(?:py|sql)):([\w.]+)`", PAGE)
    assert len(found) > 20
    for path, name in found:
        text = (ROOT / "src" / "tenure" / path).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"(def|class|function tenure\.) ?{part}\b|^{part} = ", text, re.M), (
                f"{path}: {part}"
            )
