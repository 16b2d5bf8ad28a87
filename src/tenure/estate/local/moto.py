"""CloudWatch (logs and metrics) for the local estate: moto's server, one per region. It keeps everything in memory."""

from __future__ import annotations

from tenure.estate.local.ports import HOST
from tenure.estate.local.spec import CommandServer


def moto_server(name: str, *, autostart: bool = True) -> CommandServer:
    """A server that speaks the protocols of CloudWatch Logs and CloudWatch on its port `http`.

    It checks no keys, so any user of this machine can use it, and what it holds is gone when it stops: no place for
    data of others.
    """
    return CommandServer(
        name=name,
        argv=("${python}", "-m", "moto.server", "-H", HOST, "-p", "${self.http}"),
        ready="http:http/moto-api/data.json",
        autostart=autostart,
    )
