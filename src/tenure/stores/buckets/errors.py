"""What boto raises, as Tenure's errors. No message contains a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from tenure.errors import StoreRefused, StoreUnavailable

ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound", "NoSuchVersion"})
_NO_ENTRY: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthFailure",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
    }
)
TEMPORARY: Final = frozenset(
    {
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
        "RequestTimeout",
        "Throttling",
        "RequestLimitExceeded",
        "503",
        "500",
    }
)
_READS: Final = frozenset({"HeadObject", "GetObject", "CopyObject"})


def code_of(error: ClientError) -> str:
    """The code of an answer, such as `NoSuchKey`; of an answer without a body, its HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what boto raises inside into a `TenureError` that names `where`."""
    try:
        yield
    except ClientError as error:
        raise _answered(where, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise _refused_login(where) from error
    except (ConnectionError, HTTPClientError) as error:
        raise StoreUnavailable(
            f"{where} cannot be reached: {error}", hint="is the server up, and its endpoint right?"
        ) from error
    except BotoCoreError as error:
        raise StoreRefused(f"{where}: {error}") from error


def _refused_login(where: str) -> StoreUnavailable:
    return StoreUnavailable(f"{where} refuses the login", hint="check the access key and the secret key")


def _answered(where: str, error: ClientError) -> StoreUnavailable | StoreRefused:
    code = code_of(error)
    if code in _NO_ENTRY:
        return _refused_login(where)
    if code in TEMPORARY:
        return StoreUnavailable(f"{where} cannot serve now: {code}")
    operation = error.operation_name
    hint = None
    if code in ("AccessDenied", "403"):
        hint = "Tenure needs to read, write, list (also versions and uploads) and tag objects, and to write the policy"
    elif code == "NoSuchBucket":
        hint = "create the bucket, or correct its name in tenure.yaml"
    elif code == "InvalidObjectState":
        hint = "the object is archived: restore it (RestoreObject) before it is copied"
    elif operation in _READS and code in ("400", "InvalidRequest", "InvalidArgument"):
        hint = (
            "an object that is encrypted with a key of the app's own (SSE-C) cannot be read by anybody else"
        )
    return StoreRefused(f"{where} refused {operation}: {code}", hint=hint)
