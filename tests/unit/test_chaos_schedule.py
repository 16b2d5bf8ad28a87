"""A chaos run is its seed: what is planned depends on nothing else."""

from __future__ import annotations

import json

from bench.chaos.schedule import BLOWS, COMMANDS, POINTS, Blow, Command, How, plan

TENANTS = ("a", "b")


def test_the_same_seed_makes_the_same_schedule_and_another_one_another() -> None:
    first, again, other = (list(plan(seed, 600, TENANTS).lines()) for seed in (7, 7, 8))
    assert first == again
    assert first[1:] != other[1:]
    assert [json.loads(json.dumps(line)) for line in first] == first, "it is printed as JSON"


def test_a_long_schedule_has_every_command_blow_and_way_to_fail() -> None:
    schedule = plan(1, 3000, TENANTS)
    turns = [turn for of_tenant in schedule.turns.values() for turn in of_tenant]
    assert {turn.command for turn in turns} == set(COMMANDS) == set(Command)
    assert {turn.blow for turn in turns} == set(BLOWS) == set(Blow)
    assert {outage.how for outage in schedule.outages} == set(How)
    assert {"worker-1"} < {o.what for o in plan(1, 3000, TENANTS, more_servers=["worker-1"]).outages}
    struck = {
        (command, point) for turn in turns if turn.blow.at_point for command, point in turn.points.items()
    }
    assert struck == {(command, point) for command, points in POINTS.items() for point in points}


def test_the_first_command_of_a_tenant_is_a_migration_because_nothing_else_can_be_done() -> None:
    assert {turns[0].command for turns in plan(3, 60, TENANTS).turns.values()} == {Command.MIGRATE}
