"""How requests reach the cell that serves a tenant: the contract and its implementations."""
