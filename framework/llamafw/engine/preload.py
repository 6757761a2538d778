"""Evaluates a prompt into the cache before the first request: ``--prompt``, ``--file``, ``--binary-file``."""

from __future__ import annotations

import asyncio

from llamafw.engine.engine import BatchingEngine
from llamafw.errors import RequestError, SettingsError
from llamafw.serving import LoadedModel


def preload(engine: BatchingEngine, loaded: LoadedModel, text: str, flag: str) -> int:
    """Evaluate a text as a completion's prompt; return its number of tokens.

    Must be called on a thread without an event loop.

    Parameters
    ----------
    engine : BatchingEngine
        The engine whose cache is filled.
    loaded : LoadedModel
        The model, for its tokenizer and the system prompt.
    text : str
        The prompt.
    flag : str
        The flag that the text comes from, for error messages.

    Raises
    ------
    SettingsError
        The prompt cannot be evaluated.
    """
    prompt = loaded.whole_prompt(loaded.tokenizer.encode(text, add_special=True, parse_special=True))
    try:
        asyncio.run(engine.preload(prompt))
    except RequestError as error:
        raise SettingsError(f"{flag}: {error.message}") from None
    return len(prompt)
