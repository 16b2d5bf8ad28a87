"""The settings of the fleet: the workers that carry operations on, and the broker over which they are woken."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tenure.document import Settings, setting
from tenure.estate.secret_ref import SecretSetting
from tenure.estate.values import AnyName


class Fleet(Settings):
    """Workers that carry operations on. Without this block everything runs in the process that was asked.

    The broker only says *when* to look at an operation: losing it, or what it holds, loses nothing.
    """

    title: ClassVar[str] = "fleet"
    broker: SecretSetting = setting(
        "The URL of the broker: `redis://` or `rediss://` (Redis or Valkey), `amqp://` or `amqps://` (RabbitMQ 3.10 or "
        "newer, with quorum queues)."
    )
    namespace: AnyName = setting(
        "What the names of the queues begin with. Estates that share a broker need different ones, or a worker would "
        "be asked for operations that its control database does not have.",
        default="tenure",
    )
    presence_s: Annotated[float, Field(ge=0.5, le=60)] = setting(
        "How often a worker says in the control database that it lives. One that was silent for four times as long is "
        "not counted on: long enough for a failover of the database, short enough that no operation is given to a dead "
        "fleet for longer.",
        default=5,
        unit="s",
    )
    sit_out_s: Annotated[float, Field(ge=0, le=600)] = setting(
        "How long a worker waits for the next attempt of a step before it takes something else on. An operation that "
        "is taken up by another process compares everything again; so the pauses between the attempts of a switch "
        "(1 to 16 s) are sat out.",
        default=30,
        unit="s",
    )
    wake_again_s: Annotated[float, Field(ge=1, le=3600)] = setting(
        "How long an operation that waits in a queue is not announced again: what a broker has lost is announced anew "
        "by then, and a backlog does not fill with the same operations. One that a worker has looked at may be "
        "announced at once.",
        default=60,
        unit="s",
    )
    visibility_timeout_s: Annotated[int, Field(ge=60, le=86_400)] = setting(
        "After how long Redis delivers a message again that no worker has acknowledged. A look at an operation may "
        "last longer: who gets the second message sees that somebody is at it and throws it away. The scheduler "
        "finds what a dead worker has left much sooner.",
        default=3600,
        unit="s",
    )
    look_limit_h: Annotated[float, Field(ge=1, le=720)] = setting(
        "When a worker process that is still at one operation is killed. The last resort against one that hangs; what "
        "it did is carried on as after any crash. More than the longest copy takes.",
        default=48,
        unit="h",
    )

    @property
    def silent_s(self) -> float:
        """After how long without a word a worker is not counted on."""
        return 4 * self.presence_s

    @property
    def gone_s(self) -> float:
        """After how long without a word a worker is forgotten."""
        return 60 * self.presence_s
