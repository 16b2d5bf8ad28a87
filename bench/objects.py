"""Copying a tenant's objects between two buckets, beside rclone and s5cmd on the same objects in the same run.

usage: python -m bench.objects [--small 10000] [--large 40] [--rounds 3]

Small objects of 4 KB and large ones of 16 MB, each within one server (which copies by itself) and between two (where
the bytes come through the copier). Tenure's part is its whole live copy, from nothing until the target follows: both
listings, the record of who copies, and a check before every write that it may. The others copy without any of that.
A tool that is not installed is left out by name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from bench.postgres import ratios
from tenure.estate.local import EstateSpec, RunningEstate, S3Endpoint, SeaweedServer, down, up
from tenure.model.names import CellName, StoreName, TenantId
from tenure.stores.contract import Fence
from tenure.stores.s3 import S3Copy, S3Store

TENANT: Final = TenantId("bench")
PREFIX: Final = f"tenants/{TENANT}/"
SMALL_BYTES: Final = 4096
LARGE_BYTES: Final = 16 * 1024 * 1024
TRANSFERS: Final = 12
"""As many at once as Tenure's workers."""
DEADLINE_S: Final = 1800.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """A bucket, and how to get in."""

    s3: S3Endpoint
    bucket: str


def client(s3: S3Endpoint) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key.reveal(),
        aws_secret_access_key=s3.secret_key.reveal(),
        config=Config(max_pool_connections=TRANSFERS),
    )


@contextlib.contextmanager
def bucket_in(s3: S3Endpoint) -> Iterator[Place]:
    """A new bucket, gone afterwards."""
    name, admin = f"bench-{secrets.token_hex(4)}", client(s3)
    admin.create_bucket(Bucket=name)
    try:
        yield Place(s3=s3, bucket=name)
    finally:
        admin.delete_bucket(Bucket=name)


def fill(place: Place, objects: int, size_bytes: int) -> None:
    admin = client(place.s3)

    def put(n: int) -> None:
        admin.put_object(Bucket=place.bucket, Key=f"{PREFIX}{n % 100:02}/{n}", Body=os.urandom(size_bytes))

    with ThreadPoolExecutor(max_workers=8) as threads:
        list(threads.map(put, range(objects)))


def count(place: Place) -> tuple[int, int]:
    pages = client(place.s3).get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=PREFIX)
    sizes = [found["Size"] for page in pages for found in page.get("Contents", [])]
    return len(sizes), sum(sizes)


# -- the ways --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(name: str) -> Iterator[Callable[[], None]]:  # noqa: ARG001
    """A `Mutex` of one process."""
    yield lambda: None


def _store(cell: str, place: Place) -> S3Store:
    return S3Store(
        name=StoreName("objects"),
        cell=CellName(cell),
        endpoint=place.s3.endpoint,
        bucket=place.bucket,
        region=place.s3.region,
        access_key=place.s3.access_key,
        secret_key=place.s3.secret_key,
        prefix="tenants/{tenant}/",
        principal="app",
        mutex=_alone,
    )


def by_tenure(source: Place, target: Place) -> float:
    fence = Fence(tenant=TENANT, epoch=1, token=time.time_ns())
    stores = _store("blue", source), _store("green", target)
    copy = S3Copy(
        link="bench",
        tenant=TENANT,
        source=stores[0],
        target=stores[1],
        source_journal=None,
        target_journal=None,
    )
    began = time.perf_counter()
    stores[1].fence(fence, expires_in_s=None, drain_s=5)
    copy.start(fence)
    while not copy.progress().following:
        if time.perf_counter() - began > DEADLINE_S:
            raise SystemExit("the copy did not end")
        time.sleep(0.02)
    took = time.perf_counter() - began
    copy.stop(fence)
    for store in stores:
        store.open(fence)
        store.close()
    return took


def by_rclone(source: Place, target: Place) -> float:
    environment = {**_environment(), "RCLONE_CONFIG": "/dev/null"}
    same = source.s3.endpoint == target.s3.endpoint
    names = ("SOURCE", "SOURCE") if same else ("SOURCE", "TARGET")
    for name, place in zip(names, (source, target), strict=True):
        environment.update(
            {
                f"RCLONE_CONFIG_{name}_TYPE": "s3",
                f"RCLONE_CONFIG_{name}_PROVIDER": "Other",
                f"RCLONE_CONFIG_{name}_ENDPOINT": place.s3.endpoint,
                f"RCLONE_CONFIG_{name}_REGION": place.s3.region,
                f"RCLONE_CONFIG_{name}_ACCESS_KEY_ID": place.s3.access_key.reveal(),
                f"RCLONE_CONFIG_{name}_SECRET_ACCESS_KEY": place.s3.secret_key.reveal(),
                f"RCLONE_CONFIG_{name}_FORCE_PATH_STYLE": "true",
            }
        )
    places = [f"{name.lower()}:{p.bucket}/{PREFIX}" for name, p in zip(names, (source, target), strict=True)]
    return _run(
        ["rclone", "copy", *places, "--transfers", str(TRANSFERS), "--checkers", str(TRANSFERS)], environment
    )


def by_s5cmd(source: Place, target: Place) -> float:
    environment = {
        **_environment(),
        "AWS_ACCESS_KEY_ID": source.s3.access_key.reveal(),
        "AWS_SECRET_ACCESS_KEY": source.s3.secret_key.reveal(),
        "AWS_REGION": source.s3.region,
    }
    command = [
        "s5cmd",
        "--endpoint-url",
        source.s3.endpoint,
        "--numworkers",
        str(TRANSFERS),
        "--log",
        "error",
    ]
    return _run(
        [*command, "cp", f"s3://{source.bucket}/{PREFIX}*", f"s3://{target.bucket}/{PREFIX}"], environment
    )


def _environment() -> dict[str, str]:
    """Nothing of the user's own settings for AWS."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _run(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr.decode(errors='replace')[-2000:]}")
    return time.perf_counter() - began


# -- measuring -------------------------------------------------------------------------------------------------------


def compared(source: Place, target: S3Endpoint, rounds: int) -> dict[str, dict[str, float]]:
    """Every way in turn, each into an empty bucket."""
    ways: dict[str, Callable[[Place, Place], float]] = {"tenure": by_tenure}
    if shutil.which("rclone"):
        ways["rclone"] = by_rclone
    if shutil.which("s5cmd") and source.s3.endpoint == target.endpoint:
        ways["s5cmd"] = by_s5cmd
    wanted = count(source)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with bucket_in(target) as fresh:
                times[name].append(way(source, fresh))
                if count(fresh) != wanted:
                    raise SystemExit(f"{name} copied {count(fresh)} (objects, bytes) of {wanted}")
    return ratios(times, "rclone" if "rclone" in ways else "tenure")


def measured(estate: RunningEstate, objects: int, size_bytes: int, rounds: int) -> dict[str, Any]:
    one, other = estate.s3("s3-one"), estate.s3("s3-other")
    found: dict[str, Any] = {}
    with bucket_in(one) as source:
        fill(source, objects, size_bytes)
        for name, target in (("one_server", one), ("two_servers", other)):
            found[name] = compared(source, target, rounds)
            print(
                f"{objects} of {size_bytes} bytes, {name}: {json.dumps(found[name])}",
                file=sys.stderr,
                flush=True,
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    missing = [tool for tool in ("rclone", "s5cmd") if shutil.which(tool) is None]
    if missing:
        print(f"not installed, and left out: {', '.join(missing)}", file=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    both = (SeaweedServer(name="s3-one"), SeaweedServer(name="s3-other"))
    estate = up(EstateSpec(folder=folder / "estate", servers=both), owner=True)
    report: dict[str, Any] = {"missing": missing}
    try:
        for name, objects, size_bytes in (
            ("small", arguments.small, SMALL_BYTES),
            ("large", arguments.large, LARGE_BYTES),
        ):
            if objects:
                report[name] = {
                    "objects": objects,
                    "size_bytes": size_bytes,
                    **measured(estate, objects, size_bytes, arguments.rounds),
                }
    finally:
        estate.close()
        down(estate.folder, remove=True)
        folder.rmdir()
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
