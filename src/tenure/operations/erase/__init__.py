"""Erasures: of a tenant from every store of every cell, its backups included; searched afterwards, and certified."""
