"""Builds the sampler chain of a request and picks tokens with it.

The request's `logit_bias` and `ignore_eos` are applied first, then its samplers in their order, then a token is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import groupby
from time import perf_counter
from typing import Any

import numpy as np

from llamafw.errors import FAULTS, GenerationError, LlamafwError, RequestError, suggest
from llamafw.interfaces import Sampler, SamplerContext, SamplerPlugin
from llamafw.sampling.constraint import TokenConstraint
from llamafw.sampling.draw import draw
from llamafw.sampling.sampler_kernels import CandidateBuffers, FusedKernels, SamplerKernel
from llamafw.sampling.slow_calls import SlowCalls
from llamafw.types import Candidates, Floats, GenerateRequest, Ints

_MAX_BIAS = 1e30  # far beyond any logit; sums of a few of them still fit into float32


class NoTokenAllowed(Exception):
    """The grammar and the request's biases together allow no token, so the response ends."""


class SamplerError(GenerationError):
    """A sampler failed.

    The client is told its name; ``__cause__`` is for the log.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"the sampler {name!r} failed", source=("sampler", name))


class Chain:
    """The samplers of one request and its random number generator.

    Parameters
    ----------
    samplers : sequence of (str, Sampler)
        Names and samplers, in the order of use.
    bias : mapping of int to float
        Values that are added to the logits of tokens; −inf forbids a token.
    seed : int
        Seed of the random number generator.
    slow : SlowCalls
        Notices samplers and grammars that take long.
    grammar : str
        Kind of the request's grammar, such as "gbnf".
    """

    def __init__(
        self,
        samplers: Sequence[tuple[str, Sampler]],
        bias: Mapping[int, float],
        seed: int,
        slow: SlowCalls,
        grammar: str = "",
    ) -> None:
        self._samplers, self._steps = samplers, _fuse_kernels(samplers)
        self._slow, self._grammar = slow, grammar
        self._bias_ids = np.array(list(bias), np.int32)
        self._bias = np.array([_clamp_bias(value) for value in bias.values()], np.float32)
        self._random = np.random.default_rng(seed)

    @property
    def n_top(self) -> int | None:
        """How many of the most likely tokens the samplers need; None: all."""
        if len(self._bias_ids) or not self._samplers:
            return None
        n: int | None = getattr(self._samplers[0][1], "n_top", None)
        return n

    def rehearse(self) -> Rehearsal:
        """Return an object that draws the next tokens in advance, without an effect on the chain."""
        return Rehearsal(self, deepcopy(self._random))

    def pick(
        self,
        buffers: CandidateBuffers,
        row: Floats,
        constraint: TokenConstraint | None = None,
        *,
        ids: Ints | None = None,
    ) -> tuple[int, Candidates]:
        """Draw a token; return it and the candidates that the samplers left.

        Parameters
        ----------
        buffers : CandidateBuffers
            The buffers of the calling thread.
        row : (n_vocab,) float32
            Logits of all tokens. They are overwritten; the returned candidates refer to them.
        constraint : TokenConstraint, optional
            The grammar that the token must match. It is advanced by the token.
        ids : (n,) int32, optional
            The tokens of ``row``, if it has only the logits of the most likely ones, in descending order. There must be
            no grammar that excludes tokens, and no bias.

        Raises
        ------
        GenerationError
            The logits are not numbers, or a sampler or the grammar failed.
        RequestError
            The request's biases forbid every token.
        NoTokenAllowed
            The grammar and the biases together forbid every token.
        """
        # As in llama.cpp: most drawn tokens match the grammar, and testing one is cheaper than masking all.
        original = None if constraint is None or constraint.free else row.copy()
        token, candidates = self.draw(buffers, row, self._random, ids)
        if constraint is not None and not self._accept(constraint, token):
            if original is None:
                raise GenerationError("a constraint that allows every token refused one")
            self._mask(constraint, original)
            token, candidates = self.draw(buffers, original, self._random)
            if not self._accept(constraint, token):
                raise GenerationError("the grammar refused a token that its mask allows")

        for name, sampler in self._samplers:
            start = perf_counter()
            try:
                sampler.accept(token)
            except RequestError:
                raise
            except FAULTS as error:
                raise SamplerError(name) from error
            self._slow.record("sampler", name, perf_counter() - start)
        return token, candidates

    def _accept(self, constraint: TokenConstraint, token: int) -> bool:
        start = perf_counter()
        is_accepted = constraint.accept(token)
        self._slow.record("grammar", self._grammar, perf_counter() - start)
        return is_accepted

    def _mask(self, constraint: TokenConstraint, row: Floats) -> None:
        start = perf_counter()
        constraint.mask(row)
        self._slow.record("grammar", self._grammar, perf_counter() - start)
        if len(self._bias_ids):
            row[self._bias_ids[self._bias == -np.inf]] = -np.inf
        if row.max() == -np.inf:
            raise NoTokenAllowed

    def draw(
        self, buffers: CandidateBuffers, row: Floats, random: np.random.Generator, ids: Ints | None = None
    ) -> tuple[int, Candidates]:
        """Draw a token as `pick` does, without a grammar, and without telling the samplers."""
        logits = row if row.flags.writeable else row.copy()
        candidates = Candidates(buffers.ids, logits) if ids is None else Candidates(ids, logits, sorted=True)
        if len(self._bias_ids):
            candidates.logits[self._bias_ids] += self._bias
        peak = candidates.logits.max()
        if not peak < np.inf:
            raise GenerationError("the model computed logits that are infinite or not a number")
        if peak == -np.inf:
            raise RequestError("every token is forbidden", param="logit_bias")

        for names, step in self._steps:
            start = perf_counter()
            if isinstance(step, FusedKernels):
                failed = step.run(candidates, buffers)
                if failed >= 0:
                    raise SamplerError(names[failed]) from ValueError("it returned an impossible number of candidates")
                self._slow.record("sampler", "+".join(names), perf_counter() - start)
                continue
            try:
                step.apply(candidates)
                _check_candidates(candidates)
            except RequestError:
                raise
            except FAULTS as error:
                raise SamplerError(names[0]) from error
            self._slow.record("sampler", names[0], perf_counter() - start)
        return draw(candidates, random), candidates


class Rehearsal:
    """Draws tokens with the samplers and the next random numbers of a chain, which stays as it is.

    From the same logits it draws the tokens that the chain will, unless a grammar or a sampler with a memory decides;
    from similar ones it mostly does. So drafts agree with sampled text, and not only with the most likely one.

    Parameters
    ----------
    chain : Chain
        The chain. Its samplers are applied, but do not learn of these tokens.
    random : numpy.random.Generator
        A copy of its random number generator.
    """

    def __init__(self, chain: Chain, random: np.random.Generator) -> None:
        self._chain, self._random = chain, random

    def draw(self, buffers: CandidateBuffers, row: Floats) -> int:
        """Draw a token from the logits of all tokens, ``(n_vocab,)`` float32, which are overwritten.

        Raises
        ------
        RequestError
            The request's biases forbid every token, the logits are not numbers, or a sampler failed.
        """
        return self._chain.draw(buffers, row, self._random)[0]


def _fuse_kernels(samplers: Sequence[tuple[str, Sampler]]) -> list[tuple[tuple[str, ...], Sampler | FusedKernels]]:
    """Return the steps of a chain, with the names of their samplers.

    Adjacent compiled samplers become one step.
    """
    steps: list[tuple[tuple[str, ...], Sampler | FusedKernels]] = []
    for compiled, group in groupby(samplers, lambda pair: isinstance(getattr(pair[1], "kernel", None), SamplerKernel)):
        members = list(group)
        if compiled:
            kernels = [sampler.kernel for _, sampler in members]  # type: ignore[attr-defined]  # just tested
            steps.append((tuple(name for name, _ in members), FusedKernels(kernels)))
        else:
            steps += [((name,), sampler) for name, sampler in members]
    return steps


def _check_candidates(candidates: Candidates) -> None:
    """Raise ValueError if a sampler left candidates that compiled code must not receive."""
    ids, logits = candidates.ids, candidates.logits
    if not ids.ndim == logits.ndim == 1 or len(ids) != len(logits):
        raise ValueError(f"it left ids of shape {ids.shape} and logits of shape {logits.shape}")
    if not len(ids):
        raise ValueError("it left no candidate")
    if not -np.inf < logits.max() < np.inf:
        raise ValueError("it left logits that are infinite or not a number")


def build_chain(
    request: GenerateRequest,
    seed: int,
    plugins: Mapping[str, SamplerPlugin],
    context: SamplerContext,
    slow: SlowCalls | None = None,
) -> Chain:
    """Build the chain of one request.

    Runs on the event loop.

    At temperature ≤ 0 the most likely token is drawn: samplers that only remove unlikely tokens are skipped, and
    ``temperature`` comes last.

    Parameters
    ----------
    request : GenerateRequest
        Names the samplers and has their options.
    seed : int
        Seed of the random number generator.
    plugins : mapping of str to SamplerPlugin
        All registered samplers.
    context : SamplerContext
        Passed to each sampler.
    slow : SlowCalls, optional
        Notices samplers and grammars that take long.

    Raises
    ------
    RequestError
        A sampler does not exist or refuses its options, or a biased token is not in the vocabulary.
    GenerationError
        A sampler cannot be created.
    """
    names = request.samplers
    for name in names:
        if name not in plugins:
            raise RequestError(f"sampler {name!r} does not exist{suggest(name, plugins)}", param="samplers")

    if _temperature(request, plugins) <= 0:
        names = tuple(name for name in names if not plugins[name].truncates and name != "temperature")
        names += ("temperature",) if "temperature" in plugins else ()
    created = ((name, _create(name, plugins[name], request, context)) for name in names)
    samplers = [(name, sampler) for name, sampler in created if sampler is not None]
    grammar = request.grammar.kind if request.grammar else ""
    return Chain(samplers, _logit_bias(request, context), seed, slow or SlowCalls(), grammar)


def warm_up_samplers(plugins: Mapping[str, SamplerPlugin], context: SamplerContext) -> None:
    """Use every sampler once with its defaults, because compiling may take seconds the first time.

    Errors are ignored: the first request in which they occur reports them.
    """
    for name in plugins:
        with suppress(LlamafwError):
            chain = build_chain(GenerateRequest((), samplers=(name,)), 0, plugins, context)
            chain.pick(CandidateBuffers(context.n_vocab), np.zeros(context.n_vocab, np.float32))


def _temperature(request: GenerateRequest, plugins: Mapping[str, SamplerPlugin]) -> float:
    if "temperature" not in plugins:
        return 1.0
    return float(_options(plugins["temperature"], request)["temperature"])


def _options(plugin: SamplerPlugin, request: GenerateRequest) -> dict[str, Any]:
    values = request.options
    return {name: values[name] if name in values else schema["default"] for name, schema in plugin.options.items()}


def _create(name: str, plugin: SamplerPlugin, request: GenerateRequest, context: SamplerContext) -> Sampler | None:
    try:
        return plugin.create(_options(plugin, request), context)
    except RequestError:
        raise
    except FAULTS as error:
        raise SamplerError(name) from error


def _clamp_bias(bias: float) -> float:
    return bias if bias == -np.inf else min(max(bias, -_MAX_BIAS), _MAX_BIAS)


def _logit_bias(request: GenerateRequest, context: SamplerContext) -> dict[int, float]:
    """Return the values to add to logits, by token; −inf forbids a token."""
    bias = dict(request.logit_bias)
    for token, value in bias.items():
        if not 0 <= token < context.n_vocab:
            raise RequestError(f"token {token} is not in the vocabulary of {context.n_vocab}", param="logit_bias")
        if not value < np.inf:
            raise RequestError(f"the bias of token {token} is not a number", param="logit_bias")
    if request.ignore_eos:
        bias.update(dict.fromkeys(context.tokenizer.eog, -np.inf))
    return bias
