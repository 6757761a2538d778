"""POST /api/embed, and its predecessor /api/embeddings."""

from __future__ import annotations

from time import perf_counter_ns

from llamafw import App, Call, Floats, NotSupported
from llamafw_plugins.endpoints.embed_texts import embed_field
from llamafw_plugins.endpoints.embedding_fields import TextLimit, choose_dimensions, choose_embedder, choose_pooling
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.vectors import as_numbers, scale_vectors
from llamafw_plugins.ollama.options import ignore

LENGTH_ONE, UNSCALED = 2, -1  # orders of norms, as in `embd_normalize`


class OllamaEmbedEndpoints:
    """The operations `createOllamaEmbeddings` and `createOllamaEmbedding`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> JSON:
        """Return the embedding of each text, with the length 1."""
        body, start = call.body, perf_counter_ns()
        dimensions = choose_dimensions(body, choose_embedder(self.app, body["model"]), self.app.settings)
        input = body.get("input") or []  # without texts, clients load the model
        cuts = body.get("truncate") is not False
        embeddings, n_prompt = await self._embed(
            call, input, "input", norm=LENGTH_ONE, cuts=cuts, dimensions=dimensions
        )
        return {
            "model": body["model"],
            "embeddings": embeddings,
            "total_duration": perf_counter_ns() - start,
            "load_duration": 0,
            "prompt_eval_count": n_prompt,
        }

    async def create_one(self, call: Call) -> JSON:
        """Return the embedding of one text, not scaled."""
        if not call.body.get("prompt"):
            return {"embedding": []}
        embeddings, _ = await self._embed(call, call.body["prompt"], "prompt", norm=UNSCALED, cuts=True)
        return {"embedding": embeddings[0]}

    async def _embed(
        self,
        call: Call,
        texts: str | list[str],
        field: str,
        *,
        norm: int,
        cuts: bool,
        dimensions: int | None = None,
    ) -> tuple[list[Floats], int]:
        """Return the embeddings and the number of tokens.

        Parameters
        ----------
        norm : int
            Order of the norm that the vectors are divided by.
        cuts : bool
            Whether texts that are too long lose their ends; otherwise, they are refused.
        dimensions : int, optional
            How many numbers of each vector to keep.
        """
        for name in call.body.get("options") or ():
            ignore(call, self.app, f"options.{name}")
        loaded = choose_embedder(self.app, call.body.get("model"))
        pooling = choose_pooling(loaded, self.app.settings.pooling)
        if pooling == "none":
            raise NotSupported(
                "without pooling, a text has one embedding per token; start the server with --pooling mean or last"
            )
        if not texts:
            return [], 0

        limit = TextLimit("end" if cuts else "none")
        embeddings = await embed_field(self.app, loaded, texts, field, pooling, limit)
        vectors = [as_numbers(scale_vectors(embedding.vectors[:, :dimensions], norm)[0]) for embedding in embeddings]
        return vectors, sum(embedding.n_prompt for embedding in embeddings)
