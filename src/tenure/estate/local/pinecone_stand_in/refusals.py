"""What the stand-in answers to a request that it does not serve, in the shape that the vendor's SDK reads."""

from __future__ import annotations

from typing import Final

CODES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    500: "UNKNOWN",
    503: "UNAVAILABLE",
}
"""The names of https://docs.pinecone.io/reference/api/errors."""


class Refused(Exception):
    """An answer with this status and message."""

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        code = CODES.get(self.status, "UNKNOWN")
        return {"error": {"code": code, "message": self.message}, "status": self.status}
