"""Finds plugins, checks them, calls their hooks, and finds out which one is responsible when something fails."""

from llamafw.plugins.configuration import PluginSetting, plugin_settings
from llamafw.plugins.discovery import InstalledPlugin, discover, is_builtin, public_name
from llamafw.plugins.failures import FailureLog, Place
from llamafw.plugins.manager import KINDS, Plugins
from llamafw.plugins.records import PluginRecord

__all__ = [
    "KINDS",
    "FailureLog",
    "InstalledPlugin",
    "Place",
    "PluginRecord",
    "PluginSetting",
    "Plugins",
    "discover",
    "is_builtin",
    "plugin_settings",
    "public_name",
]
