"""GET and POST /lora-adapters.

The server cannot load adapters, so the list is empty.
"""

from __future__ import annotations

from llamafw import Call, RequestError
from llamafw_plugins.endpoints.response_json import JSON


class LoraEndpoints:
    """The operations `listLoraAdapters` and `setLoraAdapters`."""

    async def list(self, call: Call) -> list[JSON]:
        """Return the adapters and their scales."""
        return []

    async def change(self, call: Call) -> JSON:
        """Accept an empty list of scales; every other one names an adapter that does not exist."""
        if call.body:
            raise RequestError(f"adapter {call.body[0]['id']} does not exist: no adapter is loaded", param="0.id")
        return {"success": True}
