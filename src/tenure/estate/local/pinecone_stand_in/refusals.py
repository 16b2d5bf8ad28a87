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
"""The names of https://docs.pinecone.io/reference/api/errors, for the control plane."""
NUMBERS: Final = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 413: 8, 429: 8, 500: 2, 503: 14}
"""The numbers of https://grpc.io/docs/guides/status-codes, for the data plane."""


class Refused(Exception):
    """An answer with this status and message."""

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s

    def body(self, *, control: bool) -> dict[str, object]:
        """The answer's body, as the control plane or a data plane has it."""
        if control:
            code = CODES.get(self.status, "UNKNOWN")
            return {"error": {"code": code, "message": self.message}, "status": self.status}
        return {"code": NUMBERS.get(self.status, 2), "message": self.message, "details": []}
