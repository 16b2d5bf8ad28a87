"""S3 and what speaks its language: a bucket policy as the fence, the app's journal as the change feed. The only module
that imports `boto3`."""

from tenure.stores.s3.copy import S3Copy
from tenure.stores.s3.store import S3Store

__all__ = ["S3Copy", "S3Store"]
