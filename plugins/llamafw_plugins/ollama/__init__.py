"""Ollama's API: chats, completions, embeddings, and descriptions of the model, below ``/api``.

``openapi.yaml`` describes the operations. Answers are generated as those of chat completions are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafw import App, Register, hookimpl
from llamafw_plugins.fragments import read_fragment


@hookimpl
def extend_openapi() -> Mapping[str, Any]:
    return read_fragment(__name__)


@hookimpl
def register_endpoints(register: Register, app: App) -> None:
    from llamafw_plugins.ollama.chat import OllamaChatEndpoints
    from llamafw_plugins.ollama.embed import OllamaEmbedEndpoints
    from llamafw_plugins.ollama.generate import OllamaGenerateEndpoints
    from llamafw_plugins.ollama.models import OllamaModelEndpoints

    embed, models = OllamaEmbedEndpoints(app), OllamaModelEndpoints(app)
    register("createOllamaChat", OllamaChatEndpoints(app).create)
    register("createOllamaCompletion", OllamaGenerateEndpoints(app).create)
    register("createOllamaEmbeddings", embed.create)
    register("createOllamaEmbedding", embed.create_one)
    register("listOllamaModels", models.list_all)
    register("listRunningOllamaModels", models.list_running)
    register("showOllamaModel", models.show)
    register("pullOllamaModel", models.pull)
    register("getOllamaRoot", models.root)
    register("getOllamaVersion", models.version)
    for name in ("copyOllamaModel", "deleteOllamaModel", "createOllamaModel", "pushOllamaModel"):
        register(name, models.refuse)


@hookimpl
def register_error_formats(register: Register) -> None:
    from llamafw_plugins.ollama.errors import error_format

    register("/api", error_format)
