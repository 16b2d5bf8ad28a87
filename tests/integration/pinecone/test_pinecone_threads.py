"""Many threads may be the first to read answers of the SDK."""

from __future__ import annotations

import subprocess
import sys

FIRST_IN_MANY_THREADS = """
import sys, threading
import tenure.stores.pinecone.client
import msgspec
from pinecone import FetchResponse, ListResponse, QueryResponse

sys.setswitchinterval(0.00001)
together = threading.Barrier(16)
usage = b'"namespace":"n","usage":{"readUnits":1}}'
answers = [
    (FetchResponse, b'{"vectors":{"a":{"id":"a","values":[1.0],"metadata":{"x":1}}},' + usage),
    (QueryResponse, b'{"matches":[{"id":"a","score":1.0}],' + usage),
    (ListResponse, b'{"vectors":[{"id":"a"}],' + usage),
]


def read(number):
    together.wait()
    for kind, answer in answers[number % 3:] + answers[:number % 3]:
        msgspec.json.decode(answer, type=kind)


threads = [threading.Thread(target=read, args=(number,)) for number in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_that_read_the_first_answers_at_once_do_not_crash_the_process() -> None:
    """Where the types are not described before, every second or third of these runs ends with a segmentation fault."""
    ends = [
        subprocess.run([sys.executable, "-c", FIRST_IN_MANY_THREADS], check=False, timeout=60).returncode
        for _ in range(10)
    ]
    assert ends == [0] * 10
