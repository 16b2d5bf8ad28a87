"""The local estate with relays on its ways, so that each of them can be cut while the servers and the app go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenure.estate.local.cell_plans import CONTROL
from tenure.model.names import CellName
from tests.estate import TestEstate
from tests.slow_link import SlowLink, slow_link

SOURCE, TARGET = CellName("blue"), CellName("green")
WAYS: Final = ("target", "replication", "control")
"""Between Tenure and all stores of the target cell, between the two PostgreSQL servers (each to the other), and between
Tenure and the control database."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """`estate` is the one that was given, as Tenure sees it through the relays."""

    estate: TestEstate
    ways: Mapping[str, tuple[SlowLink, ...]]

    def cut(self, way: str) -> None:
        for link in self.ways[way]:
            link.cut()

    def heal(self, way: str) -> None:
        for link in self.ways[way]:
            link.heal()


@contextmanager
def network_of(estate: TestEstate) -> Iterator[Network]:
    """Ends with the block; whatever a test has left cut is healed by the relays' end."""
    local = estate.local
    document: dict[str, Any] = yaml.safe_load(local.estate_file.read_text(encoding="utf-8"))
    secrets = local.estate_file.parent / "etc" / "secrets"

    def secret(name: str, value: str) -> dict[str, str]:
        path = secrets / f"relayed-{name}"
        path.touch(mode=0o600)
        path.write_text(value, encoding="utf-8")
        return {"file": f"etc/secrets/{path.name}"}

    with ExitStack() as stack:

        def relay(host: object, port: object) -> SlowLink:
            return stack.enter_context(slow_link(str(host), int(str(port))))

        def relayed(dsn: str) -> tuple[SlowLink, str]:
            given = conninfo_to_dict(dsn)
            link = relay(given["host"], given["port"])
            return link, make_conninfo(dsn, host="127.0.0.1", port=link.port)

        source, target = local.cells[SOURCE], local.cells[TARGET]
        near, far = (document["cells"][name]["stores"] for name in (SOURCE, TARGET))
        to_postgres, dsn = relayed(target.dsn)
        far["postgres"]["dsn"] = secret("postgres", dsn)
        url = urlsplit(target.redis_url)
        to_redis = relay(url.hostname, url.port)
        login = url.netloc.rpartition("@")[0]
        far["redis"]["url"] = secret(
            "redis", url._replace(netloc=f"{login}@127.0.0.1:{to_redis.port}").geturl()
        )
        objects = urlsplit(target.endpoint)
        to_objects = relay(objects.hostname, objects.port)
        far["objects"]["endpoint"] = f"http://127.0.0.1:{to_objects.port}"
        there, dsn = relayed(source.dsn)
        near["postgres"]["dsn_from_cells"] = secret("source-from-cells", dsn)
        back, dsn = relayed(target.dsn)
        far["postgres"]["dsn_from_cells"] = secret("target-from-cells", dsn)
        to_control, dsn = relayed(local.running.dsn(CONTROL, CONTROL))
        document["control"]["dsn"] = secret("control", dsn)
        path: Path = local.estate_file.with_name("relayed.yaml")
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        yield Network(
            estate=replace(estate, local=replace(local, estate_file=path)),
            ways={
                "target": (to_postgres, to_redis, to_objects),
                "replication": (there, back),
                "control": (to_control,),
            },
        )
