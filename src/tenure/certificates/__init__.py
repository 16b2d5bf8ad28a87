"""Certificates of erasure: what may be said, how it is signed, and how anybody checks it without Tenure's database."""
