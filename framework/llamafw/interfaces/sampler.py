"""Protocols for samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from llamafw.interfaces.tokenizer import Tokenizer
from llamafw.types import Candidates, JsonSchema


@dataclass(frozen=True, slots=True)
class SamplerContext:
    """The facts about a request that its samplers may use."""

    prompt: Sequence[int]  # the request's tokens
    n_vocab: int  # size of the vocabulary: the candidates before any sampler
    n_ctx: int  # positions per slot
    tokenizer: Tokenizer  # the model's tokenizer
    min_keep: int = 0  # minimum number of candidates to leave, unless there were fewer before
    seed: int = 0  # the request's seed; a sampler that needs random numbers seeds its own generator with it


class Sampler(Protocol):
    """Reweighs or removes candidates for one request.

    Called on the engine thread: for each token, `apply` at least once, and then `accept`.

    A sampler with an attribute ``kernel``, a `SamplerKernel`, is compiled: the kernel is called instead of `apply`.

    A sampler with an attribute ``n_top``, an integer, ignores all but so many candidates with the highest logits. If it
    is the first one of a request, the others may be left out; see `CandidateBackend`.
    """

    def apply(self, candidates: Candidates) -> None:
        """Change ``candidates`` in place, leaving at least one.

        Until `accept`, the result depends on the candidates alone: it is repeated if a grammar refuses the token, and
        called for the guesses of draft models.
        """

    def accept(self, token: int) -> None:
        """Record that ``token`` was drawn.

        Called once per generated token, after all samplers have been applied.
        """


class SamplerPlugin(Protocol):
    """Creates a sampler for each request; usually the sampler's class.

    `create` runs on the event loop.

    If a request or the flag ``--samplers`` names samplers, exactly these are used. Otherwise the default samplers are
    used, and this sampler joins them in two cases:

    - The request sets one of its options to another value than the default. It is then used just before the sampler
      that its attribute ``precedes`` names, or before ``temperature`` if it has no such attribute.
    - It has the attribute ``precedes``, the name of a default sampler. It then joins every such request, and its
      `create` decides whether it has an effect.
    """

    options: ClassVar[JsonSchema]
    """The request fields that the sampler reads: field → JSON Schema, each with a ``default``.

    They become fields of every operation that generates text."""

    truncates: ClassVar[bool]
    """Whether the sampler only removes unlikely candidates.

    Such samplers are skipped at temperature ≤ 0, where the most likely token is drawn."""

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request, or None if it would change nothing with these options.

        Parameters
        ----------
        options : mapping
            Validated values of the declared fields, with defaults filled in.
        context : SamplerContext
            Facts about the request.
        """
