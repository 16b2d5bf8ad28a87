"""What lies between the stores, which give a tenant's data, and a vault, which keeps it: backups are cut into chunks,
sealed with the tenant's own key, described by a signed manifest, read back and verified. Knows no kind of store.

See `docs/backup-format.md` for the format and `tenure.backups.contract` for what the stores see of it.
"""
