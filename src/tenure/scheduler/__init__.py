"""The scheduler: one elected process that wakes what was left lying and inserts what is due."""
