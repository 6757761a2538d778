"""What goes on inside, written for the log: the tokens of a prompt, what the slots hold."""

from __future__ import annotations

from collections.abc import Iterable

from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.slots import Slot
from llamafw.engine.stats import slot_status
from llamafw.interfaces import Tokenizer
from llamafw.types import Ints


def prompt_tokens(prompt: Ints, tokenizer: Tokenizer) -> str:
    """Return every token of a prompt with its text, quoted."""
    pieces = (
        f"{token} {tokenizer.piece(token, special=True).decode('utf-8', 'replace')!r}" for token in prompt.tolist()
    )
    return f"prompt of {len(prompt)} tokens: {', '.join(pieces)}"


def cache(slots: Iterable[Slot], kept: PromptCache) -> str:
    """Return what each slot's cache holds, and how much is kept in memory."""
    parts = (
        f"slot {slot.id} {slot_status(slot).state} {slot.n}/{len(slot.tokens)} (reusable {len(slot.reusable)})"
        for slot in slots
    )
    return f"KV cache: {', '.join(parts)}; kept in memory: {kept.n_bytes} bytes"
