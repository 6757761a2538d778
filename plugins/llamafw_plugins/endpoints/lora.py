"""GET and POST /lora-adapters. No adapter can be loaded yet, so the list is empty."""
from __future__ import annotations

from llamafw import App, Call, RequestError
from llamafw_plugins.endpoints.shapes import JSON


class Adapters:
    """The operations `listLoraAdapters` and `setLoraAdapters`."""

    def __init__(self, app: App) -> None:
        self.adapters: list[JSON] = []

    async def list(self, call: Call) -> list[JSON]:
        """Return the adapters and their scales."""
        return self.adapters

    async def change(self, call: Call) -> JSON:
        """Set all scales, those that are not named to 0; nothing changes if one of the ids is wrong."""
        known = range(len(self.adapters))
        for i, wanted in enumerate(call.body):
            if wanted["id"] not in known:
                message = f"there is no adapter {wanted['id']}; {len(known)} are loaded"
                raise RequestError(message, param=f"{i}.id")
        scales = {int(wanted["id"]): float(wanted["scale"]) for wanted in call.body}
        self.adapters = [{**adapter, "scale": scales.get(i, 0.0)} for i, adapter in enumerate(self.adapters)]
        return {"success": True}
