"""The Celery app of an estate: its broker, its queues, and how a message is handled."""

from __future__ import annotations

import os
from typing import Any, Final

from celery import Celery
from kombu import Exchange, Queue

from tenure.estate.config import Estate, Fleet
from tenure.operations.queues import queues_for
from tenure.worker.broker import AMQP, REDIS, require_fleet, scheme_of

CONNECT_S: Final = 4.0
"""How long one attempt to reach the broker may take: a person may wait for it."""
ANSWER_S: Final = 20.0
"""How long a broker may be silent in an answer: longer than the 1 s that a blocking read of Redis waits by itself."""


def make_app(estate: Estate) -> Celery:
    """The app of the estate's fleet. Connects to nothing yet. Raises `ConfigurationError` for a broker of another kind.

    Settings that the environment has for another Celery app are not heeded.
    """
    fleet = require_fleet(estate)
    url = fleet.broker.resolve().reveal()
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        os.environ.pop(name, None)
    app = Celery("tenure", broker=url, set_as_current=False)
    app.conf.update(
        # JSON and nothing else: what comes from a broker must not be able to run anything.
        task_serializer="json",
        accept_content=["json"],
        # The journal has the results.
        result_backend=None,
        task_ignore_result=True,
        # A message is acknowledged when the look is over, and given back if its process dies in it.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=True,
        # A worker takes no message for which it has no process free: others may have one.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=scheme_of(url) in REDIS,
        task_time_limit=fleet.look_limit_h * 3600,
        task_queues=_queues(estate, fleet),
        task_create_missing_queues=False,
        task_default_queue=queues_for(estate)[0],
        broker_connection_timeout=CONNECT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(fleet, url),
        # Work under way does not depend on the broker.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=60.0,
        # Presence and control are the control database's.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    return app


def _queues(estate: Estate, fleet: Fleet) -> list[Queue]:
    """Durable, one exchange for all; at RabbitMQ each is a quorum queue, which survives the loss of a server."""
    exchange = Exchange(fleet.namespace, type="direct", durable=True)
    return [
        Queue(name, exchange, routing_key=name, durable=True, queue_arguments={"x-queue-type": "quorum"})
        for name in queues_for(estate)
    ]


def _transport_options(fleet: Fleet, url: str) -> dict[str, Any]:
    # Without bounds a publisher tries for ever to reach a broker that is down. A worker has its own endless retries.
    bounded = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 0.2}
    if scheme_of(url) in AMQP:
        return {**bounded, "confirm_publish": True, "read_timeout": ANSWER_S, "write_timeout": ANSWER_S}
    return {
        **bounded,
        "visibility_timeout": fleet.visibility_timeout_s,
        # Kombu keeps what is unacknowledged under one key for the whole database: not to be shared with other apps.
        "global_keyprefix": f"{fleet.namespace}:",
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": ANSWER_S,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
