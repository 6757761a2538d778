"""POST /rerank and its aliases. No architecture with a rank head can be run yet, so a valid request is a 501."""
from __future__ import annotations

from llamafw import App, Call, NotSupported, RequestError
from llamafw_plugins.endpoints.shapes import JSON


class Rerank:
    """The operations `createRerank` and its aliases."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> JSON:
        """Refuse: what is wrong first, then what this server, or its model, cannot do."""
        body, settings = call.body, self.app.settings
        given = [field for field in ("documents", "texts") if body.get(field) is not None]
        if len(given) != 1:
            raise RequestError('either "documents" or "texts" must be provided', param="documents")
        if not (settings.reranking or (settings.embedding and settings.pooling == "rank")):
            raise NotSupported("This server does not support reranking. Start it with `--reranking`")
        raise NotSupported(f"{self.app.loaded.name} cannot rerank: it has no rank head")
