"""Tenure moves, backs up, restores, clones and erases one tenant of a multi-tenant SaaS across all its stores."""

__version__ = "0.1.0"
