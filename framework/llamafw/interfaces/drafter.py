"""Protocols for drafters, which guess the next tokens of responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llamafw.interfaces.backend import Backend
from llamafw.interfaces.tokenizer import Tokenizer
from llamafw.settings import Settings
from llamafw.types import Floats, Ints, Model


def most_likely(logits: Floats) -> int:
    """Return the token with the highest of the logits, ``(n,)`` float32."""
    return int(logits.argmax())


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """A response whose next tokens a drafter guesses."""

    slot: int  # the response's slot, which no other response has until `Drafter.finish`
    tokens: Ints  # what the model sees before the next token, (n_tokens,) int32; valid until `draft` returns
    n_max: int  # maximum number of tokens to guess, at least 1
    p_min: float = 0.0  # stop before a token that is less probable, if the drafter knows probabilities
    draw: Callable[[Floats], int] = most_likely
    """Draws a token from logits, ``(n,)`` float32, in the way of the response: for drafters that compute logits.

    It uses the response's sampler settings and the random numbers with which the response will draw its next tokens,
    one for each call. The better the logits agree with those of the model, the more often both draw the same token."""


class Drafter(Protocol):
    """Guesses the next tokens of all responses of a model.

    The engine evaluates the guesses together with the last token of each response, and keeps those that are then drawn.
    So a drafter never changes a response; it only makes it faster.

    Created once per model, on the loading thread; called on the engine thread, at most once per step. A drafter whose
    factory loads a model through its context is closed when the server sleeps, and created again, on the engine thread,
    when it wakes.
    """

    n_max: int  # maximum number of tokens that it guesses at once

    def draft(self, requests: Sequence[DraftRequest]) -> Sequence[Ints]:
        """Return for each response from 0 to ``n_max`` tokens that may come next, ``(n,)`` int32.

        Parameters
        ----------
        requests : sequence of DraftRequest
            The responses, which have different slots. Between two calls, the tokens of a response usually become more;
            when its context is shifted, tokens in the middle disappear.
        """

    def finish(self, slot: int, drawn: Ints) -> None:
        """Forget a response, which has ended for whatever reason, or gives up its slot for now.

        Called once per generation that had a slot, also if no draft was asked for, and once more for each time that it
        was interrupted by a more urgent one: then without tokens.

        Parameters
        ----------
        slot : int
            Its slot.
        drawn : (n_drawn,) int32
            All tokens of the response.
        """

    def close(self) -> None:
        """Free memory and stop threads.

        No other method is called afterwards.
        """


@dataclass(frozen=True, slots=True)
class EvaluatedTokens:
    """Tokens of a text that the model has just evaluated, and its hidden states there."""

    slot: int  # the text's slot
    tokens: Ints  # the whole text so far, (n_tokens,) int32; valid until `observe` returns
    hidden: Floats  # of the last n of these tokens, after the output norm, (n, n_embd) float32; valid as long


class HiddenDrafter(Drafter, Protocol):
    """A drafter that sees the hidden states of the model.

    The engine recognises it by its method `observe`. It must be registered with `WithHidden`.
    """

    def observe(self, states: Sequence[EvaluatedTokens]) -> None:
        """See the tokens of the last step, of prompts and of responses, without those that were rejected.

        Called on the engine thread, at most once per step, also for texts of responses that have just ended. A drafter
        does not see tokens that were in a cache, tokens of requests without drafts, and tokens that are evaluated while
        drafts do not pay. A text can differ from what its slot had before.

        Parameters
        ----------
        states : sequence of EvaluatedTokens
            The texts, which have different slots.
        """


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A second model, or a second graph of the model, with a backend of its own."""

    model: Model  # the open file
    backend: Backend  # runs it; the drafter that asked for the model closes it


@dataclass(frozen=True, slots=True)
class DrafterContext:
    """The arguments of a `DrafterFactory`."""

    settings: Settings  # the server's settings
    tokenizer: Tokenizer  # the model's tokenizer
    n_slots: int  # responses at the same time
    n_ctx: int  # positions per slot
    load_draft_model: Callable[[], DraftModel]
    """Loads the model of ``--spec-draft-model``, with as many slots and positions as the first model.

    Raises
    ------
    SettingsError
        No draft model is named, or its vocabulary differs from the model's.
    ModelError
        The file cannot be read, or no plugin can run it.
    """
    load_prediction: Callable[[], DraftModel]
    """Loads the model's own block for multi-token prediction, `Graph.prediction`, with as many slots and positions.

    The backend is a `HiddenBackend`, and its batches must have ``Batch.hidden``.

    Raises
    ------
    SettingsError
        The model has no such block.
    ModelError
        The backend cannot run it.
    """


DrafterFactory = Callable[[DrafterContext], Drafter]
"""The object that `register_drafters` registers.

Called once per model, if ``--spec-type`` names it, and again after sleep; see `Drafter`.
"""


@dataclass(frozen=True, slots=True)
class WithHidden:
    """A `DrafterFactory` of a `HiddenDrafter`: with it, the model's backend is asked to return hidden states."""

    create: DrafterFactory  # creates the drafter

    def __call__(self, context: DrafterContext) -> Drafter:
        """Return the drafter."""
        return self.create(context)
