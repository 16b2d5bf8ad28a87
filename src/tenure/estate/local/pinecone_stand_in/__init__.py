"""A stand-in for Pinecone: the vendor's published REST API (2026-07) over SQLite, for tests and the local estate.

It is not Pinecone: it searches by reading everything, and says in every response (`x-tenure-stand-in`) what it is. It
keeps what it has acknowledged through kill -9. Everything that tests turn up (late reads, throttling, failures) goes
through one control address that only tests use.
"""
