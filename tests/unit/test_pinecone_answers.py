"""The SDK's decoder crashes the process when two threads need a type of an answer first: all are described before."""

from __future__ import annotations

import subprocess
import sys

from tenure.stores.pinecone.answers import describe_answers

RACE = """
import sys, threading
import msgspec
{before}
from pinecone._internal.adapters import indexes_adapter, vectors_adapter
from pinecone.models.indexes.list import IndexList

sys.setswitchinterval(1e-6)
index = b'{{"name":"a","dimension":2,"metric":"cosine","host":"h","status":{{"ready":true,"state":"Ready"}},'
index += b'"spec":{{"serverless":{{"cloud":"aws","region":"us-east-1"}}}},"vector_type":"dense"}}'
gate = threading.Barrier(8)

def first():
    gate.wait()
    indexes_adapter.IndexesAdapter.to_index_list(b'{{"indexes":[' + index + b']}}')

threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_many_threads_may_be_the_first_to_list_indexes() -> None:
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", RACE.format(before="import tenure.stores.pinecone.client")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


def test_the_answers_of_the_sdk_itself_are_among_those_that_are_described() -> None:
    names = {answer.__name__ for answer in describe_answers()}
    assert names >= {"_IndexListEnvelope", "IndexModel", "QueryResponse", "ListNamespacesResponse"}
    assert len(names) > 100
