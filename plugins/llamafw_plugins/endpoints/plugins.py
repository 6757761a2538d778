"""GET /plugins: what this server is made of."""

from __future__ import annotations

from llamafw import API_VERSION, App, Call, PluginInfo, __version__
from llamafw_plugins.endpoints.shapes import JSON


class Plugins:
    """The listing of plugins."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def list(self, call: Call) -> JSON:
        """Return every plugin that was found. Why one was left out is in the log alone: it may name places."""
        return {
            "version": __version__,
            "api_version": API_VERSION,
            "plugins": [shape(info) for info in self.app.installed],
        }


def shape(info: PluginInfo) -> JSON:
    """Return one plugin as the document has it."""
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
