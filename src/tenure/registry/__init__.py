"""The control database: tenants, placements, operations, their steps and the journal, each noun in its own module.

`tenure.registry.registry.Registry` puts them together.
"""
