"""The lean client says and does what the SDK does, for what copies ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tenure.errors import StoreUnavailable
from tenure.estate.local import S3Endpoint
from tenure.model.secret import Secret
from tenure.stores.buckets.client import Bucket
from tenure.stores.buckets.errors import translated
from tenure.stores.buckets.lean import LeanClient
from tests.s3_proxy import CUT, LOST, Answer, faulty, refusal, times

KEYS = (
    "plain",
    "with blank",
    "ümläut",
    "a+b&c=d?e#f",
    "per%25cent",
    "star*~'()!",
    "x//y",
    "日本",
)
HEADERS = {
    "CacheControl": "max-age=60,  private",
    "ContentDisposition": "attachment; filename=x.txt",
    "ContentLanguage": "de",
    "ContentType": "text/plain; charset=utf-8",
}


@pytest.fixture
def place(fresh_bucket: Callable[..., tuple[S3Endpoint, str]]) -> Bucket:
    s3, name = fresh_bucket("seaweed-a")
    return Bucket(
        endpoint=s3.endpoint,
        name=name,
        region=s3.region,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
    )


@pytest.fixture
def clients(place: Bucket) -> Iterator[tuple[Any, Any]]:
    lean, sdk = place.lean_client(connections=2), place.client(connections=2)
    assert isinstance(lean, LeanClient)
    yield lean, sdk
    for client in (lean, sdk):
        client.close()


def seen(client: Any, bucket: str, key: str) -> dict[str, Any]:
    answer = client.get_object(Bucket=bucket, Key=key)
    return {
        **{name: answer.get(name) for name in (*HEADERS, "ETag", "ContentLength", "Metadata")},
        "TagCount": answer.get("TagCount") or 0,
        "Body": answer["Body"].read(),
    }


@pytest.mark.parametrize("key", KEYS)
def test_an_object_that_was_put_copied_and_read_is_the_same_as_through_the_sdk(
    clients: tuple[Any, Any], place: Bucket, key: str
) -> None:
    lean, sdk = clients
    given = {**HEADERS, "Metadata": {"who": "Zoë  Ångström", "n": "1"}, "Tagging": "a=b&c=%C3%A4"}
    put = lean.put_object(Bucket=place.name, Key=key, Body=b"contents", **given)
    sdk.put_object(Bucket=place.name, Key=f"sdk/{key}", Body=b"contents", **given)
    lean.copy_object(
        Bucket=place.name,
        Key=f"copied/{key}",
        CopySource={"Bucket": place.name, "Key": key},
        MetadataDirective="COPY",
        TaggingDirective="COPY",
    )
    by_sdk = seen(sdk, place.name, f"sdk/{key}")
    assert by_sdk["TagCount"] == 2
    assert put["ETag"] == by_sdk["ETag"]
    for where in (key, f"sdk/{key}", f"copied/{key}"):
        assert seen(lean, place.name, where) == seen(sdk, place.name, where) == by_sdk
    tags = sdk.get_object_tagging(Bucket=place.name, Key=f"copied/{key}")["TagSet"]
    assert {t["Key"]: t["Value"] for t in tags} == {"a": "b", "c": "ä"}


def test_conditions_and_refusals_have_the_codes_of_the_sdk(clients: tuple[Any, Any], place: Bucket) -> None:
    lean, sdk = clients
    lean.put_object(Bucket=place.name, Key="a", Body=b"1", IfNoneMatch="*")

    def code(call: Callable[..., Any], **arguments: Any) -> str:
        with pytest.raises(ClientError) as caught:
            call(**{"Bucket": place.name, **arguments})
        return str(caught.value.response["Error"]["Code"])

    for call, arguments in (
        ("put_object", {"Key": "a", "Body": b"2", "IfNoneMatch": "*"}),
        ("put_object", {"Key": "a", "Body": b"2", "IfMatch": '"0"'}),
        ("get_object", {"Key": "absent"}),
        ("copy_object", {"Key": "b", "CopySource": {"Bucket": place.name, "Key": "absent"}}),
    ):
        assert code(getattr(lean, call), **arguments) == code(getattr(sdk, call), **arguments)
    for wrong in (
        replace(place, secret_key=Secret("wrong")),
        replace(place, access_key=Secret("nobody")),
    ):
        client = wrong.lean_client(connections=1)
        with pytest.raises(StoreUnavailable, match="login"), translated("there"):
            client.get_object(Bucket=place.name, Key="a")
        client.close()


@pytest.mark.parametrize("fault", [CUT, LOST, refusal(503, "SlowDown"), refusal(500, "InternalError")])
def test_what_goes_wrong_once_is_tried_again_and_what_goes_on_is_unavailable(
    place: Bucket, fault: Answer
) -> None:
    assert place.endpoint is not None
    with faulty(place.endpoint) as proxy:
        client = replace(place, endpoint=proxy.endpoint).lean_client(connections=1)
        calls: tuple[Callable[[], Any], ...] = (
            lambda: client.put_object(Bucket=place.name, Key="a", Body=b"1"),
            lambda: client.copy_object(
                Bucket=place.name, Key="b", CopySource={"Bucket": place.name, "Key": "a"}
            ),
            lambda: seen(client, place.name, "b"),
        )
        for n, call in enumerate(calls):
            before = len(proxy.seen)
            proxy.rule = times(1, fault, lambda _request: True)
            call()
            assert len(proxy.seen) == before + 2, n
            proxy.rule = lambda _request: fault
            with pytest.raises(StoreUnavailable), translated("there"):
                call()
            assert len(proxy.seen) == before + 5, n
        client.close()


def test_a_copy_that_is_answered_with_an_error_and_status_200_has_failed(place: Bucket) -> None:
    assert place.endpoint is not None
    with faulty(place.endpoint) as proxy:
        client = replace(place, endpoint=proxy.endpoint).lean_client(connections=1)
        client.put_object(Bucket=place.name, Key="a", Body=b"1")
        proxy.rule = lambda _request: refusal(200, "InternalError")
        with pytest.raises(StoreUnavailable, match="InternalError"), translated("there"):
            client.copy_object(Bucket=place.name, Key="b", CopySource={"Bucket": place.name, "Key": "a"})
        client.close()


def test_a_bucket_of_amazon_or_without_keys_of_its_own_is_the_sdks(place: Bucket) -> None:
    for other in (
        replace(place, endpoint=None),
        replace(place, access_key=Secret(""), secret_key=Secret("")),
    ):
        client = other.lean_client(connections=1)
        assert not isinstance(client, LeanClient)
        client.close()
