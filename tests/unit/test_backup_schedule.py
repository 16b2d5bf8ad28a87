"""When backups are due: spread over the window, the highest tier first, made up for once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tenure.model.names import TenantId
from tenure.plan.backup_schedule import AGAIN_AFTER, Past, Timetable, due, slot_of

MIDNIGHT = datetime(2026, 6, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAILY = Timetable(rank=1, period=MIDNIGHT, window=4 * HOUR)
WEEKLY = Timetable(rank=2, period=MIDNIGHT - timedelta(days=2), window=4 * HOUR)
TABLES = {"platinum": DAILY, "gold": WEEKLY}
TENANTS = [TenantId(f"t-{n:03d}") for n in range(200)]
YESTERDAY = Past(point_at=MIDNIGHT - 20 * HOUR, regions={"eu"})


def test_every_tenant_has_a_place_of_its_own_that_stays() -> None:
    slots = [slot_of(tenant, DAILY) for tenant in TENANTS]
    assert slots == [slot_of(tenant, DAILY) for tenant in TENANTS]
    assert all(MIDNIGHT <= slot < MIDNIGHT + 4 * HOUR for slot in slots)
    per_hour = [sum(MIDNIGHT + n * HOUR <= s < MIDNIGHT + (n + 1) * HOUR for s in slots) for n in range(4)]
    assert all(30 < count < 70 for count in per_hour)


def test_a_tenant_is_due_from_its_place_on_until_it_has_a_backup_of_the_period() -> None:
    (tenant,) = TENANTS[:1]
    slot, past = slot_of(tenant, DAILY), {tenant: YESTERDAY}
    tenants = [(tenant, "platinum")]
    assert due(tenants, TABLES, past, now=slot - timedelta(seconds=1)) == ()
    (found,) = due(tenants, TABLES, past, now=slot)
    assert (found.tenant, found.period, found.slot) == (tenant, MIDNIGHT, slot)
    assert due(tenants, TABLES, {tenant: Past(point_at=slot, regions={"eu"})}, now=slot + HOUR) == ()


def test_after_an_outage_one_backup_is_made_up_for_and_no_more() -> None:
    (tenant,) = TENANTS[:1]
    old = {tenant: Past(point_at=MIDNIGHT - timedelta(days=9), regions={"eu"})}
    found = due([(tenant, "platinum")], TABLES, old, now=MIDNIGHT + 20 * HOUR)
    assert [one.period for one in found] == [MIDNIGHT]


def test_the_highest_tier_goes_first_whatever_its_places() -> None:
    tenants = [(t, "gold" if n % 2 else "platinum") for n, t in enumerate(TENANTS)]
    past = dict.fromkeys(TENANTS, Past(point_at=MIDNIGHT - timedelta(days=30), regions={"eu"}))
    found = due(tenants, TABLES, past, now=MIDNIGHT + 10 * HOUR)
    assert [one.tier for one in found] == ["platinum"] * 100 + ["gold"] * 100
    assert [one.slot for one in found[:100]] == sorted(one.slot for one in found[:100])


def test_one_that_failed_is_tried_again_later() -> None:
    (tenant,) = TENANTS[:1]
    now = MIDNIGHT + 10 * HOUR
    tenants = [(tenant, "platinum")]

    def tried(ago: timedelta) -> dict[TenantId, Past]:
        return {tenant: Past(point_at=YESTERDAY.point_at, regions={"eu"}, tried_at=now - ago)}

    assert due(tenants, TABLES, tried(AGAIN_AFTER - timedelta(seconds=1)), now=now) == ()
    assert len(due(tenants, TABLES, tried(AGAIN_AFTER), now=now)) == 1


def test_without_its_copy_in_the_other_region_a_backup_has_not_come_about() -> None:
    (tenant,) = TENANTS[:1]
    now = MIDNIGHT + 10 * HOUR
    tables = {"platinum": Timetable(rank=1, period=MIDNIGHT, window=HOUR, copy_to="us")}
    for regions, number in (({"eu"}, 1), ({"eu", "us"}, 0)):
        past = {tenant: Past(point_at=now - HOUR, regions=regions)}
        assert len(due([(tenant, "platinum")], tables, past, now=now)) == number


def test_who_was_never_backed_up_is_due_at_once_and_who_has_no_schedule_never() -> None:
    assert len(due([(TENANTS[0], "platinum")], TABLES, {}, now=MIDNIGHT)) == 1
    assert due([(TENANTS[0], "other")], TABLES, {}, now=MIDNIGHT + 9 * HOUR) == ()
