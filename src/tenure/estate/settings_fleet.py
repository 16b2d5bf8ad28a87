"""The settings of the fleet: the workers that carry operations on, and the broker over which they are woken."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tenure.document import Settings, setting
from tenure.estate.secret_ref import SecretSetting
from tenure.estate.values import AnyName


class Scheduler(Settings):
    """`tenure scheduler`: wakes operations that were left lying and inserts those that are due. One process leads, the
    others stand by. All its times are the control database's."""

    title: ClassVar[str] = "fleet.scheduler"
    tick_s: Annotated[int, Field(ge=1, le=60)] = setting(
        "How often it looks for operations that are due. Each look is one query.", default=2, unit="s"
    )
    quiet_s: Annotated[int, Field(ge=1, le=60)] = setting(
        "How long nothing must have happened to a due operation before somebody is woken for it: whoever runs it gets "
        "from one step to the next within that time.",
        default=3,
        unit="s",
    )
    wake_again_s: Annotated[int, Field(ge=1, le=3600)] = setting(
        "How long a woken operation has to be claimed before somebody is woken for it again. Shorter floods the queue "
        "of a fleet that is busy, longer leaves what a lost message was about lying.",
        default=30,
        unit="s",
    )
    silence_s: Annotated[int, Field(ge=3, le=10)] = setting(
        "How long the leader may say nothing before the control database ends its session and another process leads. "
        "Longer than a slow answer of the database, short enough that somebody leads again within 15 s.",
        default=8,
        unit="s",
    )
    grace_s: Annotated[int, Field(ge=0, le=604_800)] = setting(
        "How late a schedule may fire after an outage. Of the times that were missed the latest one within the grace "
        "is made up for; all others are journaled as missed.",
        default=3600,
        unit="s",
    )
    most_per_fire: Annotated[int, Field(ge=1, le=100)] = setting(
        "How many operations one fire time of a schedule inserts at most; the rest comes with the next ones. Keeps a "
        "thousand soaks that end together from arriving at once.",
        default=20,
        unit="operations",
    )
    soaks_every_s: Annotated[int, Field(ge=1, le=86_400)] = setting(
        "How often every soak is looked at, as `tenure soak check` does: by then one that is over, or keeps too much "
        "WAL, is ended. A disk fills in minutes, a look takes some queries per soaking tenant.",
        default=60,
        unit="s",
    )
    comparisons_every_s: Annotated[int, Field(ge=1, le=86_400)] = setting(
        "How often it looks for soaking tenants whose two copies were not compared for `compare_after_s`.",
        default=300,
        unit="s",
    )
    compare_after_s: Annotated[int, Field(ge=1, le=2_592_000)] | None = setting(
        "How old the last full comparison of a soaking tenant may be before it is compared and mended again. It bounds "
        "what Redis and S3 have to catch up with before a rollback; it reads everything the tenant has on both sides. "
        "`null` for never.",
        default=21_600,
        unit="s",
    )
    backups_every_s: Annotated[int, Field(ge=1, le=86_400)] = setting(
        "How often it looks for tenants that are due for a backup by their tier's schedule and window.",
        default=60,
        unit="s",
    )
    prunes_every_s: Annotated[int, Field(ge=1, le=604_800)] = setting(
        "How often it looks for tenants that have backups which their tier keeps no longer.",
        default=3600,
        unit="s",
    )
    drills_every_s: Annotated[int, Field(ge=1, le=604_800)] = setting(
        "How often it looks for tiers that are due for a drill.", default=3600, unit="s"
    )
    carry_on: bool = setting(
        "Whether the scheduler itself carries due operations on, one after the other, where no broker is configured. "
        "If not, it only says which ones are due.",
        default=True,
    )


class Fleet(Settings):
    """Workers that carry operations on. Without this block everything runs in the process that was asked.

    The broker only says *when* to look at an operation: losing it, or what it holds, loses nothing.
    """

    title: ClassVar[str] = "fleet"
    broker: SecretSetting | None = setting(
        "The URL of the broker: `redis://` or `rediss://` (Redis or Valkey), `amqp://` or `amqps://` (RabbitMQ 3.10 or "
        "newer, with quorum queues). Without it there are no workers.",
        default=None,
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

    scheduler: Scheduler = setting("The scheduler.", default=Scheduler())
    locks: SecretSetting | None = setting(
        "The URL of a Redis or Valkey (redis:// or rediss://) with a lock per tenant, which keeps two executors off "
        "one tenant before they ask the control database. Everything is as correct without it, and while it is away. "
        "Two estates need two databases of it.",
        default=None,
    )

    @property
    def silent_s(self) -> float:
        """After how long without a word a worker is not counted on."""
        return 4 * self.presence_s

    @property
    def gone_s(self) -> float:
        """After how long without a word a worker is forgotten."""
        return 60 * self.presence_s
