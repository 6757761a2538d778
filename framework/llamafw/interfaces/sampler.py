"""Protocols for samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from llamafw.interfaces.tokenizer import Tokenizer
from llamafw.types import Candidates, JsonSchema


@dataclass(frozen=True, slots=True)
class SamplerContext:
    """What a sampler may know of the request it serves."""

    prompt: Sequence[int]  # its tokens
    n_vocab: int  # tokens of the model: candidates at the start
    n_ctx: int  # positions of a slot
    tokenizer: Tokenizer  # the model's
    min_keep: int = 0  # leave at least so many candidates, if there are
    seed: int = 0  # of the request; what a sampler draws comes from a generator of its own, seeded with it


class Sampler(Protocol):
    """Reweighs or removes candidates, for one request. Called on the engine thread, per token.

    If it has an attribute ``kernel``, a `SamplerKernel`, that is called instead of `apply`.
    """

    def apply(self, candidates: Candidates) -> None:
        """Change ``candidates`` in place; leave at least one."""

    def accept(self, token: int) -> None:
        """Take note that ``token`` was drawn. Called once per generated token, after the chain."""


class SamplerPlugin(Protocol):
    """What is registered as a sampler: usually the sampler's class. ``create`` runs on the event loop, per request.

    If it has an attribute ``precedes``, the name of another sampler, requests that name no samplers use it too, just
    before that one. Otherwise it is used where ``samplers`` names it.
    """

    options: ClassVar[JsonSchema]
    """The request fields it reads: field → JSON Schema, each with a ``default``.

    They become fields of every generating operation in the API document."""

    truncates: ClassVar[bool]
    """True if all it does is remove unlikely candidates: left out at temperature ≤ 0, where the likeliest wins."""

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request; None if with these options it would change nothing.

        Parameters
        ----------
        options : mapping
            The request's values of the declared fields, defaults filled in, validated.
        context : SamplerContext
            The request that it is for.
        """
