"""Vaults in buckets of their own, and an estate's keys in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.vault.conftest import VaultBucket, made_bucket
from tests.sealed import Estate


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate(tmp_path / "keys")


@pytest.fixture
def bucket(fresh_bucket: Callable[..., Any]) -> Iterator[VaultBucket]:
    yield from made_bucket(*fresh_bucket("seaweed-a", versioned=True), versioned=True)


@pytest.fixture
def plain_bucket(fresh_bucket: Callable[..., Any]) -> Iterator[VaultBucket]:
    yield from made_bucket(*fresh_bucket("seaweed-a"), versioned=False)


@pytest.fixture
def locking_bucket(fresh_bucket: Callable[..., Any]) -> Iterator[VaultBucket]:
    yield from made_bucket(*fresh_bucket("seaweed-a", locks=True), versioned=True)


@pytest.fixture
def other_bucket(fresh_bucket: Callable[..., Any]) -> Iterator[VaultBucket]:
    """As in another region."""
    yield from made_bucket(*fresh_bucket("seaweed-b", versioned=True), versioned=True)
