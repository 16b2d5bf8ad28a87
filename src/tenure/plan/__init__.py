"""Pure planners: (request, observed state) -> ordered steps, predictions and a digest. No I/O."""
