"""Two schedulers on one control database: one leads, and the other one does soon after that has died or was stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tenure.estate import examples
from tenure.registry.registry import Registry
from tests.scheduling import scheduler

TAKEOVER_S = 15.0


@pytest.fixture
def config(tmp_path: Path, registry: Registry, control_dsn: str) -> Path:
    """An estate of which only the control database is there, with a fire time every second."""
    estate = yaml.safe_load(examples.ESTATE)
    del estate["backups"]  # there is no vault to keep any in
    for tier in estate["tiers"].values():
        tier.pop("backup", None)
    secrets = {"control": control_dsn, "gate-token": "t0ken", "dns-key": "c2VjcmV0"}
    (tmp_path / "secrets").mkdir()
    for name, secret in secrets.items():
        (tmp_path / "secrets" / name).write_text(secret)
    estate["control"]["dsn"] = {"file": "secrets/control"}
    estate["fleet"] = {"scheduler": {"soaks_every_s": 1, "compare_after_s": None}}
    (tmp_path / "catalogue.yaml").write_text(examples.CATALOGUE)
    path = tmp_path / "tenure.yaml"
    path.write_text(yaml.safe_dump(estate))
    return path


def fired_in(registry: Registry, term: int) -> int:
    with registry.database.connection() as connection:
        query = "select count(*) from registry.fires where term = %s and not missed"
        row = connection.execute(query, (term,)).fetchone()
    assert row is not None
    return int(row[0])


def test_another_leads_within_15_s_and_a_leader_that_wakes_up_fires_nothing(
    config: Path, registry: Registry, wait_until: Callable[..., None]
) -> None:
    with ExitStack() as stack:
        one = stack.enter_context(scheduler(config))
        first = one.wait_for("leading", term=1)
        other = stack.enter_context(scheduler(config))
        assert other.wait_for("standing_by")["leader"] == first["leader"]
        wait_until(lambda: fired_in(registry, 1) >= 2, "it fires every second", deadline_s=30)

        began = time.monotonic()
        one.process.send_signal(signal.SIGSTOP)
        second = other.wait_for("leading", term=2)
        stopped_s = time.monotonic() - began
        before = fired_in(registry, 1)
        wait_until(lambda: fired_in(registry, 2) >= 2, "the other one fires", deadline_s=30)
        one.process.send_signal(signal.SIGCONT)
        assert "does not lead" in one.wait_for("deposed")["because"]
        assert one.wait_for("standing_by", term=2)["leader"] == second["leader"]
        assert fired_in(registry, 1) == before, "nothing of what it was about to do was written"

        began = time.monotonic()
        other.process.kill()
        one.wait_for("leading", term=3)
        killed_s = time.monotonic() - began
        wait_until(lambda: fired_in(registry, 3) >= 1, "it fires again", deadline_s=30)
        once = [sys.executable, "-m", "tenure.cli.main", "-c", str(config), "scheduler", "--once"]
        done = subprocess.run(once, capture_output=True, text=True, timeout=60, check=True)
        assert "standing_by" in done.stdout
        assert first["leader"] in done.stdout
        assert one.end() == 0
        assert one.told[-1]["action"] == "stopped"
    print(f"taken over {stopped_s:.1f} s after SIGSTOP, {killed_s:.1f} s after SIGKILL")
    assert stopped_s < TAKEOVER_S
    assert killed_s < TAKEOVER_S
    elected = [e.data["term"] for e in registry.events.list() if e.action == "leader_elected"]
    assert elected == [1, 2, 3]
