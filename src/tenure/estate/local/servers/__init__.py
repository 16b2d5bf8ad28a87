"""How each kind of server is prepared, started, asked whether it is ready, and stopped."""

from tenure.estate.local.servers.contract import Launch, Recipe, Site
from tenure.estate.local.servers.kinds import recipe

__all__ = ["Launch", "Recipe", "Site", "recipe"]
