"""Does something with a vault in one process after the other, each killed (SIGKILL) at the request that it is told, of
those that change something: even numbers before the request is sent, odd ones after its answer has come. Reads them
from standard input."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.buckets.client import Bucket
from tenure.stores.contract import Fence
from tenure.stores.vault import VaultStore
from tests.vaults import backed_up, backup_id, shelved

ACME = TenantId("acme")
WORDS = [f"contents {n}".encode() for n in range(3)]
FENCE = Fence(tenant=ACME, epoch=1, token=5)


def main() -> None:
    what, given = sys.argv[1], json.loads(sys.stdin.readline())
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _child(what, given, int(line))
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        said = "killed" if killed else "done" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        sys.stdout.write(said + "\n")
        sys.stdout.flush()


def _child(what: str, given: dict[str, str], n: int) -> None:
    store = VaultStore(
        name=StoreName("vault"),
        cell=CellName("blue"),
        bucket=Bucket(
            endpoint=given["endpoint"],
            name=given["bucket"],
            region="us-east-1",
            access_key=Secret(given["access_key"]),
            secret_key=Secret(given["secret_key"]),
        ),
        prefix="backups/{tenant}/",
    )
    if what == "write":
        _arm(store, n)
        backed_up(store.vault, ACME, backup_id(n), WORDS)
    elif what == "collect":
        backed_up(store.vault, ACME, backup_id(n), WORDS)
        store.vault.delete(ACME, backup_id(n))
        _arm(store, n)
        store.vault.collect(ACME, quiet_s=3600)
    elif what == "erase":
        backed_up(store.vault, ACME, backup_id(n), WORDS)
        store.fence(FENCE, expires_in_s=None, drain_s=5)
        _arm(store, n)
        store.erase(FENCE)
    elif what == "delete":
        if str(backup_id(0)) not in shelved(store.vault, ACME):
            backed_up(store.vault, ACME, backup_id(0), WORDS)
        _arm(store, n)
        store.vault.delete(ACME, backup_id(0))
    os._exit(0)


def _arm(store: VaultStore, n: int) -> None:
    made = [0]

    def changed() -> None:
        if made[0] == n // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        made[0] += 1

    def before(request: Any, **_: Any) -> None:
        if n % 2 == 0 and request.method not in ("GET", "HEAD"):
            changed()

    def after(model: Any, **_: Any) -> None:
        if n % 2 == 1 and model.http["method"] not in ("GET", "HEAD"):
            changed()

    events = store.vault._access.client.meta.events
    events.register("before-send.s3", before)
    events.register("after-call.s3", after)


if __name__ == "__main__":
    main()
