"""One estate for the tests of restores; each test takes a tenant of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.estate import TestEstate
from tests.restores import restoring_estate

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestEstate]:
    with restoring_estate(tmp_path_factory.mktemp("catalogue")) as made:
        made.add_tenant("neighbour")
        yield made


@pytest.fixture
def new_tenant(estate: TestEstate) -> Callable[[], str]:
    """A new small tenant in blue."""

    def make() -> str:
        name = f"restored-{next(_numbers)}"
        estate.add_tenant(name)
        return name

    return make


@pytest.fixture
def tenant(new_tenant: Callable[[], str]) -> str:
    return new_tenant()
