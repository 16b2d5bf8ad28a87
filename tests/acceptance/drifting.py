"""The local estate with a gateway and a zone of its own beside it, both of which a test may bring out of step."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tenure.estate.config import load_estate
from tenure.model.names import CellName, TenantId
from tenure.routing.envoy import EnvoyOptions
from tenure.routing.envoy.bootstrap import write_bootstrap
from tenure.routing.envoy.files import replace_file
from tenure.routing.envoy.routes import Route, route_document
from tests.estate import TestEstate
from tests.integration.routing.gateway import ENVOY, free_ports
from tests.named import KEY, ZONE, Named

APPLY_TIMEOUT_S = 4.0
_numbers = itertools.count(1)


class DriftingEstate:
    """`estate` is the estate in step, with names; `without_names` and `with_key` are other views of it."""

    def __init__(self, cells_estate: TestEstate, named: Named) -> None:
        self._base = cells_estate
        self.named = named
        self.folder = Path(tempfile.mkdtemp(prefix="tenure-drift-"))
        self.config_dir = self.folder / "envoy"
        self.listen, self.admin = free_ports(2)
        described = load_estate(cells_estate.config)
        self.cells = {name: cell.app for name, cell in described.cells.items()}
        write_bootstrap(
            config_dir=self.config_dir,
            listen=f"http://127.0.0.1:{self.listen}",
            admin=f"http://127.0.0.1:{self.admin}",
            gate_check=described.gateway.gate.check,
            cells=self.cells,
        )
        self._envoy: subprocess.Popen[bytes] | None = None
        self._views: list[Path] = []
        self.estate = self.view()

    def view(
        self,
        *,
        names: bool = True,
        port: int | None = None,
        secret: str | None = None,
        listen: str | None = None,
    ) -> TestEstate:
        """The estate as another `tenure.yaml` beside the first one describes it."""
        document: dict[str, Any] = yaml.safe_load(self._base.config.read_text(encoding="utf-8"))
        gateway = document["gateway"]
        gateway |= {
            "listen": listen or f"http://127.0.0.1:{self.listen}",
            "admin": [f"http://127.0.0.1:{self.admin}"],
            "config_dir": str(self.config_dir),
            "apply_timeout_s": APPLY_TIMEOUT_S,
        }
        number = next(_numbers)
        key = self.folder / f"key-{number}"
        key.write_text(secret or self.named.secret)
        if names:
            gateway["dns"] = {
                "server": f"127.0.0.1:{port or self.named.port}",
                "zone": ZONE,
                "key": KEY,
                "secret": {"file": str(key)},
                "record": "CNAME",
                "ttl_s": 5,
                "gateway": f"lb.sites.{ZONE}",
                "cells": {
                    name: f"http://{name}.sites.{ZONE}:{app.rsplit(':', 1)[1]}"
                    for name, app in self.cells.items()
                },
            }
        path = self._base.config.with_name(f"drifting-{number}.yaml")
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        self._views.append(path)
        local = replace(self._base.local, estate_file=path, gateway=f"http://127.0.0.1:{self.listen}")
        return TestEstate(local=local, app=self._base.app)

    def at_name(self, tenant: str) -> TestEstate:
        """The estate as users see it who resolve the tenant's name: `load` goes where the name leads."""
        (target,) = self.named.holds(self._base.app.tenants[tenant].host)
        (address,) = self.named.holds(target, "A")
        site = target.partition(".")[0]
        port = self.listen if site == "lb" else int(self.cells[CellName(site)].rsplit(":", 1)[1])
        local = replace(self.estate.local, gateway=f"http://{address}:{port}")
        return TestEstate(local=local, app=self._base.app)

    # -- bringing it out of step -------------------------------------------------------------------------------------

    def start_envoy(self) -> None:
        with (self.folder / "envoy.log").open("ab") as log:
            command = [str(ENVOY), "-c", str(self.config_dir / "envoy.json"), "--concurrency", "1"]
            self._envoy = subprocess.Popen(
                [*command, "--disable-hot-restart", "-l", "warning"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.listen), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "Envoy does not listen"
                time.sleep(0.05)
            else:
                return

    def stop_envoy(self) -> None:
        if self._envoy is not None:
            self._envoy.kill()
            self._envoy.wait(10)
            self._envoy = None

    def edit_routes(self, **cells: str) -> None:
        """Somebody puts a route file of their own in place: these tenants go straight to these cells."""
        table = json.loads((self.config_dir / "routes.json").read_text())["tenants"]
        routes = {
            TenantId(name): Route(host=line["host"], cell=CellName(line["cell"]), gated=line["gated"])
            for name, line in table.items()
        }
        for tenant, cell in cells.items():
            name = TenantId(tenant)
            routes[name] = Route(host=routes[name].host, cell=CellName(cell))
        version = str(time.time_ns() // 1000)
        document = route_document(routes, cells=self.cells, version=version, options=EnvoyOptions())
        replace_file(self.config_dir / "rds.json", json.dumps(document))
        self._wait_version(version)

    @contextmanager
    def out_of_step(self, *tenants: str, to: str) -> Iterator[None]:
        """Somebody routes the tenants as they like, and a deployment replaces the folder that Envoy watches.

        Until the end of the block Envoy sees no change; then it is started again.
        """
        self.edit_routes(**dict.fromkeys(tenants, to))
        watched = self.folder / "replaced"
        self.config_dir.rename(watched)
        shutil.copytree(watched, self.config_dir)
        try:
            yield
        finally:
            self.stop_envoy()
            shutil.rmtree(watched)
            self.start_envoy()

    def _wait_version(self, version: str) -> None:
        deadline = time.monotonic() + 30
        while version not in self._stats():
            assert time.monotonic() < deadline, "Envoy did not load the edited routes"
            time.sleep(0.02)

    def _stats(self) -> str:
        with socket.create_connection(("127.0.0.1", self.admin), timeout=5) as admin:
            admin.sendall(b"GET /stats?filter=rds HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    def close(self) -> None:
        self.stop_envoy()
        for path in self._views:
            path.unlink()
        shutil.rmtree(self.folder)
