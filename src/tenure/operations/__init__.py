"""What the steps of each operation do. The engine runs them; the stores and the gateway do the work."""
