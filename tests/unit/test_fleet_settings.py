"""What a fleet's settings mean: queues by purpose and region, and which broker is one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tenure.errors import ConfigurationError, UnknownName, UsageError
from tenure.estate import examples
from tenure.estate.config import Estate, load_estate
from tenure.model.names import TenantId
from tenure.model.operation import Operation, OperationState
from tenure.operations.queues import queue_of, queues_for
from tenure.worker.app import make_app
from tenure.worker.broker import broker_name

Load = Callable[[str], Estate]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The example's estate with a fleet whose broker has this URL."""

    def make(url: str) -> Estate:
        (tmp_path / "broker").write_text(url)
        (tmp_path / "catalogue.yaml").write_text(examples.CATALOGUE)
        fleet = "fleet: {broker: {file: broker}, namespace: mine, wake_again_s: 7}\n"
        (tmp_path / "tenure.yaml").write_text(examples.ESTATE + fleet)
        return load_estate(tmp_path / "tenure.yaml")

    return make


def _operation(kind: str, cell: str) -> Operation:
    return Operation(
        id="op_1",
        kind=kind,
        tenant=TenantId("acme"),
        state=OperationState.PLANNED,
        phase="",
        request={"from": "blue", "to": cell},
        plan={},
        plan_digest="",
        requested_by="test",
        created_at=datetime.now(UTC),
    )


def test_an_operation_goes_to_the_queue_of_its_purpose_in_the_region_that_it_writes_to(load: Load) -> None:
    estate = load("redis://127.0.0.1:1/0")
    for kind, purpose in (
        ("migrate", "copy"),
        ("verify", "verify"),
        ("complete", "erase"),
        ("rehearse", "control"),
        ("expire", "control"),
        ("rollback", "control"),
    ):
        region = estate.cell("frankfurt").region
        assert queue_of(estate, _operation(kind, "frankfurt")) == f"mine.{purpose}.{region}"
    with pytest.raises(UnknownName):
        queue_of(estate, _operation("migrate", "gone"))


def test_a_worker_serves_all_queues_or_those_it_names(load: Load) -> None:
    estate = load("redis://127.0.0.1:1/0")
    regions = sorted({cell.region for cell in estate.cells.values()})
    assert len(queues_for(estate)) == len(set(queues_for(estate))) == 5 * len(regions)
    assert queues_for(estate, ["copy"], regions[:1]) == (f"mine.copy.{regions[0]}",)
    for purposes, wanted, named in ((["cpoy"], [], "control, copy"), ([], ["moon"], regions[0])):
        with pytest.raises(UsageError) as refused:
            queues_for(estate, purposes, wanted)
        assert named in (refused.value.hint or "")


@pytest.mark.parametrize("url", ["redis://u:hidden@h:6379/2", "amqps://u:hidden@h:5671//"])
def test_messages_are_json_acknowledged_late_and_taken_one_at_a_time(
    load: Load, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://somebody-elses/0")
    estate = load(url)
    app = make_app(estate)
    assert app.conf.broker_url == url
    assert app.conf.accept_content == ["json"]
    assert app.conf.result_backend is None
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1
    assert {q.queue_arguments["x-queue-type"] for q in app.conf.task_queues} == {"quorum"}
    assert "hidden" not in broker_name(estate)
    assert "@" not in broker_name(estate)


def test_a_broker_of_another_kind_is_refused_without_its_password(load: Load) -> None:
    with pytest.raises(ConfigurationError, match="'sqs'") as refused:
        make_app(load("sqs://key:hidden@"))
    assert "hidden" not in str(refused.value)
    assert "amqp" in (refused.value.hint or "")
