"""The endpoints of llama-server's and OpenAI's API, and the hook that turns a request body into a `GenerateRequest`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import App, GenerateRequest, Register, hookimpl


@hookimpl
def register_endpoints(register: Register, app: App) -> None:
    from llamafw_plugins.endpoints.adapters import AdapterEndpoints
    from llamafw_plugins.endpoints.chat import ChatEndpoints
    from llamafw_plugins.endpoints.completion import CompletionEndpoints
    from llamafw_plugins.endpoints.embeddings import EmbeddingEndpoints
    from llamafw_plugins.endpoints.infill import InfillEndpoints
    from llamafw_plugins.endpoints.plugins import PluginEndpoints
    from llamafw_plugins.endpoints.rerank import RerankEndpoints
    from llamafw_plugins.endpoints.server import ServerEndpoints
    from llamafw_plugins.endpoints.slots import SlotEndpoints
    from llamafw_plugins.endpoints.template import TemplateEndpoints
    from llamafw_plugins.endpoints.text_completion import TextCompletionEndpoints
    from llamafw_plugins.endpoints.tokens import TokenEndpoints

    completion = CompletionEndpoints(app)
    register("createCompletion", completion.create)
    register("createCompletionAlias", completion.create)
    register("createInfill", InfillEndpoints(app).create)
    register("createTextCompletion", TextCompletionEndpoints(app).create)

    chat, template = ChatEndpoints(app), TemplateEndpoints(app)
    register("createChatCompletion", chat.create)
    register("createChatCompletionAlias", chat.create)
    register("countChatTokens", template.count)
    register("applyTemplate", template.apply)

    embeddings, rerank = EmbeddingEndpoints(app), RerankEndpoints(app)
    register("createEmbedding", embeddings.create)
    register("createEmbeddingAlias", embeddings.create)
    register("createOpenaiEmbedding", embeddings.create_openai)
    register("createRerank", rerank.create)
    register("createRerankAlias", rerank.create)
    register("createRerankV1", rerank.create)
    register("createRerankV1Alias", rerank.create)

    tokens = TokenEndpoints(app)
    register("tokenize", tokens.tokenize)
    register("detokenize", tokens.detokenize)

    server, slots, adapters = ServerEndpoints(app), SlotEndpoints(app), AdapterEndpoints(app)
    register("getHealth", server.health)
    register("getHealthAlias", server.health)
    register("listModels", server.list_models)
    register("listModelsAlias", server.list_models)
    register("getModel", server.get_model)
    register("getModelAlias", server.get_model)
    register("getProps", server.props)
    register("setProps", server.change_props)
    register("getOpenapi", server.openapi)
    register("getSlots", slots.list)
    register("changeSlot", slots.change)
    register("listLoraAdapters", adapters.list_lora)
    register("setLoraAdapters", adapters.set_lora)
    register("loadLoraAdapter", adapters.load)
    register("unloadLoraAdapter", adapters.unload)
    register("listControlVectors", adapters.list_control_vectors)
    register("setControlVectors", adapters.set_control_vectors)
    register("listPlugins", PluginEndpoints(app).list)


@hookimpl(trylast=True)
def prepare_request(body: Mapping[str, Any], prompt: Sequence[int], app: App) -> GenerateRequest:
    from llamafw_plugins.endpoints.prepare import build_request

    return build_request(body, prompt, app)
