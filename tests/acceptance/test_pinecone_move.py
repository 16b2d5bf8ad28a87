"""A tenant with vectors in Pinecone (the stand-in) is moved, rolled back and moved again by the real command line,
while an app writes vectors under the tenant's permit: nothing acknowledged is lost, neighbours are untouched."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml
from pinecone import Index

from rag_app.local import RagApp
from tenure.client import Fenced, touch, translating
from tenure.estate.local import cells, down
from tenure.model.names import CellName
from tests.estate import TestEstate

STORE = "semantics"
BLUE, GREEN = CellName("blue"), CellName("green")


class VectorApp(RagApp):
    """The service, with a store for vectors in Pinecone in its catalogue."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        whole = yaml.safe_load(super().catalogue.read_text())
        whole["stores"][STORE] = {
            "kind": "pinecone",
            "namespace": "t-{tenant}",
            "journal": "postgres",
            "fields": {"text": "content"},
        }
        self._catalogue = folder / "catalogue.yaml"
        self._catalogue.write_text(yaml.safe_dump(whole))

    @property
    def catalogue(self) -> Path:
        return self._catalogue


class Writer:
    """An app that writes one vector after the other to whichever cell accepts it; it remembers what was acked."""

    def __init__(self, estate: TestEstate, tenant: str) -> None:
        cells_of = [estate.local.cells[name] for name in (BLUE, GREEN)]
        self._cells = [(c.dsn, Index(host=c.pinecone_host, api_key=c.pinecone_api_key)) for c in cells_of]
        self._tenant = tenant
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acknowledged: dict[str, str | None] = {}
        self.failed: list[str] = []

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        for _dsn, index in self._cells:
            index.close()

    def _run(self) -> None:
        for n in itertools.count():
            if self._stop.wait(0.01):
                return
            item, text = f"w-{n % 50:02d}", f"text {n}"
            while not self._stop.is_set() and not any(
                self._write(dsn, index, item, text, n) for dsn, index in self._cells
            ):
                self._stop.wait(0.02)

    def _write(self, dsn: str, index: Index, item: str, text: str, n: int) -> bool:
        namespace = f"t-{self._tenant}"
        try:
            with (
                psycopg.connect(dsn) as connection,
                translating(self._tenant),
                connection.transaction(),
            ):
                touch(connection, self._tenant, STORE, item)
                if n % 7 == 6:
                    index.delete(ids=[item], namespace=namespace)
                else:
                    record = {"id": item, "values": [float(n % 9 + 1)] * 32, "metadata": {"text": text}}
                    index.upsert(vectors=[record], namespace=namespace)
        except Fenced:
            return False
        self.acknowledged[item] = None if n % 7 == 6 else text
        return True


def texts(estate: TestEstate, cell: CellName, namespace: str) -> dict[str, str]:
    access = estate.local.cells[cell]
    with Index(host=access.pinecone_host, api_key=access.pinecone_api_key) as index:
        ids = [one.id for page in index.list(namespace=namespace) for one in page.vectors if one.id]
        found = index.fetch(ids=ids, namespace=namespace).vectors if ids else {}
        return {one: str((record.metadata or {})["text"]) for one, record in found.items()}


def test_the_catalogues_check_and_scan_look_into_indexes(vector_estate: TestEstate) -> None:
    tenant = "searched"
    vector_estate.add_tenant(tenant)
    access = vector_estate.local.cells[BLUE]
    planted = {"id": "1", "values": [1.0] * 32, "metadata": {"note": f"for {tenant}, not {tenant}2"}}
    with Index(host=access.pinecone_host, api_key=access.pinecone_api_key) as index:
        index.upsert(vectors=[planted], namespace="scratch")
        index.upsert(vectors=[{**planted, "metadata": {"text": "t"}}], namespace=f"t-{tenant}")
    try:
        of_blue = ("--cell", "blue", "--store", STORE, "--json")
        scanned = vector_estate.command("catalogue", "scan", tenant, "--full", *of_blue)
        assert scanned.exit_code == 1, scanned.stderr
        found = [f for f in scanned.json["findings"] if f["judgement"] == "undocumented"]
        assert [(f["kind"], f["place"], f["items"]) for f in found] == [
            ("record metadata", "scratch.note", 1)
        ]
        checked = vector_estate.command("catalogue", "check", "--cell", "blue", "--json")
        assert checked.exit_code == 1, checked.stderr
        issues = {(i["wrong"], i["place"]) for i in checked.json["issues"] if i["store"] == STORE}
        assert issues == {("unclassified", "namespace scratch")}
    finally:
        with Index(host=access.pinecone_host, api_key=access.pinecone_api_key) as index:
            index.delete_namespace(name="scratch")


@pytest.fixture(scope="module")
def vector_estate() -> Iterator[TestEstate]:
    folder = Path(tempfile.mkdtemp(prefix="tenure-vectors-"))
    folder.chmod(0o755)
    app = VectorApp(folder)
    local = cells.start(folder / "estate", app, owner=True, durable=False)
    try:
        estate = TestEstate(local=local, app=app)
        estate.migrate_registry()
        yield estate
    finally:
        local.running.close()
        down(folder / "estate", remove=True)
        app.catalogue.unlink()
        folder.rmdir()


def test_vectors_move_there_and_back_and_nothing_acknowledged_is_lost(vector_estate: TestEstate) -> None:
    tenant, neighbour = "vectored", "vectored2"
    for name in (tenant, neighbour):
        vector_estate.add_tenant(name)
        access = vector_estate.local.cells[BLUE]
        with Index(host=access.pinecone_host, api_key=access.pinecone_api_key) as index:
            seeds = [
                {"id": f"s-{n:04d}", "values": [0.1 * (n + 1)] * 32, "metadata": {"text": f"{name} {n}"}}
                for n in range(300)
            ]
            index.upsert(vectors=seeds, namespace=f"t-{name}")
    quiet = texts(vector_estate, BLUE, f"t-{neighbour}")
    with Writer(vector_estate, tenant) as writer:
        plan = vector_estate.command("migrate", tenant, "--to", "green", "--plan", "--json")
        assert plan.exit_code == 0, plan.stderr
        for command in (
            ("migrate", tenant, "--to", "green"),
            ("rollback", tenant),
            ("migrate", tenant, "--to", "green"),
        ):
            done = vector_estate.command(*command, "--json")
            assert done.exit_code == 0, done.stderr
            seen = done.json["result"]["stores"][STORE]
            assert seen["processed"] == seen["matching"] > 0
        verified = vector_estate.command("verify", tenant, "--json")
        assert verified.exit_code == 0, verified.stderr
    arrived = texts(vector_estate, GREEN, f"t-{tenant}")
    assert len(writer.acknowledged) == 50
    assert {item: arrived.get(item) for item in writer.acknowledged} == writer.acknowledged
    assert sum(item.startswith("s-") for item in arrived) == 300
    assert texts(vector_estate, BLUE, f"t-{neighbour}") == quiet
    assert texts(vector_estate, GREEN, f"t-{neighbour}") == {}
    complete = vector_estate.command("complete", tenant, "--yes", tenant, "--json")
    assert complete.exit_code == 0, complete.stderr
    assert texts(vector_estate, BLUE, f"t-{tenant}") == {}
    assert texts(vector_estate, GREEN, f"t-{tenant}") == arrived
    assert texts(vector_estate, BLUE, f"t-{neighbour}") == quiet
    assert vector_estate.left_behind(tenant) == []
