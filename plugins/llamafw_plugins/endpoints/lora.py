"""GET and POST /lora-adapters. No adapter can be loaded, so the list is empty."""

from __future__ import annotations

from llamafw import Call, RequestError
from llamafw_plugins.endpoints.shapes import JSON


class Adapters:
    """The operations `listLoraAdapters` and `setLoraAdapters`."""

    async def list(self, call: Call) -> list[JSON]:
        """Return the adapters and their scales."""
        return []

    async def change(self, call: Call) -> JSON:
        """Set no scales, which is all that can be asked for."""
        if call.body:
            raise RequestError(f"there is no adapter {call.body[0]['id']}; 0 are loaded", param="0.id")
        return {"success": True}
