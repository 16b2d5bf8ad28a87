"""A RabbitMQ for the tests: Debian's, as an ordinary program in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tenure.estate.local import CommandServer, RunningEstate

SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CONTROL: Final = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")
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


def queue_types(running: RunningEstate) -> dict[str, str]:
    """The type of every queue, by its name."""
    folder = Path(running.attribute("rabbitmq", "folder"))
    env = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "ERL_EPMD_PORT": running.attribute("epmd", "epmd"),
        "RABBITMQ_NODENAME": NODE,
    }
    argv = [str(CONTROL), "list_queues", "--quiet", "--formatter", "json", "name", "type"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True)
    return {queue["name"]: queue["type"] for queue in json.loads(done.stdout)}
