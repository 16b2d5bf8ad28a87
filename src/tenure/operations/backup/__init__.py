"""Backups: taken at one point over all stores of a tenant, kept by tier, pruned, verified and drilled."""
