"""The stand-in keeps the vendor's published contract where Tenure relies on it, and what it has acknowledged."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pinecone import Index, Pinecone
from pinecone.errors import (
    ApiError,
    ConflictError,
    NotFoundError,
    PayloadTooLargeError,
    RateLimitError,
    UnauthorizedError,
)

from tenure.estate.local import PineconeEndpoint, RunningEstate
from tests.pinecone_stand_in import StandIn

NS = "t-acme"


@pytest.fixture
def project(endpoint: PineconeEndpoint) -> Iterator[Pinecone]:
    with Pinecone(api_key=endpoint.api_key.reveal(), host=endpoint.control) as client:
        yield client
        for index in client.indexes.list():
            client.indexes.delete(index.name)


@pytest.fixture
def index(project: Pinecone, stand_in: StandIn) -> Iterator[Index]:
    made = project.indexes.create(name="documents", schema=dense(3))
    with project.index(made.name) as opened:
        assert isinstance(opened, Index)
        yield opened


def dense(dimension: int, metric: str = "cosine") -> dict[str, Any]:
    return {"fields": {"_values": {"type": "dense_vector", "dimension": dimension, "metric": metric}}}


def put(index: Index, *ids: str, **metadata: Any) -> int:
    vectors = [{"id": one, "values": [1.0, 2.0, 3.0], "metadata": metadata} for one in ids]
    answer = index.upsert(vectors=vectors, namespace=NS)
    assert answer.response_info is not None
    assert answer.response_info.lsn_committed is not None
    return answer.response_info.lsn_committed


def found(index: Index, filter_: dict[str, Any]) -> list[str]:
    return sorted(index.fetch_by_metadata(filter=filter_, namespace=NS).vectors)


def test_every_answer_says_that_it_is_a_stand_in(index: Index, endpoint: PineconeEndpoint) -> None:
    put(index, "a")
    info = index.query(vector=[1.0, 0.0, 0.0], top_k=1, namespace=NS).response_info
    assert info is not None
    assert "stand-in" in info.raw_headers["x-tenure-stand-in"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{endpoint.control}/indexes", timeout=5)
    assert caught.value.code == 401
    assert "not Pinecone" in caught.value.headers["x-tenure-stand-in"]
    caught.value.close()


def test_a_wrong_key_and_an_unknown_name_are_refused(project: Pinecone, index: Index) -> None:
    with pytest.raises(NotFoundError):
        project.indexes.describe("nowhere")
    with pytest.raises(ConflictError):
        project.indexes.create(name="documents", schema=dense(3))
    with Index(host=index.host, api_key="wrong") as wrong, pytest.raises(UnauthorizedError):
        wrong.describe_index_stats()
    for write in (
        lambda: index.delete(ids=["a"], namespace="nowhere"),
        lambda: index.update(id="a", set_metadata={"a": 1}, namespace="nowhere"),
        lambda: index.delete_namespace(name="nowhere"),
        lambda: index.describe_namespace(name="nowhere"),
    ):
        with pytest.raises(NotFoundError):
            write()
    assert index.fetch(ids=["a"], namespace="nowhere").vectors == {}
    assert index.list_paginated(namespace="nowhere").vectors == []


def test_documented_limits_are_kept(index: Index) -> None:
    ok = {"values": [1.0, 2.0, 3.0]}
    for wrong in (
        [{"id": str(n), **ok} for n in range(1001)],
        [{"id": "a", "values": [1.0, 2.0]}],
        [{"id": "a", "values": [0.0, 0.0, 0.0]}],
        [{"id": "a", **ok, "metadata": {"text": "x" * 41_000}}],
    ):
        with pytest.raises(ApiError) as caught:
            index.upsert(vectors=wrong, namespace=NS)
        assert caught.value.status_code == 400
    large = [{"id": str(n), **ok, "metadata": {"text": "x" * 39_000}} for n in range(60)]
    with pytest.raises(PayloadTooLargeError):
        index.upsert(vectors=large, namespace=NS)
    with pytest.raises(ApiError):
        index.fetch(ids=[str(n) for n in range(1001)], namespace=NS)
    with pytest.raises(ApiError):
        index.delete(ids=[str(n) for n in range(1001)], namespace=NS)
    assert index.describe_index_stats().total_vector_count == 0


def test_more_requests_a_second_than_documented_are_throttled(
    index: Index, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pinecone._internal.http_client._retry_sleep", lambda _seconds: None)
    put(index, "a")
    stand_in.behave(limits=0.02)

    def ask() -> None:
        for _ in range(40):
            index.fetch(ids=["a"], namespace=NS)

    with pytest.raises(RateLimitError):
        ask()
    assert stand_in.seen()["throttled"] > 0
    stand_in.behave(limits=None)
    ask()


def test_ids_are_listed_in_the_order_of_their_bytes_page_by_page(index: Index) -> None:
    ids = [f"{prefix}{n}" for prefix in ("doc#", "Doc-", "~", "a b/") for n in range(70)]
    put(index, *ids)
    listed = [one.id for page in index.list(namespace=NS, limit=37) for one in page.vectors]
    assert listed == sorted(ids)
    some = [one.id for page in index.list(namespace=NS, prefix="Doc-") for one in page.vectors]
    assert some == sorted(one for one in ids if one.startswith("Doc-"))


@pytest.mark.parametrize(
    ("filter_", "matching"),
    [
        ({"kind": "a"}, ["1", "3"]),
        ({"kind": {"$ne": "a"}}, ["2", "4"]),
        ({"kind": {"$in": ["b", "x"]}}, ["2"]),
        ({"kind": {"$nin": ["a"]}}, ["2", "4"]),
        ({"n": {"$gt": 1, "$lte": 3}}, ["2", "3"]),
        ({"n": {"$gte": 3}}, ["3"]),
        ({"n": {"$lt": 2}}, ["1"]),
        ({"tags": "y"}, ["2", "3"]),
        ({"open": True}, ["1"]),
        ({"open": {"$exists": True}}, ["1", "2"]),
        ({"$or": [{"kind": "b"}, {"n": 1}]}, ["1", "2"]),
        ({"$and": [{"kind": "a"}, {"tags": {"$in": ["y"]}}]}, ["3"]),
        ({"kind": "a", "n": 3}, ["3"]),
    ],
)
def test_metadata_filters_select_as_documented(
    index: Index, filter_: dict[str, Any], matching: list[str]
) -> None:
    put(index, "1", kind="a", n=1, tags=["x"], open=True)
    put(index, "2", kind="b", n=2, tags=["x", "y"], open=False)
    put(index, "3", kind="a", n=3, tags=["y"])
    put(index, "4", other="z")
    assert found(index, filter_) == matching
    assert sorted(
        m.id for m in index.query(vector=[1.0, 0, 0], top_k=9, namespace=NS, filter=filter_).matches
    ) == (matching)
    index.delete(filter=filter_, namespace=NS)
    left = [one.id for page in index.list(namespace=NS) for one in page.vectors]
    assert left == sorted({"1", "2", "3", "4"} - set(matching))


def test_writes_are_numbered_by_namespace_and_queries_say_what_they_see(
    index: Index, stand_in: StandIn
) -> None:
    assert [put(index, "a"), put(index, "b")] == [1, 2]
    assert index.upsert(vectors=[("a", [1.0, 0.0, 0.0])], namespace="other").response_info.lsn_committed == 1  # type: ignore[union-attr]
    stand_in.behave(frozen=True)
    assert put(index, "c") == 3
    index.delete(ids=["a"], namespace=NS)
    updated = index.update(id="absent", set_metadata={"x": 1}, namespace=NS).response_info
    assert updated is not None
    assert updated.lsn_committed == 5

    def seen() -> tuple[int | None, list[str | None]]:
        info = index.query(vector=[1.0, 0.0, 0.0], top_k=1, namespace=NS).response_info
        assert info is not None
        return info.lsn_reconciled, [one.id for page in index.list(namespace=NS) for one in page.vectors]

    assert seen() == (2, ["a", "b"])
    stand_in.settle()
    assert seen() == (5, ["b", "c"])


def test_nothing_acknowledged_is_lost_by_kill_9(
    index: Index, stand_in: StandIn, servers: RunningEstate, project: Pinecone
) -> None:
    put(index, *map(str, range(300)), kind="kept")
    index.upsert(
        vectors=[
            {
                "id": "s",
                "values": [0.1, -0.2, 3e-39],
                "sparse_values": {"indices": [9, 4], "values": [0.5, 0.1]},
            }
        ],
        namespace=NS,
    )
    stand_in.behave(frozen=True)
    put(index, "late")
    index.delete_namespace(name=NS)
    index.upsert(vectors=[("new", [1.0, 1.0, 1.0])], namespace=NS)
    for _ in range(2):
        servers.stop("pinecone-a", 9)
        servers.start("pinecone-a")
    assert [one.name for one in project.indexes.list()] == ["documents"]
    listed = [one.id for page in index.list(namespace=NS) for one in page.vectors]
    assert listed == ["new"]
    assert put(index, "next") == 6


def test_stored_values_are_of_32_bits(index: Index) -> None:
    given = [0.1, 1 / 3, 16777217.0]
    index.upsert(vectors=[("a", given)], namespace=NS)
    held = index.fetch(ids=["a"], namespace=NS).vectors["a"].values
    assert held == [0.10000000149011612, 0.3333333432674408, 16777216.0]


def test_namespaces_are_described_listed_and_deleted(index: Index) -> None:
    for n in range(130):
        index.upsert(vectors=[("a", [1.0, 0.0, 0.0])], namespace=f"n{n:03d}")
    index.upsert(vectors=[("a", [1.0, 0.0, 0.0])])
    names = [one.name for page in index.list_namespaces() for one in page.namespaces]
    assert names == ["__default__", *(f"n{n:03d}" for n in range(130))]
    assert index.describe_namespace(name="n007").record_count == 1
    assert index.list_namespaces_paginated(prefix="n12").total_count == 10
    index.delete(delete_all=True, namespace="n007")
    assert index.describe_namespace(name="n007").record_count == 0
    index.delete_namespace(name="n007")
    with pytest.raises(NotFoundError):
        index.describe_namespace(name="n007")


def test_queries_rank_by_the_metric(project: Pinecone, stand_in: StandIn) -> None:
    vectors = [("far", [10.0, 0.0]), ("near", [1.0, 0.1]), ("other", [-1.0, 0.0])]
    ranked = {}
    for metric in ("cosine", "dotproduct", "euclidean"):
        made = project.indexes.create(name=metric, schema=dense(2, metric))
        with project.index(made.name) as opened:
            opened.upsert(vectors=vectors, namespace=NS)
            matches = opened.query(vector=[1.0, 0.0], top_k=2, namespace=NS).matches
            ranked[metric] = [match.id for match in matches]
    assert ranked == {
        "cosine": ["far", "near"],
        "dotproduct": ["far", "near"],
        "euclidean": ["near", "other"],
    }


def test_an_index_of_sparse_vectors_takes_no_dense_ones(project: Pinecone, stand_in: StandIn) -> None:
    made = project.indexes.create(
        name="terms", schema={"fields": {"_sparse_values": {"type": "sparse_vector"}}}
    )
    with project.index(made.name) as opened:
        one = {"id": "a", "sparse_values": {"indices": [3, 70], "values": [0.5, 1.5]}}
        opened.upsert(vectors=[one, {**one, "id": "b"}], namespace=NS)
        held = opened.fetch(ids=["a"], namespace=NS).vectors["a"]
        assert held.sparse_values is not None
        assert held.sparse_values.indices == [3, 70]
        assert opened.describe_index_stats().vector_type == "sparse"
        with pytest.raises(ApiError):
            opened.upsert(vectors=[("c", [1.0])], namespace=NS)


def test_only_the_key_turns_faults_up(endpoint: PineconeEndpoint, stand_in: StandIn) -> None:
    request = urllib.request.Request(
        f"{endpoint.control}/stand-in/behaviour", method="PUT", data=json.dumps({"lag_s": 5}).encode()
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=5)
    assert caught.value.code == 401
    caught.value.close()
    assert stand_in.seen()["lag_s"] == 0


def test_a_large_result_is_refused(index: Index, wait_until: Callable[..., None]) -> None:
    for start in range(0, 150, 50):
        put(index, *(f"{n:04d}" for n in range(start, start + 50)), text="x" * 39_000)
    with pytest.raises(ApiError):
        index.query(vector=[1.0, 0.0, 0.0], top_k=150, namespace=NS, include_metadata=True)
    assert len(index.query(vector=[1.0, 0.0, 0.0], top_k=150, namespace=NS).matches) == 150
