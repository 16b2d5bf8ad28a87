"""A scheduler and workers together: what a dead worker has left is carried on by another one, without help."""

from __future__ import annotations

from pathlib import Path

from tenure.estate.local import ValkeyServer
from tests.estate import TestEstate
from tests.fleet import fleet, wait_until
from tests.scheduling import scheduler


def test_what_a_killed_worker_has_left_is_carried_on_by_another(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    tenant, running = "widowed", cells_estate.local.running
    running.add(ValkeyServer(name="bare-broker"))
    cells_estate.add_tenant(tenant)
    settings = {"scheduler": {"tick_s": 1, "wake_again_s": 2, "compare_after_s": None}}
    try:
        with (
            fleet(
                cells_estate,
                tmp_path,
                broker=running.url("bare-broker"),
                namespace="widows",
                settings=settings,
            ) as ours,
            scheduler(ours.config) as process,
            cells_estate.load(tenant, folder=tmp_path, rate=20.0) as load,
        ):
            doomed = ours.worker("--concurrency", "1", point="verify.equal:stop")
            command = ours.begin("migrate", tenant, "--to", "green", "--json")
            wait_until(
                lambda: (o := ours.latest(tenant)) is not None and o.phase == "verifying",
                lambda: "it comes to its comparison",
            )
            doomed.end()  # with its message: the broker gives that to nobody else for an hour
            other = ours.worker("--concurrency", "1")
            process.wait_for("woken", tenant=tenant)
            moved = command.result()
            assert moved.exit_code == 0, moved.stderr + other.log.read_text()
            assert process.end() == 0
            report = cells_estate.lost(load)
            actions = ours.actions(moved.json["operation"])
    finally:
        running.remove("bare-broker")
    assert actions.count("step_taken_over") == 1
    assert report.clean, report
