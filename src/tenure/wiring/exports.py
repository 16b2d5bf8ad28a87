"""Who reads which form of streams for a portable export."""

from __future__ import annotations

from collections.abc import Mapping

from tenure.stores.exports import Exporter


def exporters() -> Mapping[str, Exporter]:
    """By the form of a stream. Loaded here, because the vendors' libraries take their time."""
    from tenure.stores.analytics import exported as analytics
    from tenure.stores.cloudwatch import exported as cloudwatch
    from tenure.stores.pinecone import exported as pinecone
    from tenure.stores.postgres import exported as postgres
    from tenure.stores.postgres.streams import FORMAT as COPY_TEXT
    from tenure.stores.redis import exported as redis
    from tenure.stores.redis.backup_values import FORM as REDIS_KEYS
    from tenure.stores.s3 import exported as s3

    return {
        COPY_TEXT: postgres.rows_of,
        s3.FORM: s3.objects_of,
        REDIS_KEYS: redis.keys_of,
        pinecone.FORM: pinecone.records_of,
        cloudwatch.FORM: cloudwatch.events_of,
        analytics.FORM: analytics.units_of,
    }
