"""Show the tokens of a message in the chat page.

The page loads the module that `getTokenPanel` returns.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llamafw import App, Call, Register, hookimpl

if TYPE_CHECKING:
    from starlette.responses import Response

requires_api = ">=1.0,<2"
FOLDER = Path(__file__).parent

API: dict[str, Any] = yaml.safe_load("""
paths:
  /token-panel.js:
    get:
      operationId: getTokenPanel
      tags: [server]
      summary: Get the module for the chat page
      description: Needs no key. The module calls the API with the key of the page.
      security: []
      x-llamafw-webui-module: true
      responses:
        "200":
          description: The module.
          content:
            text/javascript: {schema: {type: string}}
        "500": {$ref: "#/components/responses/InternalError"}
        "503": {$ref: "#/components/responses/Unavailable"}
""")


@hookimpl
def extend_openapi() -> dict[str, Any]:
    """Return the operation."""
    return API


@hookimpl
def register_endpoints(register: Register, app: App) -> None:
    """Register the operation."""
    register("getTokenPanel", get_token_panel)


async def get_token_panel(call: Call) -> Response:
    """Return the module."""
    from starlette.responses import Response

    module = (FOLDER / "panel.js").read_bytes()
    return Response(module, media_type="text/javascript", headers={"Cache-Control": "no-cache"})
