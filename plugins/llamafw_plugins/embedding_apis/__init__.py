"""The embedding and reranking operations of Text Embeddings Inference (TEI) and of Cohere.

``openapi.yaml`` describes them. `POST /rerank` of TEI, and Cohere's ``/v1/rerank``, are the server's own operations,
which read the fields of these APIs too.
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
    from llamafw_plugins.embedding_apis.cohere import CohereEndpoints
    from llamafw_plugins.embedding_apis.tei import TeiEndpoints

    tei, cohere = TeiEndpoints(app), CohereEndpoints(app)
    register("createTeiResult", tei.answer)
    register("createTeiEmbeddings", tei.embed)
    register("createTeiTokenEmbeddings", tei.embed_tokens)
    register("createTeiSimilarities", tei.compare)
    register("createCohereEmbeddingsV1", cohere.embed_v1)
    register("createCohereEmbeddingsV2", cohere.embed_v2)
    register("createCohereRerankV2", cohere.rerank)


@hookimpl
def register_error_formats(register: Register) -> None:
    from llamafw_plugins.embedding_apis.errors import cohere_format, tei_format

    for path in ("/", "/embed", "/embed_all", "/similarity"):
        register(path, tei_format)
    for path in ("/v1/embed", "/v2/embed", "/v2/rerank"):
        register(path, cohere_format)
