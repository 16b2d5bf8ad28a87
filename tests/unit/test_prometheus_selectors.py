"""Selectors of series by labels."""

from __future__ import annotations

import pytest

from tenure.stores.prometheus.api import selector


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"tenant": "acme"}, '{tenant="acme"}'),
        ({"__name__": "up", "tenant": 'a"b'}, '{__name__="up",tenant="a\\"b"}'),
        ({"tenant.id": "acme"}, '{"tenant.id"="acme"}'),
        ({"Mieter-Nr": "7", "_x1": "y"}, '{"Mieter-Nr"="7",_x1="y"}'),
    ],
)
def test_names_that_only_newer_servers_have_are_quoted(labels: dict[str, str], expected: str) -> None:
    assert selector(**labels) == expected
