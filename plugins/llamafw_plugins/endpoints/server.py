"""GET /health, /v1/models, /props and /openapi.json: what is served, and how it is."""

from __future__ import annotations

import time
from math import prod

from starlette.responses import Response

from llamafw import App, Call, LoadedModel, NotSupported, Tokenizer, Unavailable, __version__
from llamafw_plugins.endpoints.shapes import JSON, settings_shape

VOCAB_TYPES = {"llama": 1, "gpt2": 2, "bert": 3, "t5": 4, "rwkv": 5}  # tokenizer.ggml.model → llama.cpp's number


class Server:
    """The operations that describe the server."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.started = int(time.time())

    async def health(self, call: Call) -> JSON:
        """Answer while the model is loaded and its engine runs, so that whoever watches knows when to restart."""
        if self.app.loaded.engine.failed:
            raise Unavailable("the engine has failed; the server must be restarted")
        return {"status": "ok"}

    async def models(self, call: Call) -> JSON:
        """Return the one model, as OpenAI lists models."""
        loaded = self.app.loaded
        row = {"id": loaded.name, "object": "model", "created": self.started, "owned_by": "llamafw"}
        return {"object": "list", "data": [{**row, "meta": meta(loaded)}]}

    async def props(self, call: Call) -> JSON:
        """Return the properties. The model's path is not among them."""
        loaded = self.app.loaded
        settings = settings_shape(self.app.prepare({}, ()), loaded, stream=False)
        return {
            "system_prompt": loaded.system_prompt.text,
            "default_generation_settings": {**settings, "params": settings},
            "total_slots": loaded.engine.n_slots,
            "model_alias": loaded.name,
            "chat_template": loaded.chat.source,
            "bos_token": token_text(loaded.tokenizer, loaded.tokenizer.bos),
            "eos_token": token_text(loaded.tokenizer, loaded.tokenizer.eos),
            "build_info": f"llamafw {__version__}",
            "modalities": {"vision": False, "audio": False},
        }

    async def change_props(self, call: Call) -> JSON:
        """Set the system prompt."""
        if not self.app.settings.props:
            raise NotSupported("This server does not support changing global properties. Start it with `--props`")
        text = call.body.get("system_prompt")
        if text is not None:
            await self.app.set_system_prompt(text)
        return {"success": True}

    async def openapi(self, call: Call) -> Response:
        """Return the API document."""
        return Response(self.app.document_json, media_type="application/json")


def meta(loaded: LoadedModel) -> JSON:
    """Return llama-server's ``meta`` of a model."""
    model = loaded.model
    n_vocab, n_ctx_train, n_embd = sizes(loaded)
    return {
        "vocab_type": VOCAB_TYPES.get(str(model.metadata.get("tokenizer.ggml.model")), 0),
        "n_vocab": n_vocab,
        "n_ctx_train": n_ctx_train,
        "n_embd": n_embd,
        "n_params": sum(prod(tensor.shape) for tensor in model.tensors.values()),
        "size": model.n_bytes,
    }


def sizes(loaded: LoadedModel) -> tuple[int, int, int]:
    """Return n_vocab, n_ctx_train and n_embd; 0 for what neither the decoder nor the file says."""
    decoder, metadata = loaded.decoder, loaded.model.metadata
    if decoder is not None:
        return decoder.n_vocab, decoder.n_ctx_train, decoder.n_embd
    prefix = metadata.get("general.architecture")
    n_ctx_train, n_embd = metadata.get(f"{prefix}.context_length", 0), metadata.get(f"{prefix}.embedding_length", 0)
    return loaded.tokenizer.n_vocab, int(n_ctx_train), int(n_embd)


def token_text(tokenizer: Tokenizer, token: int | None) -> str:
    """Return the text of a special token; "" if there is none."""
    return "" if token is None else tokenizer.piece(token, special=True).decode("utf-8", "replace")
