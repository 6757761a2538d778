"""Operations of plugins on the page at /docs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.distributions import Site

PLUGIN = '''
from llamafw import hookimpl

@hookimpl
def extend_openapi():
    """Add an operation whose description tries to run a script."""
    text = "Digs. <script>alert(1)</script> [click](javascript:alert(1)) **deep**"
    schema = {"type": "object", "properties": {"depth": {"type": "integer", "default": 3, "description": "Metres."}}}
    media = {"application/json": {"schema": schema, "example": {"depth": 2, "note": "</textarea></template>"}}}
    operation = {"operationId": "dig", "summary": "Dig <here>", "description": text, "tags": ["digging"],
                 "requestBody": {"content": media}, "responses": {"200": {"description": "Dug."}}}
    return {"paths": {"/dig": {"post": operation}}, "tags": [{"name": "digging", "description": "Holes."}]}

async def dig(call):
    return {}

@hookimpl
def register_endpoints(register):
    register("dig", dig)
'''


async def test_operations_of_plugins_are_marked_and_cannot_run_scripts(site: Site, serve: Callable[..., Any]) -> None:
    site.install("llamafw-dig", PLUGIN)
    async with serve() as client:
        page = (await client.get("/docs/")).text
    part = page.partition('id="dig"')[2].partition("</section>")[0]
    assert '<span class="badge plugin">plugin llamafw-dig:dig</span>' in part
    assert "The plugin <code>llamafw-dig:dig</code> adds this operation" in part
    assert "<strong>deep</strong>" in part
    assert "Dig &lt;here&gt;" in part
    assert "<script>" not in page
    assert 'href="javascript:' not in page
    assert part.count("</textarea>") == 1
    others = page.replace(part, "")
    assert "badge plugin" not in others
