"""Identifies saved states: a state may only be restored by the model and backend that produced it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from llamafw.checkpoints import ConvertedTensor
from llamafw.graph import Graph, Rope, as_text, states
from llamafw.models.requantize import RequantizedTensor
from llamafw.types import BackendOptions, Bytes, Model, Tensor

_HASHED_WHOLE = 2**14  # maximum size in bytes of tensors that are hashed completely
_N_SAMPLES, _SAMPLE_BYTES = 32, 256  # number and size of the samples of a larger tensor


def fingerprint(model: Model, graph: Graph, options: BackendOptions, backend_name: str, state_format: str) -> bytes:
    """Return a hash of everything that a saved state depends on, 32 bytes.

    It covers every operator of the graph, its class, its numbers and its state, the cache's data types, the backend and
    its state format, and all tensors. Of large tensors it covers samples: reading them completely would take as long as
    loading the model. Of tensors that ``--requantize`` rounds it covers samples of the file and the first rounded row.
    Of tensors that are converted from a checkpoint it covers the rule and samples of the files.

    Parameters
    ----------
    model : Model
        The model file.
    graph : Graph
        Its graph.
    options : BackendOptions
        Settings of the backend.
    backend_name : str
        The name under which the backend is registered.
    state_format : str
        See `Backend.state_format`.
    """
    digest = hashlib.blake2b(digest_size=32)
    facts = {
        "backend": backend_name,
        "state_format": state_format,
        "cache_types": (options.cache_type_k, options.cache_type_v),
        "uses_long_frequencies": _uses_long_frequencies(graph, options.n_ctx or graph.n_ctx_train),
        "graph": as_text(graph, shorten=False),
        "operators": sorted({f"{type(value).__module__}.{type(value).__qualname__}" for value in graph}),
        "states": [(state.per_position, state.fixed, state.window) for state in states(graph)],
    }
    digest.update(repr(facts).encode())
    digest.update(hash_tensors(model))
    return digest.digest()


def hash_tensors(model: Model) -> bytes:
    """Return a hash of a model's tensors, 32 bytes; see `fingerprint` for what it covers of large ones."""
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(model.tensors.items()):
        _add_tensor(digest, name, tensor)
    return digest.digest()


def _add_tensor(digest: hashlib.blake2b, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, RequantizedTensor):
        digest.update(repr((tensor.type_name, tensor.round_rows(0, 1).tobytes())).encode())
        tensor = tensor.source
    digest.update(repr((name, tensor.shape, tensor.type_name, tensor.n_bytes)).encode())
    if isinstance(tensor, ConvertedTensor):
        digest.update(repr(tensor.rule).encode())
        for stored in (stored for source in tensor.sources for stored in source.files):
            _add_tensor(digest, stored.name, stored)
        return
    for part in _samples(tensor.data):
        digest.update(part.tobytes())


def _uses_long_frequencies(graph: Graph, n_ctx: int) -> list[bool]:
    """Return which rotations use their frequencies for long contexts: slots of different sizes may differ in it."""
    rotations = (value.rotation for value in graph if isinstance(value, Rope))
    return [one.frequencies_for(n_ctx) is one.long_frequencies for one in rotations]


def _samples(data: Bytes) -> Iterator[Bytes]:
    """Yield a small tensor completely, and evenly spaced parts of a large one."""
    if len(data) <= _HASHED_WHOLE:
        yield data
        return
    for start in np.linspace(0, len(data) - _SAMPLE_BYTES, _N_SAMPLES, dtype=np.int64):
        yield data[start : start + _SAMPLE_BYTES]
