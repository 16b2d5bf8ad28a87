"""A gateway made of Envoy proxies that watch two files, and one small gate process that they ask about gated
tenants."""

from tenure.routing.envoy.options import EnvoyOptions, GateEndpoint
from tenure.routing.envoy.router import EnvoyRouter

__all__ = ["EnvoyOptions", "EnvoyRouter", "GateEndpoint"]
