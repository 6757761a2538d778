"""POST /api/embed, and its predecessor /api/embeddings."""

from __future__ import annotations

from time import perf_counter_ns

from llamafw import App, Call, NotSupported, RequestError
from llamafw_plugins.endpoints.embeddings import as_list, choose_pooling, embed_all, scale_vectors
from llamafw_plugins.endpoints.prompts import Prompt, read_prompts
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.server import model_sizes
from llamafw_plugins.ollama.options import ignore

LENGTH_ONE, UNSCALED = 2, -1  # orders of norms, as in `embd_normalize`


class OllamaEmbedEndpoints:
    """The operations `createOllamaEmbeddings` and `createOllamaEmbedding`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> JSON:
        """Return the embedding of each text, with the length 1."""
        body, start = call.body, perf_counter_ns()
        dimensions, (_, _, n_embd) = body.get("dimensions"), model_sizes(self.app.loaded)
        if dimensions not in (None, n_embd):
            message = f"embeddings of this model have {n_embd} dimensions and cannot have {dimensions}"
            raise RequestError(message, param="dimensions")

        input = body.get("input") or []  # without texts, clients load the model
        texts = [input] if isinstance(input, str) else input
        cuts = body.get("truncate") is not False
        embeddings, n_prompt = await self._embed(call, texts, "input", norm=LENGTH_ONE, cuts=cuts)
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
        embeddings, _ = await self._embed(call, [call.body["prompt"]], "prompt", norm=UNSCALED, cuts=True)
        return {"embedding": embeddings[0]}

    async def _embed(
        self, call: Call, texts: list[str], field: str, *, norm: int, cuts: bool
    ) -> tuple[list[list[float]], int]:
        """Return the embeddings and the number of tokens.

        Parameters
        ----------
        norm : int
            Order of the norm that the vectors are divided by.
        cuts : bool
            Whether texts that are too long lose their ends; otherwise, they are refused.
        """
        for name in call.body.get("options") or ():
            ignore(call, self.app, f"options.{name}")
        loaded = self.app.loaded
        pooling = choose_pooling(loaded, self.app.settings.pooling)
        if pooling == "none":
            raise NotSupported(
                "without pooling, a text has one embedding per token; start the server with --pooling mean or last"
            )
        if not texts:
            return [], 0

        prompts = await read_prompts(texts, loaded.tokenizer, field)
        tokens = [cut_prompt(prompt, loaded.engine.n_ctx) if cuts else prompt.tokens for prompt in prompts]
        params = [field] if isinstance(call.body[field], str) else [f"{field}.{i}" for i in range(len(prompts))]
        embeddings = await embed_all(self.app, tokens, pooling, params)
        vectors = [as_list(scale_vectors(embedding.vectors, norm)[0]) for embedding in embeddings]
        return vectors, sum(embedding.n_prompt for embedding in embeddings)


def cut_prompt(prompt: Prompt, n_ctx: int) -> tuple[int, ...]:
    """Return the tokens of a text that fit into the context; the last one, perhaps EOS, always stays."""
    tokens = prompt.tokens
    return tokens if len(tokens) <= n_ctx else (*tokens[: n_ctx - 1], tokens[-1])
