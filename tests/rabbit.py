"""A RabbitMQ for the tests: Debian's, as an ordinary program in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import kombu
import pytest
from amqp.exceptions import PreconditionFailed

from tenure.estate.local import CommandServer, RunningEstate

SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
EPMD: Final = Path("/usr/bin/epmd")
NODE: Final = "tests@localhost"


def start(running: RunningEstate) -> str:
    """Add it to the estate, as `rabbitmq`, and give its URL. Skips the test where the package is missing."""
    if not SERVER.exists():
        pytest.skip("needs Debian's package rabbitmq-server")
    running.add(
        CommandServer(
            name="epmd",
            argv=(str(EPMD), "-port", "${self.epmd}", "-address", "127.0.0.1"),
            ports={"epmd": 0},
            ready="tcp:epmd",
        )
    )
    running.add(
        CommandServer(
            name="rabbitmq",
            argv=(str(SERVER),),
            env=environment(),
            ports={"amqp": 0, "dist": 0},
            ready="tcp:amqp",
        )
    )
    return f"amqp://guest:guest@127.0.0.1:{running.port('rabbitmq', 'amqp')}//"


def environment() -> dict[str, str]:
    """Everything below the server's own folder, every port its own."""
    return {
        "HOME": "${self.folder}",
        "ERL_EPMD_PORT": "${epmd.epmd}",
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": "${self.amqp}",
        "RABBITMQ_DIST_PORT": "${self.dist}",
        "RABBITMQ_MNESIA_BASE": "${self.folder}/mnesia",
        "RABBITMQ_LOG_BASE": "${self.folder}/log",
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": "${self.folder}/plugins",
        "RABBITMQ_CONF_ENV_FILE": "${self.folder}/no-env.conf",
        "RABBITMQ_CONFIG_FILE": "${self.folder}/no",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +A 8",
    }


def stop(running: RunningEstate) -> None:
    for name in ("rabbitmq", "epmd"):
        running.remove(name)


def is_quorum(url: str, queue: str) -> bool:
    """Whether the queue is a quorum queue: RabbitMQ refuses to have it declared as one of another type."""
    with kombu.Connection(url) as connection, connection.channel() as channel:
        try:
            kombu.Queue(queue, durable=True, queue_arguments={"x-queue-type": "classic"})(channel).declare()
        except PreconditionFailed as error:
            return "current is 'quorum'" in str(error)
    return False
