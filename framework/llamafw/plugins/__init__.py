"""Plugins: found, checked, called, and told apart when something fails. It knows nothing of what they register."""

from llamafw.plugins.configuration import Given, given_options
from llamafw.plugins.discovery import Installed, discover, is_ours, shown
from llamafw.plugins.manager import KINDS, Found, Plugins

__all__ = ["KINDS", "Found", "Given", "Installed", "Plugins", "discover", "given_options", "is_ours", "shown"]
