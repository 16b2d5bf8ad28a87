"""Tenant ids and cell names: anything that could mean something to SQL, a pattern, a path or a shell is refused."""

from __future__ import annotations

import pytest

from tenure.errors import UsageError
from tenure.model.names import cell_name, tenant_id
from tenure.model.secret import Secret

HOSTILE = [
    "",
    "'; drop table tenants; --",
    'a"b',
    "acme*",
    "acme?",
    "a/b",
    "../etc",
    "a b",
    "acme:",
    "acme\n",
    "-acme",
    ".acme",
    "acmé",
    "a%b",
    "$(id)",
    "a" * 64,
    "x" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_tenant_ids_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        tenant_id(text)
    assert caught.value.hint
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("text", ["acme", "tenant_001_acme_corp", "A.b-c", "0", "a" * 63])
def test_ordinary_tenant_ids_are_taken_as_they_are(text: str) -> None:
    assert tenant_id(text) == text


@pytest.mark.parametrize("text", ["", "Blue", "b_c", "1blue", "a" * 32, "blue;"])
def test_bad_cell_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        cell_name(text)


def test_a_secret_never_shows_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r}"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2") != Secret("other")
