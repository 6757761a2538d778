"""The endpoints of llama-server, and how a request body becomes a `GenerateRequest`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import App, GenerateRequest, Register, hookimpl


@hookimpl
def register_endpoints(register: Register, app: App) -> None:
    from llamafw_plugins.endpoints.chat import ChatCompletion
    from llamafw_plugins.endpoints.completion import Completion
    from llamafw_plugins.endpoints.embeddings import Embeddings
    from llamafw_plugins.endpoints.infill import Infill
    from llamafw_plugins.endpoints.lora import Adapters
    from llamafw_plugins.endpoints.plugins import Plugins
    from llamafw_plugins.endpoints.rerank import Rerank
    from llamafw_plugins.endpoints.server import Server
    from llamafw_plugins.endpoints.slots import SlotOperations
    from llamafw_plugins.endpoints.template import ApplyTemplate
    from llamafw_plugins.endpoints.text_completion import TextCompletion
    from llamafw_plugins.endpoints.tokens import Tokens

    embeddings, slots, adapters = Embeddings(app), SlotOperations(app), Adapters()
    rerank, template = Rerank(app), ApplyTemplate(app)
    completion, chat, server, tokens = Completion(app), ChatCompletion(app), Server(app), Tokens(app)
    register("getHealth", server.health)
    register("getHealthAlias", server.health)
    register("createCompletion", completion.create)
    register("createCompletionAlias", completion.create)
    register("createInfill", Infill(app).create)
    register("createTextCompletion", TextCompletion(app).create)
    register("createChatCompletion", chat.create)
    register("createChatCompletionAlias", chat.create)
    register("createEmbedding", embeddings.native)
    register("createEmbeddingAlias", embeddings.native)
    register("createOpenaiEmbedding", embeddings.openai)
    for name in ("createRerank", "createRerankAlias", "createRerankV1", "createRerankV1Alias"):
        register(name, rerank.create)
    register("applyTemplate", template.create)
    register("countChatTokens", template.count)
    register("tokenize", tokens.tokenize)
    register("detokenize", tokens.detokenize)
    register("listModels", server.models)
    register("listModelsAlias", server.models)
    register("getProps", server.props)
    register("setProps", server.change_props)
    register("getSlots", slots.list)
    register("changeSlot", slots.change)
    register("listLoraAdapters", adapters.list)
    register("setLoraAdapters", adapters.change)
    register("listPlugins", Plugins(app).list)
    register("getOpenapi", server.openapi)


@hookimpl(trylast=True)
def prepare_request(body: Mapping[str, Any], prompt: Sequence[int], app: App) -> GenerateRequest:
    from llamafw_plugins.endpoints.prepare import prepare

    return prepare(body, prompt, app)
