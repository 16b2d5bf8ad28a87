"""A Prometheus for the tests: Debian's, as an ordinary program in a folder of its own, and the exporter it scrapes."""

from __future__ import annotations

import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from tenure.estate.local import CommandServer, RunningEstate
from tenure.model.secret import Secret

PROGRAM: Final = Path("/usr/bin/prometheus")
USER: Final = "tenure"
PASSWORD: Final = Secret("reads-series")
_HASH: Final = "$2b$04$abcdefghijklmnopqrstuuSTtu0yllXRECrVgf.XT4r5BH2vReMTy"
DEADLINE_S: Final = 20.0

_CONFIG: Final = """\
global: {{scrape_interval: 50ms, scrape_timeout: 50ms}}
scrape_configs:
  - job_name: app
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
_numbers: Final = itertools.count(1)


class Exporter:
    """What an app reports: `series` maps a series as text (`a_total{tenant="x"}`) to its value."""

    def __init__(self) -> None:
        self.series: dict[str, float] = {}
        self._scraped = threading.Condition()
        self._scrapes = 0
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = "".join(f"{name} {value}\n" for name, value in list(exporter.series.items())).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                with exporter._scraped:
                    exporter._scrapes += 1
                    exporter._scraped.notify_all()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def await_scrapes(self, number: int) -> None:
        """Return when it was scraped so many times more, and then some: the last one may not be stored yet."""
        with self._scraped:
            wanted = self._scrapes + number + 1
            assert self._scraped.wait_for(lambda: self._scrapes >= wanted, DEADLINE_S), "nobody scrapes"

    def report(self, series: str, value: float = 1.0) -> None:
        """Report that series from now on, and return when it was scraped."""
        self.series[series] = value
        self.await_scrapes(2)

    def once(self, series: str, value: float = 1.0) -> None:
        """Report that series until it was scraped, and return when it is scraped no longer."""
        self.report(series, value)
        del self.series[series]
        self.await_scrapes(2)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Prometheus:
    """A server with an empty folder, that asks for `USER` and `PASSWORD`."""

    def __init__(self, servers: RunningEstate, folder: Path, *, admin: bool = True) -> None:
        if not PROGRAM.exists():
            pytest.skip("needs Debian's package prometheus")
        self.exporter = Exporter()
        self._servers = servers
        self._name = f"prometheus-{next(_numbers)}"
        config = folder / f"{self._name}.yml"
        config.write_text(_CONFIG.format(port=self.exporter.port))
        web = folder / f"{self._name}-web.yml"
        web.write_text(f"basic_auth_users: {{{USER}: '{_HASH}'}}\n")
        servers.add(
            CommandServer(
                name=self._name,
                argv=(
                    str(PROGRAM),
                    f"--config.file={config}",
                    f"--web.config.file={web}",
                    "--web.listen-address=127.0.0.1:${self.http}",
                    "--storage.tsdb.path=${self.folder}/data",
                    *(["--web.enable-admin-api"] if admin else []),
                ),
                ready="tcp:http",
                account="server",
            )
        )
        self.url = f"http://127.0.0.1:{servers.port(self._name, 'http')}"

    def close(self) -> None:
        self._servers.remove(self._name)
        self.exporter.close()
