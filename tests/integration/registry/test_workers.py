"""Who of the fleet lives, and which operations have been announced."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from tenure.model.names import TenantId
from tenure.model.tenancy import Placement
from tenure.registry.registry import Registry
from tenure.registry.workers import Worker

COPY, CONTROL = "tenure.copy.eu-west-1", "tenure.control.eu-west-1"
ONE = Worker(
    id="one", kind="worker", host="a", pid=7, queues=(COPY, CONTROL), regions=("eu-west-1",), slots=2
)
TWO = replace(ONE, id="two", queues=(CONTROL,))
CLOCK = Worker(id="three", kind="scheduler", host="a", pid=8)


def test_the_living_are_found_by_queue_and_kind_until_they_leave_or_fall_silent(registry: Registry) -> None:
    workers = registry.workers

    def living(**wanted: str) -> list[str]:
        return [seen.id for seen in workers.living(silent_s=60, **wanted)]

    for worker in (ONE, TWO, CLOCK):
        workers.beat(worker, gone_after_s=60)
    assert living() == ["one", "two", "three"]
    assert living(kind="worker") == ["one", "two"]
    assert living(queue=COPY) == ["one"]
    seen = workers.living(silent_s=60, queue=COPY)[0]
    assert (seen.queues, seen.regions, seen.slots, seen.pid) == (ONE.queues, ONE.regions, 2, 7)
    time.sleep(0.02)
    assert workers.living(silent_s=0.01) == (), "silent, and not counted on"
    workers.beat(CLOCK, gone_after_s=0.01)
    assert living() == ["three"], "the others are forgotten"
    workers.leave("three")
    workers.leave("three")
    assert living() == []


def test_an_operation_is_announced_again_when_it_was_looked_at_or_after_a_while(
    registry: Registry, add: Callable[[str], Placement]
) -> None:
    add("acme")
    operation = registry.operations.create(
        kind="migrate", tenant=TenantId("acme"), steps=("one",), requested_by="test"
    ).id
    note = registry.workers.note_wake
    assert note(operation, again_after_s=60)
    assert not note(operation, again_after_s=60)
    assert note(operation, again_after_s=0), "whoever insists"
    registry.workers.drop_wake(operation)
    assert note(operation, again_after_s=60), "somebody has looked at it"
