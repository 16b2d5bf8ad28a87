"""The sample app's two catalogues agree: the one for fewer stores says nothing else of them than the other."""

from __future__ import annotations

import yaml

from rag_app.local import ALL, CORE
from tenure.catalogue import load_catalogue


def test_the_core_catalogue_is_the_full_one_without_the_other_stores_and_what_is_for_them() -> None:
    core, full = (yaml.safe_load(path.read_text("utf-8")) for path in (CORE, ALL))
    del full["stores"]["postgres"]["tables"]["public.usage_outbox"]
    assert core["stores"] == {name: full["stores"][name] for name in core["stores"]}
    assert set(core["stores"]) == {"postgres", "vectors", "redis", "objects", "vault"}
    for path in (CORE, ALL):
        assert load_catalogue(path).stores
