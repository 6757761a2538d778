"""Estimates the memory that a server needs before anything is loaded.

Independent of backends: it counts what graphs say that must be kept and computed. What stands beside the model is found
by `memory_companions`; whether it fits is decided in `memory_fit`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llamafw.engine.backend_options import backend_options
from llamafw.engine.machine_memory import Memory
from llamafw.engine.memory_check import limit_snapshots, slot_bytes
from llamafw.graph import Cache, Graph
from llamafw.settings import Settings
from llamafw.types import BackendOptions, Model

_PROGRAM_BYTES = 192 * 2**20  # compiled kernels, tokenizer, responses: what the process takes after the model is open
_VOCABULARY_COPIES = 5  # texts of a vocabulary are in the metadata, and several times in a tokenizer and its tables
_FLOAT_BYTES = 4

MODEL = "model"
"""The name of the first part of an estimate."""


@dataclass(frozen=True, slots=True)
class PartBytes:
    """What a model, or something else that is loaded, needs, in bytes."""

    weights: int = 0  # all tensors
    cache: int = 0  # of all slots, with their snapshots, when they are full
    activations: int = 0  # what one forward pass computes
    vocabulary: int = 0  # metadata and tokenizer; that of the first model is a part of the program
    is_cache_set: bool = True  # the user sets the size of the cache; otherwise not all of it must fit

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.cache + self.activations + self.vocabulary


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a server needs, in bytes."""

    parts: Mapping[str, PartBytes]  # by name; the first one is that of the model
    program: int  # everything else

    @property
    def weights(self) -> int:
        """The weights of all parts."""
        return sum(part.weights for part in self.parts.values())

    @property
    def cache(self) -> int:
        """The caches of all parts."""
        return sum(part.cache for part in self.parts.values())

    @property
    def activations(self) -> int:
        """The activations of all parts."""
        return sum(part.activations for part in self.parts.values())

    @property
    def vocabulary(self) -> int:
        """The vocabularies of all parts but the first."""
        return sum(part.vocabulary for part in self.parts.values())

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.cache + self.activations + self.vocabulary + self.program

    @property
    def unset_cache(self) -> int:
        """The caches whose size the user does not set: the server starts even if they would not fit when full."""
        return sum(part.cache for part in self.parts.values() if not part.is_cache_set)


@dataclass(frozen=True, slots=True)
class Follower:
    """A graph that drafts; it has as many slots and positions as the model."""

    graph: Graph
    options: BackendOptions  # with other numbers of slots and positions
    weights: int  # besides those of the model, in bytes
    n_hidden: int = 0  # numbers per token of the hidden states that it gets and returns
    vocabulary: int = 0  # as in `PartBytes`


@dataclass(frozen=True, slots=True)
class Companions:
    """What is loaded beside the model, by name."""

    followers: Mapping[str, Follower] = field(default_factory=dict)
    others: Mapping[str, PartBytes] = field(default_factory=dict)

    def beside(self, others: Mapping[str, PartBytes]) -> Companions:
        """Return these and others."""
        return replace(self, others={**self.others, **others})


NO_COMPANIONS = Companions()


def estimate(
    model: Model,
    graph: Graph,
    options: BackendOptions,
    companions: Companions = NO_COMPANIONS,
    *,
    is_cache_set: bool = True,
) -> MemoryEstimate:
    """Return what a server needs.

    Parameters
    ----------
    model : Model
        The model.
    graph : Graph
        Its graph.
    options : BackendOptions
        The options that its backend gets.
    companions : Companions
        What is loaded beside it.
    is_cache_set : bool
        Whether the user sets the size of its cache.
    """
    cache, activations = _cache_bytes(graph, options), _activations(graph, options)
    parts = {MODEL: PartBytes(model.n_bytes, cache, activations, is_cache_set=is_cache_set)}
    for name, follower in companions.followers.items():
        own = replace(follower.options, n_slots=options.n_slots, n_ctx=options.n_ctx)
        hidden = _FLOAT_BYTES * own.n_batch * follower.n_hidden
        cache, activations = _cache_bytes(follower.graph, own), _activations(follower.graph, own) + hidden
        parts[name] = PartBytes(follower.weights, cache, activations, follower.vocabulary, is_cache_set)
    return MemoryEstimate({**parts, **companions.others}, _PROGRAM_BYTES)


def adapter_bytes(
    model: Model, adapted: Model, graph: Graph, options: BackendOptions, *, have_been_read: bool = False
) -> PartBytes:
    """Return what adapters need: their tensors, also as they were read, and what a forward pass with them computes.

    Parameters
    ----------
    model, adapted : Model
        The model without and with the tensors of the adapters.
    graph : Graph
        The graph with adapters.
    options : BackendOptions
        The options that the backend gets.
    have_been_read : bool
        Whether the tensors as they were read are in memory already.
    """
    added = [tensor for name, tensor in adapted.tensors.items() if name not in model.tensors]
    weights = sum(tensor.n_bytes + (0 if have_been_read else tensor.held_bytes) for tensor in added)
    scales = _FLOAT_BYTES * options.n_batch * graph.n_scales
    return PartBytes(weights, 0, _FLOAT_BYTES * options.n_ubatch * _floats_per_token(graph) + scales)


def vocabulary_bytes(model: Model) -> int:
    """Return what a model's metadata and tokenizer take in memory, from the size of the metadata's objects."""
    return _VOCABULARY_COPIES * sum(map(_object_bytes, model.metadata.values()))


def _object_bytes(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sys.getsizeof(value) + sum(map(_object_bytes, value))
    return sys.getsizeof(value)  # also of an array of numpy that owns its numbers


def cpu_options(settings: Settings, graph: Graph, memory: Memory) -> BackendOptions:
    """Return the options that the backend gets, with as many snapshots as the memory allows."""
    options = backend_options(settings, graph.n_ctx_train, is_encoder=not graph.causal)
    return limit_snapshots(options, graph, memory.total)


def slot_caches(
    graph: Graph, options: BackendOptions, followers: Mapping[str, Follower]
) -> list[tuple[Graph, BackendOptions]]:
    """Return the graphs whose caches have a slot for each of the model's, and the options of each."""
    others = (
        (one.graph, replace(one.options, n_slots=options.n_slots, n_ctx=options.n_ctx)) for one in followers.values()
    )
    return [(graph, options), *others]


def total_cache_bytes(caches: Sequence[tuple[Graph, BackendOptions]], n_slots: int, n_ctx: int) -> int:
    """Return the size of caches with other numbers of slots and positions."""
    return sum(_cache_bytes(graph, replace(options, n_slots=n_slots, n_ctx=n_ctx)) for graph, options in caches)


def _cache_bytes(graph: Graph, options: BackendOptions) -> int:
    """Return the size of the caches of all slots; encoders keep nothing."""
    return slot_bytes(graph, options).total(options) if graph.causal else 0


def _activations(graph: Graph, options: BackendOptions) -> int:
    """Return what a forward pass computes; an encoder computes whole batches, with the keys and values of their tokens.

    Logits are only computed of tokens that need them.
    """
    n_tokens, n_floats = options.n_ubatch, _floats_per_token(graph)
    if not graph.causal:
        n_tokens = options.n_batch
        n_floats += sum(math.prod(one.k.shape) + math.prod(one.v.shape) for one in graph if isinstance(one, Cache))
    return _FLOAT_BYTES * (n_tokens * n_floats + options.n_slots * graph.n_vocab)


def _floats_per_token(graph: Graph) -> int:
    """Return how many numbers are needed at the same time while a token's values are computed one by one."""
    values = list(graph)
    last_use = {id(used): i for i, value in enumerate(values) for used in value.inputs()}
    most = now = 0
    ending: dict[int, int] = {}
    for i, value in enumerate(values):
        size = 0 if isinstance(value, Cache) else math.prod(value.shape)
        if value is graph.logits:  # only of tokens that need them
            size = 0
        now += size
        most = max(most, now)
        end = last_use.get(id(value), i)
        ending[end] = ending.get(end, 0) + size
        now -= ending.pop(i, 0)
    return most
