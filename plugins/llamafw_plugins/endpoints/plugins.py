"""GET /plugins: list the plugins of the server."""

from __future__ import annotations

from llamafw import API_VERSION, App, Call, PluginInfo, __version__
from llamafw_plugins.endpoints.response_json import JSON


class PluginEndpoints:
    """The operation `listPlugins`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def list(self, call: Call) -> JSON:
        """Return every plugin that was found.

        Why a plugin was not loaded is only in the log, because the reason may contain paths.
        """
        return {
            "version": __version__,
            "api_version": API_VERSION,
            "plugins": [plugin_json(info) for info in self.app.installed],
        }


def plugin_json(info: PluginInfo) -> JSON:
    """Return one plugin as the API document describes it."""
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "state": info.state,
        "requires_api": info.requires_api,
        "kinds": {kind: list(names) for kind, names in info.kinds.items()},
        "hooks": list(info.hooks),
        "options": dict(info.options),
        "request_fields": dict(info.request_fields),
        "load_ms": round(info.load_ms, 3),
    }
