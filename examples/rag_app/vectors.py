"""The documents' vectors in a cell's Pinecone: one record for each document, in the tenant's namespace."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from pinecone import AsyncIndex, NotFoundError

from rag_app.embedding import chunks_of, embed
from rag_app.settings import VectorSettings

TIMEOUT_S: Final = 5.0
NEAREST: Final = 5


def record_id(document: int) -> str:
    return str(document)


def namespace_of(tenant: str) -> str:
    return tenant


def record_of(document: int, title: str, body: str) -> dict[str, Any]:
    """A document's record: the vector of its first chunk, with the title beside it."""
    return {
        "id": record_id(document),
        "values": embed(chunks_of(title, body)[0]),
        "metadata": {"document": document, "title": title},
    }


class VectorIndex:
    """The cell's index. Writes are safe to repeat, which the vendor's SDK does by itself.

    Reads see a write only after a while: what was just written may be missing, what was just deleted still be there.
    """

    def __init__(self, settings: VectorSettings) -> None:
        self._index = AsyncIndex(host=settings.host, api_key=settings.api_key, timeout=TIMEOUT_S)

    async def close(self) -> None:
        await self._index.close()

    async def put(self, tenant: str, document: int, title: str, body: str) -> None:
        vectors = [record_of(document, title, body)]
        await self._index.upsert(vectors=vectors, namespace=namespace_of(tenant), show_progress=False)

    async def delete(self, tenant: str, document: int) -> None:
        """Nothing happens if it is not there, nor if the tenant never had a record."""
        with suppress(NotFoundError):
            await self._index.delete(ids=[record_id(document)], namespace=namespace_of(tenant))

    async def nearest(self, tenant: str, vector: list[float]) -> list[dict[str, Any]]:
        """The five documents whose beginning is nearest."""
        try:
            found = await self._index.query(
                top_k=NEAREST, vector=vector, namespace=namespace_of(tenant), include_metadata=True
            )
        except NotFoundError:
            return []
        return [_hit(match.metadata or {}, match.score) for match in found.matches]


def _hit(metadata: Mapping[str, Any], score: float) -> dict[str, Any]:
    return {"document": int(metadata["document"]), "title": metadata["title"], "score": score}
