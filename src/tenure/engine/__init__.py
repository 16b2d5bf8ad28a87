"""Runs operations: claims their steps, keeps the leases alive, retries, aborts and resumes. Knows no store."""
