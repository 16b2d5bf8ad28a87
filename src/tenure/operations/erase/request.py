"""The request for an erasure as its operation keeps it: references, roles and dates, no person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from tenure.errors import UsageError
from tenure.model.names import TenantId

ROLES: Final = ("controller", "processor")
"""As whose data Tenure's users erase it: their own, or their customer's (Article 28(3)(g))."""
GROUNDS: Final[Mapping[str, str]] = {
    "end-of-contract": "Article 28(3)(g): the services have ended",
    "no-longer-needed": "Article 17(1)(a): no longer necessary for the purposes",
    "consent-withdrawn": "Article 17(1)(b): consent is withdrawn",
    "objection": "Article 17(1)(c): the data subject objects",
    "unlawful": "Article 17(1)(d): processed unlawfully",
    "legal-obligation": "Article 17(1)(e): a legal obligation",
}
MOST_MONTHS: Final = 3
"""One month, which may be extended by two (Article 12(3))."""
_MOST_CHARACTERS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one erasure is to do. `id` is the reference under which whoever asked knows the request."""

    id: str
    tenant: TenantId
    role: str
    ground: str
    received: date
    due: date
    cooling_off_h: float

    def __post_init__(self) -> None:
        if (
            not self.id
            or len(self.id) > _MOST_CHARACTERS
            or not self.id.isprintable()
            or self.id != self.id.strip()
        ):
            raise UsageError(
                f"{self.id[:40]!r} is no reference of a request: one to {_MOST_CHARACTERS} printable characters, "
                "without blanks around it",
                hint="give the ticket's number; it stands in the certificate, so no person's name or address",
            )
        if "@" in self.id:
            raise UsageError(
                "the reference of a request must not be an address: it stands in the certificate",
                hint="give the ticket's number",
            )
        if self.role not in ROLES or self.ground not in GROUNDS:
            raise UsageError(
                "an erasure needs a role and a ground", hint=f"{', '.join(ROLES)}; {', '.join(GROUNDS)}"
            )
        if not self.received <= self.due <= months_after(self.received, MOST_MONTHS):
            raise UsageError(
                f"due on {self.due} is not within {MOST_MONTHS} months after {self.received}",
                hint="the law gives one month, and two more where whoever asked was told so (Article 12(3))",
            )

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "scope": "tenant",
            "role": self.role,
            "ground": self.ground,
            "received": self.received.isoformat(),
            "due": self.due.isoformat(),
            "cooling_off_h": self.cooling_off_h,
        }

    @classmethod
    def of(cls, tenant: TenantId, request: Mapping[str, Any]) -> Order:
        return cls(
            id=str(request["id"]),
            tenant=tenant,
            role=str(request["role"]),
            ground=str(request["ground"]),
            received=date.fromisoformat(request["received"]),
            due=date.fromisoformat(request["due"]),
            cooling_off_h=float(request["cooling_off_h"]),
        )


def months_after(day: date, months: int) -> date:
    """The same day so many months later, or the last one of that month."""
    month = day.month - 1 + months
    first = date(day.year + month // 12, month % 12 + 1, 1)
    last = (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    return first.replace(day=min(day.day, last.day))
