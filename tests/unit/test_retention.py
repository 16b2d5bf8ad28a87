"""What is kept and what may go: never early, never the last good ones, never because somebody added more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tenure.plan.retention import Decision, Fate, Held, Policy, decide

NOW = datetime(2026, 6, 1, 3, tzinfo=UTC)
DAY = timedelta(days=1)
BRONZE = Policy(keep=30 * DAY, keep_at_least=2, period=30 * DAY)
GOLD = Policy(keep=90 * DAY, keep_at_least=3, period=7 * DAY)


def backup(name: str, *, days_ago: float, policy: Policy | None = BRONZE, good: bool = True) -> Held:
    stored = NOW - days_ago * DAY
    return Held(
        id=name, vault_stored_at=stored, recorded_stored_at=stored, policy=policy, good=good, size_bytes=1
    )


def fates(held: list[Held], **kwargs: str) -> dict[str, Fate]:
    return {d.backup: d.fate for d in decide(held, now=NOW, tenant_hold=kwargs.get("tenant_hold"))}


def one(held: Held, others: int = 5) -> Decision:
    """What becomes of one that is too old, beside good ones enough."""
    beside = [backup(f"other-{n}", days_ago=1 + 30 * n) for n in range(others)]
    return next(d for d in decide([held, *beside], now=NOW) if d.backup == held.id)


OLD = backup("old", days_ago=400)


def test_a_backup_goes_when_its_days_have_passed_and_others_are_good() -> None:
    decided = one(OLD)
    assert decided.fate is Fate.DELETE
    assert decided.because == "stored 400 days ago, kept for 30 days"


def test_the_last_good_ones_stay_however_old_they_are() -> None:
    held = [backup(f"b{n}", days_ago=100 + 30 * n) for n in range(4)]
    assert fates(held) == {"b0": Fate.KEEP, "b1": Fate.KEEP, "b2": Fate.DELETE, "b3": Fate.DELETE}


def test_backups_that_were_never_found_whole_do_not_count_as_good_ones() -> None:
    held = [
        backup("good", days_ago=200),
        backup("also-good", days_ago=300),
        *(backup(f"bad{n}", days_ago=40 + 30 * n, good=False) for n in range(4)),
    ]
    assert {name for name, fate in fates(held).items() if fate is Fate.KEEP} == {"good", "also-good"}


def test_what_is_disputed_or_something_else_keeps_no_place_from_a_good_one() -> None:
    newer = backup("newer", days_ago=40)
    for wrong in (replace(newer, same=False), replace(newer, disputed=True), replace(newer, deleting=True)):
        held = [wrong, *(backup(f"b{n}", days_ago=100 + 30 * n) for n in range(3))]
        decided = fates(held)
        assert [decided[f"b{n}"] for n in range(3)] == [Fate.KEEP, Fate.KEEP, Fate.DELETE], wrong


def test_both_clocks_have_to_say_that_the_days_have_passed() -> None:
    early, late = NOW - 30 * DAY - timedelta(minutes=20), NOW - 30 * DAY + timedelta(minutes=20)
    for vault, recorded, fate in (
        (early, early, Fate.DELETE),
        (early, late, Fate.KEEP),
        (late, early, Fate.KEEP),
    ):
        assert one(replace(OLD, vault_stored_at=vault, recorded_stored_at=recorded)).fate is fate


def test_the_newest_good_one_stays_beside_the_first_ones_of_their_periods() -> None:
    held = [backup("newest", days_ago=31), backup("middle", days_ago=32), backup("first", days_ago=33)]
    decided = fates([replace(b, policy=replace(BRONZE, keep_at_least=1)) for b in held])
    assert decided == {"newest": Fate.KEEP, "middle": Fate.DELETE, "first": Fate.KEEP}


def test_each_reason_to_keep_is_enough() -> None:
    stored = OLD.vault_stored_at
    assert stored is not None
    for change, word in (
        (replace(OLD, locked_until=NOW + DAY), "locked"),
        (replace(OLD, object_hold=True), "legal hold"),
        (replace(OLD, same=False), "something else"),
        (replace(OLD, disputed=True), "something else"),
        (replace(OLD, vault_stored_at=stored - 2 * DAY), "another time"),
        (replace(OLD, vault_stored_at=NOW), "another time"),
        (replace(OLD, policy=None), "no tier"),
    ):
        decided = one(change)
        assert (decided.fate, word in decided.because) == (Fate.KEEP, True), decided


def test_a_legal_hold_keeps_everything_of_the_tenant() -> None:
    held = [OLD, *(backup(f"b{n}", days_ago=40 + 30 * n) for n in range(6))]
    assert set(fates(held, tenant_hold="case 7").values()) == {Fate.KEEP}


def test_a_lock_that_has_ended_keeps_nothing() -> None:
    assert one(replace(OLD, locked_until=NOW - DAY)).fate is Fate.DELETE


def test_what_only_one_side_knows_is_reported_and_never_deleted() -> None:
    assert one(replace(OLD, recorded_stored_at=None)).fate is Fate.FOREIGN
    assert one(replace(OLD, vault_stored_at=None)).fate is Fate.LOST
    assert one(replace(OLD, vault_stored_at=None, deleting=True)).fate is Fate.DELETE


def test_a_flood_of_foreign_backups_changes_nothing() -> None:
    held = [backup(f"b{n}", days_ago=31 + 30 * n) for n in range(4)]
    flood = [replace(backup(f"x{n}", days_ago=0.001 * n), recorded_stored_at=None) for n in range(500)]
    assert {k: v for k, v in fates([*held, *flood]).items() if k.startswith("b")} == fates(held)


def test_a_flood_of_good_backups_counts_as_one() -> None:
    held = [backup(f"b{n}", days_ago=31 + 30 * n) for n in range(4)]
    first = backup("x0", days_ago=1.0)
    flood = [backup(f"x{n}", days_ago=1.0 - 0.0001 * n) for n in range(500)]
    after = {k: v for k, v in fates([*held, *flood]).items() if k.startswith("b")}
    assert after == {k: v for k, v in fates([*held, first]).items() if k.startswith("b")}
    assert list(after.values()).count(Fate.KEEP) == 1
    assert fates([*held, *flood])["x0"] is Fate.KEEP


backups = st.builds(
    lambda n, days, good, policy: backup(f"b{n}", days_ago=days, good=good, policy=policy),
    st.integers(0, 10**9),
    st.floats(0, 1000),
    st.booleans(),
    st.sampled_from([BRONZE, GOLD]),
)
shelves = st.lists(backups, max_size=30, unique_by=lambda b: b.id)


@given(shelves)
def test_nothing_goes_early_and_enough_good_ones_always_stay(held: list[Held]) -> None:
    decided = decide(held, now=NOW)
    gone = {d.backup for d in decided if d.fate is Fate.DELETE}
    for each in held:
        assert each.policy is not None
        assert each.vault_stored_at is not None
        if each.id in gone:
            assert each.vault_stored_at + each.policy.keep <= NOW
    left = [b for b in held if b.good and b.id not in gone]
    good = sorted((b for b in held if b.good), key=lambda b: b.vault_stored_at or NOW)
    apart = [b for b, before in zip(good[1:], good, strict=False) if _gap(b, before) >= 30 * DAY]
    wanted = max((b.policy.keep_at_least for b in good if b.policy), default=0)
    assert len(left) >= min(wanted, len(apart) + 1 if good else 0)


@given(shelves, st.lists(st.floats(0, 3), min_size=1, max_size=40))
def test_many_fresh_backups_make_nothing_go_that_one_would_not(held: list[Held], ages: list[float]) -> None:
    fresh = [backup(f"x{n}", days_ago=age, policy=GOLD) for n, age in enumerate(sorted(ages, reverse=True))]
    held = [b for b in held if _at(b) < NOW - 11 * DAY]  # the flood is not in the time of one of these
    many = {d.backup for d in decide([*held, *fresh], now=NOW) if d.fate is Fate.DELETE}
    single = {d.backup for d in decide([*held, fresh[0]], now=NOW) if d.fate is Fate.DELETE}
    assert many == single


def _at(one: Held) -> datetime:
    assert one.vault_stored_at is not None
    return one.vault_stored_at


def _gap(one: Held, before: Held) -> timedelta:
    return _at(one) - _at(before)
