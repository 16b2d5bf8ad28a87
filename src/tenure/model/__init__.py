"""Frozen domain values and states. No I/O, no imports from the rest of Tenure but `errors`."""
