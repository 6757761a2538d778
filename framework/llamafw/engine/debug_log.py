"""Describes prompts and caches for the log, for ``--verbose-prompt`` and ``--dump-kv-cache``."""

from __future__ import annotations

from collections.abc import Iterable

from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.slots import Slot
from llamafw.engine.stats import slot_status
from llamafw.interfaces import Tokenizer
from llamafw.types import Ints


def describe_prompt(prompt: Ints, tokenizer: Tokenizer) -> str:
    """Return every token of a prompt with its quoted text."""
    pieces = (
        f"{token} {tokenizer.piece(token, special=True).decode('utf-8', 'replace')!r}" for token in prompt.tolist()
    )
    return f"prompt of {len(prompt)} tokens: {', '.join(pieces)}"


def describe_caches(slots: Iterable[Slot], prompt_cache: PromptCache) -> str:
    """Return how much each slot's cache and the prompt cache hold."""
    parts = (
        f"slot {slot.id} {slot_status(slot).state} {slot.n}/{len(slot.tokens)} (reusable {len(slot.reusable)})"
        for slot in slots
    )
    return f"KV cache: {', '.join(parts)}; prompt cache: {prompt_cache.n_bytes} bytes"
