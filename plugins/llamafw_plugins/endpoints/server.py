"""GET /health, /v1/models, /props and /openapi.json; POST /props: describe the server and its model."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from math import prod

from starlette.responses import Response

from llamafw import (
    App,
    Call,
    ChatCapabilities,
    LoadedModel,
    NotSupported,
    RequestError,
    Tokenizer,
    Unavailable,
    __version__,
)
from llamafw_plugins.endpoints.response_json import JSON, settings_json

VOCAB_TYPES = {"llama": 1, "gpt2": 2, "bert": 3, "t5": 4, "rwkv": 5}  # tokenizer.ggml.model → llama.cpp's number
MAX_SHOWN_ID = 100  # characters of an unknown model id that an error message repeats


class ModelNotFound(RequestError):
    """The server has no model with the requested id."""

    status = 404
    type = "not_found_error"


class ServerEndpoints:
    """The operations that describe the server and its model."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.started = int(time.time())

    async def health(self, call: Call) -> JSON:
        """Return "ok" if the model is loaded and its engine runs; otherwise 503."""
        loaded = self.app.loaded
        for model in loaded.all:
            if model.engine.failed:
                which = f" of {model.name}" if len(loaded.all) > 1 else ""
                raise Unavailable(f"the engine{which} has failed; the server must be restarted")
        return {"status": "ok"}

    async def list_models(self, call: Call) -> JSON:
        """Return the server's models: in OpenAI's format in ``data``, in Ollama's in ``models``.

        Anthropic's clients also get the members of Anthropic's format.
        """
        models = self.app.loaded.all
        page: JSON = {
            "object": "list",
            "data": [self._model_json(model, call) for model in models],
            "models": [self._ollama_json(model) for model in models],
        }
        if is_from_anthropic(call):
            page |= {"has_more": False, "first_id": models[0].name, "last_id": models[-1].name}
        return page

    async def get_model(self, call: Call) -> JSON:
        """Return the model that has the id or the alias in the path; otherwise 404."""
        requested, models = call.path["model"], self.app.loaded.all
        for model in models:
            if requested in (model.name, *self._aliases(model)):
                return self._model_json(model, call)
        names = " and ".join(repr(model.name) for model in models)
        noun = "the model" if len(models) == 1 else "the models"
        message = f"the model {requested[:MAX_SHOWN_ID]!r} does not exist; this server has {noun} {names}"
        raise ModelNotFound(message, param="model")

    async def props(self, call: Call) -> JSON:
        """Return the properties of the server and its model."""
        loaded, flags = self.app.loaded, self.app.settings
        settings = settings_json(self.app.prepare({}, ()), loaded, stream=False)

        return {
            "system_prompt": loaded.system_prompt.text,
            "default_generation_settings": {**settings, "params": settings},
            "total_slots": loaded.engine.n_slots,
            "model_alias": loaded.name,
            "model_path": str(loaded.model.path),
            "model_ftype": ftype_name(loaded),
            "endpoint_slots": flags.slots is not False,
            "endpoint_props": flags.props,
            "endpoint_metrics": flags.metrics,
            "ui": flags.webui,
            "is_sleeping": loaded.engine.stats().sleeping,
            "chat_template": loaded.chat.source,
            "chat_template_caps": capabilities_json(loaded.chat_capabilities),
            "bos_token": token_text(loaded.tokenizer, loaded.tokenizer.bos),
            "eos_token": token_text(loaded.tokenizer, loaded.tokenizer.eos),
            "build_info": f"llamafw {__version__}",
            "modalities": {"vision": False, "audio": False, "video": False},
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

    def _aliases(self, loaded: LoadedModel) -> list[str]:
        """Return the other names of a model, which only the first one has."""
        return [] if loaded is not self.app.loaded else [n for n in self.app.settings.alias if n != loaded.name]

    def _model_json(self, loaded: LoadedModel, call: Call) -> JSON:
        """Return a model in OpenAI's format, with llama-server's ``meta``, or also in Anthropic's format."""
        is_first = loaded is self.app.loaded
        model: JSON = {
            "id": loaded.name,
            "aliases": self._aliases(loaded),
            "tags": list(self.app.settings.tags) if is_first else [],
            "object": "model",
            "created": self.started,
            "owned_by": "llamafw",
            "meta": meta_json(loaded),
        }
        if is_from_anthropic(call):
            model |= {
                "type": "model",
                "display_name": loaded.name,
                "created_at": datetime.fromtimestamp(self.started, UTC).isoformat().replace("+00:00", "Z"),
                "lifecycle": "active",
                "max_input_tokens": loaded.engine.n_ctx,
                "max_tokens": loaded.engine.n_ctx,
            }
        return model

    def _ollama_json(self, loaded: LoadedModel) -> JSON:
        """Return a model in Ollama's format, which some clients of llama-server read."""
        is_first = loaded is self.app.loaded
        capabilities = ["completion"] if is_first and not self.app.settings.embedding else ["embedding"]
        return {
            "name": loaded.name,
            "model": loaded.name,
            "modified_at": "",
            "size": str(loaded.model.n_bytes),
            "digest": "",
            "type": "model",
            "description": str(loaded.model.metadata.get("general.name", "")),
            "tags": list(self.app.settings.tags) if is_first else [],
            "capabilities": capabilities,
            "parameters": "",
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": str(loaded.model.metadata.get("general.architecture", "")),
                "families": [str(loaded.model.metadata.get("general.architecture", ""))],
                "parameter_size": str(loaded.model.metadata.get("general.size_label", "")),
                "quantization_level": ftype_name(loaded),
            },
        }


def is_from_anthropic(call: Call) -> bool:
    """Return whether a request has the header that all of Anthropic's clients send."""
    return "anthropic-version" in call.http.headers


def capabilities_json(can: ChatCapabilities) -> JSON:
    """Return what a chat template can do, under llama-server's names, and what is known of the model's reasoning."""
    tags = can.reasoning
    return {
        "supports_string_content": can.string_content,
        "supports_typed_content": can.typed_content,
        "supports_system_role": can.system,
        "supports_developer_role": can.developer,
        "supports_repeated_roles": can.repeated_roles,
        "supports_tools": can.tools,
        "supports_tool_calls": can.tool_calls,
        "supports_tool_results": can.tool_results,
        "supports_parallel_tool_calls": can.tool_calls and can.parallel_calls,
        "supports_object_arguments": can.tool_calls and can.object_arguments,
        "supports_preserve_reasoning": can.preserves_reasoning,
        "supports_reasoning_effort": can.reasoning_effort,
        "thinking_switch": can.thinking_switch,
        "opens_reasoning": can.opens_reasoning,
        "reasoning_field": can.reasoning_field,
        "reasoning_tags": None if tags is None else {"start": tags.start, "end": tags.end},
    }


def meta_json(loaded: LoadedModel) -> JSON:
    """Return llama-server's ``meta`` of a model."""
    model = loaded.model
    n_vocab, n_ctx_train, n_embd = model_sizes(loaded)
    return {
        "vocab_type": VOCAB_TYPES.get(str(model.metadata.get("tokenizer.ggml.model")), 0),
        "n_vocab": n_vocab,
        "n_ctx": loaded.engine.n_ctx,
        "n_ctx_train": n_ctx_train,
        "n_embd": n_embd,
        "n_params": count_parameters(loaded),
        "size": model.n_bytes,
        "ftype": ftype_name(loaded),
    }


def count_parameters(loaded: LoadedModel) -> int:
    """Return the number of weights in all tensors."""
    return sum(prod(tensor.shape) for tensor in loaded.model.tensors.values())


def ftype_name(loaded: LoadedModel) -> str:
    """Return the name of the type that most tensors of a GGUF file have, such as "Q4_K_M"; "" if unknown."""
    from gguf import LlamaFileType  # a slow import

    number = loaded.model.metadata.get("general.file_type", -1)
    try:
        return LlamaFileType(int(number)).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except (TypeError, ValueError):
        return ""


def model_sizes(loaded: LoadedModel) -> tuple[int, int, int]:
    """Return n_vocab, n_ctx_train and n_embd; 0 for a size that neither the graph nor the file has."""
    graph, metadata = loaded.graph, loaded.model.metadata
    if graph is not None:
        return graph.n_vocab or loaded.tokenizer.n_vocab, graph.n_ctx_train, graph.n_embd
    prefix = metadata.get("general.architecture")
    n_ctx_train, n_embd = metadata.get(f"{prefix}.context_length", 0), metadata.get(f"{prefix}.embedding_length", 0)
    return loaded.tokenizer.n_vocab, int(n_ctx_train), int(n_embd)


def token_text(tokenizer: Tokenizer, token: int | None) -> str:
    """Return the text of a special token; an empty text for None."""
    return "" if token is None else tokenizer.piece(token, special=True).decode("utf-8", "replace")
