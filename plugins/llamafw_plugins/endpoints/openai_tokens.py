"""Turn the token ids of OpenAI's tokenizer into texts.

LangChain's `OpenAIEmbeddings` sends such ids by default. Those of another model would give wrong embeddings.
"""

from __future__ import annotations

import asyncio
from typing import Any

from llamafw import RequestError

MODELS = ("text-embedding-ada-002", "text-embedding-3-small", "text-embedding-3-large")  # all have this tokenizer
ENCODING = "cl100k_base"
ADVICE = (
    "send texts (LangChain: check_embedding_ctx_length=False), or install tiktoken beside the server; "
    "to send ids of this server's tokenizer, name another model"
)


async def texts_of_openai_tokens(value: Any, model: str | None) -> Any:
    """Return the texts of a request that names a model of OpenAI and has token ids; other values as they are.

    Raises
    ------
    RequestError
        The ids cannot be decoded, because `tiktoken` is not installed or cannot download its table.
    """
    if model not in MODELS or not isinstance(value, list):
        return value
    is_one, arrays = isinstance(value[0], int), [value] if isinstance(value[0], int) else value
    if not all(isinstance(ids, list) and all(isinstance(token, int) for token in ids) for ids in arrays):
        return value
    texts = await asyncio.to_thread(_decode, arrays, model)
    return texts[0] if is_one else texts


def _decode(arrays: list[list[int]], model: str | None) -> list[str]:
    try:
        import tiktoken  # type: ignore[import-not-found, unused-ignore]  # not a dependency

        encoding = tiktoken.get_encoding(ENCODING)
    except Exception as error:  # not installed, or no network on its first use
        message = f"the token ids are those of {model}, which this server cannot read: {ADVICE}"
        raise RequestError(message, param="input") from error
    try:
        return [str(encoding.decode(ids)) for ids in arrays]
    except (KeyError, OverflowError) as error:
        raise RequestError(f"the token ids are not those of {model}: {ADVICE}", param="input") from error
