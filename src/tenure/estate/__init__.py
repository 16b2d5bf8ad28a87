"""The estate: all cells, the control database and the gateway, as `tenure.yaml` describes them."""
