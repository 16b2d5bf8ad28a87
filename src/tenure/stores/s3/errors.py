"""What boto raises, as Tenure's errors: shared with every store that is kept in a bucket."""

from tenure.stores.buckets.errors import ABSENT, code_of, translated

__all__ = ["ABSENT", "code_of", "translated"]
