"""The fleet's workers: a Celery app that wakes the engine. The journal stays the truth; a message says only *when*."""
