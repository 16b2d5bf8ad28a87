"""What boto raises, as Tenure's errors. No message contains a key or a log event."""

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

NOT_FOUND: Final = "ResourceNotFoundException"
EXISTS: Final = "ResourceAlreadyExistsException"
BAD_PARAMETER: Final = "InvalidParameterException"
_NO_ENTRY: Final = frozenset(
    {
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "IncompleteSignature",
        "ExpiredTokenException",
        "ExpiredToken",
        "AuthFailure",
        "MissingAuthenticationToken",
    }
)
_TEMPORARY: Final = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "TooManyRequestsException",
        "LimitExceededException",
        "ServiceUnavailableException",
        "ServiceUnavailable",
        "InternalServerException",
        "InternalFailure",
        "InternalServiceFault",
        "OperationAbortedException",
        "RequestTimeout",
        "500",
        "502",
        "503",
        "504",
    }
)
_HINTS: Final = {
    "AccessDeniedException": "Tenure needs logs:Describe*, Get*, Filter*, List*, Create*, PutLogEvents, "
    "PutRetentionPolicy and Delete* on these groups, and cloudwatch:ListMetrics",
    "AccessDenied": "Tenure needs cloudwatch:ListMetrics",
    NOT_FOUND: "create the log group, or correct its name in the catalogue",
    "ValidationException": "a log group may be protected from deletion: switch that off first",
    "InvalidOperationException": "log groups of the Infrequent Access and Delivery classes cannot be read this way",
}


def code_of(error: ClientError) -> str:
    """The code of an answer, such as `ThrottlingException`; of an answer without a body, its HTTP status."""
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
    if code in _TEMPORARY:
        return StoreUnavailable(f"{where} cannot serve now: {code}")
    return StoreRefused(f"{where} refused {error.operation_name}: {code}", hint=_HINTS.get(code))
