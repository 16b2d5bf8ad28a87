"""What Pinecone's SDK raises, as Tenure's errors. No message contains the API key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pinecone.errors import (
    ApiError,
    ForbiddenError,
    NotFoundError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
    RateLimitError,
    ServiceError,
    UnauthorizedError,
)

from tenure.errors import StoreRefused, StoreUnavailable, TenureError

_TOO_LARGE: Final = (413,)
_TEMPORARY: Final = (408, 425, 429)


class LoginRefused(StoreUnavailable):
    """The service does not let us in."""


class Absent(StoreRefused):
    """There is no namespace of that name, or no index."""


class TooLarge(StoreRefused):
    """The request holds more than one may; fewer records at once may do."""


class TokenRefused(StoreRefused):
    """The token of a listing's next page is no longer valid."""


class Throttled(StoreUnavailable):
    """The service asks for fewer requests. `retry_after_s` is what it asks for, None where it does not say."""

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(
            message, hint="others use the index as well: lower `rate_share` of this cell's store"
        )
        self.retry_after_s = retry_after_s


@contextmanager
def translated(where: str, *, paging: bool = False) -> Iterator[None]:
    """Turn what the SDK raises inside into a `TenureError` that names `where`. `paging`: the request has a token."""
    try:
        yield
    except ApiError as error:
        raise _answered(where, error, paging=paging) from error
    except PineconeTimeoutError as error:
        raise StoreUnavailable(
            f"{where} does not answer in time", hint="is the service up, and the network?"
        ) from error
    except PineconeConnectionError as error:
        raise StoreUnavailable(
            f"{where} cannot be reached: {error.message}", hint="is the index's host right?"
        ) from error
    except PineconeError as error:
        raise StoreRefused(f"{where}: {error.message}") from error


def _answered(where: str, error: ApiError, *, paging: bool) -> TenureError:
    said = f"{error.status_code} {error.message}"
    if isinstance(error, UnauthorizedError):
        return LoginRefused(f"{where} refuses the login", hint="check the API key")
    if isinstance(error, RateLimitError):
        return Throttled(f"{where} throttles Tenure: {said}", retry_after_s=error.retry_after)
    if isinstance(error, ServiceError) or error.status_code in _TEMPORARY:
        return StoreUnavailable(f"{where} cannot serve now: {said}")
    if isinstance(error, NotFoundError):
        return Absent(f"{where}: {said}")
    if error.status_code in _TOO_LARGE:
        return TooLarge(f"{where}: {said}")
    if paging and error.status_code == 400:
        return TokenRefused(f"{where}: {said}")
    hint = None
    if isinstance(error, ForbiddenError):
        hint = (
            "the API key needs the right to read and write this index, and the project's quota must allow it"
        )
    return StoreRefused(f"{where} refused: {said}", hint=hint)
