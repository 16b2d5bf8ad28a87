"""What the catalogue and `tenure.yaml` may say of Pinecone, and what is said about files that do not fit."""

from __future__ import annotations

import pathlib

import pytest

from tenure.catalogue import DataClass, PineconeMap, load_catalogue
from tenure.errors import ConfigurationError
from tenure.estate import examples
from tenure.estate.config import Estate, PineconeSettings, load_estate
from tenure.model.names import StoreName

STORE = StoreName("semantics")
FOLDED = "semantics: {kind: pinecone, index: example-frankfurt, api_key: {file: secrets/pinecone}}"


@pytest.fixture(autouse=True)
def _folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(*, estate: tuple[str, str] = ("", ""), catalogue: tuple[str, str] = ("", "")) -> Estate:
    for name, text, (old, new) in (
        ("tenure.yaml", examples.ESTATE, estate),
        ("catalogue.yaml", examples.CATALOGUE, catalogue),
    ):
        assert old in text
        pathlib.Path(name).write_text(text.replace(old, new, 1))
    return load_estate(pathlib.Path("tenure.yaml"))


def problems(*, estate: tuple[str, str] = ("", ""), catalogue: tuple[str, str] = ("", "")) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(estate=estate, catalogue=catalogue)
    return "\n".join(caught.value.problems)


def test_an_index_is_read_with_its_map() -> None:
    estate = load()
    where = estate.catalogue.store(STORE)
    assert isinstance(where, PineconeMap)
    assert (where.namespace.text, where.journal, where.person) == ("t-{tenant}", "postgres", ("author",))
    assert where.fields["author"] is DataClass.PERSONAL
    assert [p.pattern for p in where.ignore] == ["scratch-*"]
    blue, frankfurt = (estate.cell(name).stores[STORE] for name in ("blue", "frankfurt"))
    assert isinstance(blue, PineconeSettings)
    assert isinstance(frankfurt, PineconeSettings)
    assert blue.host == "https://example-blue-1a2b3c4.svc.aped-4627-b74a.pinecone.io"
    assert frankfurt.host is None
    assert frankfurt.index == "example-frankfurt"
    assert frankfurt.limiter is None


def test_tenure_takes_its_share_of_the_documented_rates() -> None:
    frankfurt = load().cell("frankfurt").stores[STORE]
    assert isinstance(frankfurt, PineconeSettings)
    rates = frankfurt.rates.scaled(frankfurt.rate_share)
    assert (rates["fetch"], rates["list"], rates["upsert_bytes"]) == (50, 100, 25_000_000)


def test_the_digest_of_a_catalogue_changes_with_every_part_of_the_map() -> None:
    digests = {load().catalogue.digest}
    for old, new in (
        ('namespace: "t-{tenant}"', 'namespace: "x-{tenant}"'),
        ("text: content, author", "text: plain, author"),
        ("person: [author]", "person: [author, text]"),
        ("scratch-*", "test-*"),
    ):
        digests.add(load(catalogue=(old, new)).catalogue.digest)
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('namespace: "t-{tenant}"', "namespace: everybody", "must contain {tenant} exactly once"),
        (
            "journal: postgres\n    fields",
            "journal: redis\n    fields",
            "must name a store of kind postgresql",
        ),
        ("journal: postgres\n    fields", "fields", "stores.semantics.journal: missing"),
        ("person: [author]", "person: [autor]", "is none of the fields; did you mean 'author'?"),
        ("{document_id: key, ", '{"$id": key, ', "is not a metadata field"),
    ],
)
def test_a_map_that_cannot_be_is_refused(old: str, new: str, said: str) -> None:
    assert said in problems(catalogue=(old, new))


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (
            "semantics: {kind: pinecone, api_key: {file: secrets/pinecone}}",
            "give the index's host, or its name",
        ),
        ("semantics: {kind: pinecone, index: Example, api_key: {file: x}}", "is not an index's name"),
        ("semantics: {kind: pinecone, index: example}", "api_key: missing"),
        (
            FOLDED.replace(
                "index: example-frankfurt",
                'host: "https://example-blue-1a2b3c4.svc.aped-4627-b74a.pinecone.io"',
            ),
            "is the same as",
        ),
        (FOLDED.replace("}}", "}, rate_share: 1.5}"), "rate_share"),
    ],
)
def test_an_index_that_cannot_be_is_refused(new: str, said: str) -> None:
    assert said in problems(estate=(FOLDED, new))


def test_every_secret_is_asked_for() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load().check_secrets()
    said = "\n".join(caught.value.problems)
    assert "cells.frankfurt.stores.semantics.api_key" in said
    assert "cells.blue.stores.semantics.limiter" in said


def test_the_example_of_the_page_is_a_catalogue() -> None:
    pathlib.Path("catalogue.yaml").write_text(examples.CATALOGUE)
    assert STORE in load_catalogue(pathlib.Path("catalogue.yaml")).stores
