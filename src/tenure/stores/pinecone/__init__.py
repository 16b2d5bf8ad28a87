"""Pinecone: a namespace per tenant, the app's journal as the change feed, log sequence numbers for what reads see.

Only `client` and `errors` import `pinecone`, and only `limiter` imports `redis`.
"""

from tenure.stores.pinecone.copy import PineconeCopy
from tenure.stores.pinecone.limiter import Limiter, Rates, RedisBuckets
from tenure.stores.pinecone.store import Login, PineconeStore

__all__ = ["Limiter", "Login", "PineconeCopy", "PineconeStore", "Rates", "RedisBuckets"]
