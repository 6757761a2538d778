"""Compiled samplers: what a `SamplerKernel` is, how one is made, and how several are run at once.

Numba is imported with the first kernel. Knows nothing of requests and chains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw.types import Candidates, Floats, Ints


class SamplerKernelFunction:
    """A compiled kernel.

    Parameters
    ----------
    compiled : object
        Has an ``address``, where the code is as long as it lives, of a C function
        ``int64_t (float *logits, int32_t *ids, int64_t n, int64_t *ordered, double *options, int64_t n_options)``
        that does what `compile_sampler_kernel` says of a Python one.
    """

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    @property
    def address(self) -> int:
        """Where the C function is."""
        return int(self.compiled.address)


def compile_sampler_kernel(function: Callable[..., Any]) -> SamplerKernelFunction:
    """Compile the body of a sampler; a decorator, for a module that is imported when a sampler is first made.

    Parameters
    ----------
    function : callable
        ``function(logits, ids, ordered, options)``, in what numba takes. ``logits`` ``(n,)`` float32 and ``ids``
        ``(n,)`` int32 are the candidates, ``ordered`` ``(1,)`` int64 is 1 if the logits are in descending order, and
        ``options`` float64 is the sampler's own, to read and to write. It changes them in place and returns how many
        candidates are left, which are then the first ones. If that is all of them, ids and their order are as before.

    Notes
    -----
    The code is cached beside its source file, or where NUMBA_CACHE_DIR says, until that file changes.
    """
    import numba
    from numba import types

    signature = types.int64(
        types.CPointer(types.float32),
        types.CPointer(types.int32),
        types.int64,
        types.CPointer(types.int64),
        types.CPointer(types.float64),
        types.int64,
    )
    # A function of its own, not a closure: numba cannot cache what it closes over. Its name and line are those of the
    # body, for they name the file in the cache.
    source = "\n" * (function.__code__.co_firstlineno - 1) + (
        f"def {function.__name__}(logits, ids, n, ordered, options, n_options):\n"
        " return body(carray(logits, n), carray(ids, n), carray(ordered, 1), carray(options, n_options))"
    )
    body = numba.njit(nogil=True, error_model="numpy")(function)
    names: dict[str, Any] = {"body": body, "carray": numba.carray, "__name__": function.__module__}
    exec(compile(source, function.__code__.co_filename, "exec"), names)
    try:
        return SamplerKernelFunction(numba.cfunc(signature, cache=True)(names[function.__name__]))
    except RuntimeError:  # there is nowhere to keep it
        return SamplerKernelFunction(numba.cfunc(signature)(names[function.__name__]))


@dataclass(frozen=True, slots=True, eq=False)
class SamplerKernel:
    """A sampler's `apply`, compiled. A chain runs neighbouring kernels in one go.

    A sampler that has an attribute ``kernel`` is not asked to `apply`; what it remembers, `accept` writes into
    ``options``.
    """

    function: SamplerKernelFunction  # what is called
    options: npt.NDArray[np.float64]  # (n_options,) what it is called with

    def apply(self, candidates: Candidates) -> None:
        """Run the kernel on ``candidates``: what the sampler's own `apply` is to do."""
        FusedKernels([self]).run(candidates)


class CandidateBuffers:
    """The ids of all tokens, and room for those that are left. One for all chains of a thread.

    Nothing is copied per token: after a forward pass all but the logits has left the caches, and fresh copies of ids
    and logits of 49k tokens took 0.1 ms. Kernels write into ``room``, whose first ids are restored before the next.
    """

    def __init__(self, n_vocab: int) -> None:
        self.ids: Ints = np.arange(n_vocab, dtype=np.int32)
        self.ids.flags.writeable = False  # as samplers hold it
        self._room = self.ids.copy()
        self.spoilt = 0  # so many ids at the start of it are no more what they were

    def room(self) -> Ints:
        """Return a copy of all ids, to write into."""
        self._room[: self.spoilt] = self.ids[: self.spoilt]
        return self._room

    def holds(self, ids: Ints) -> bool:
        """Return whether ids lie in the room already."""
        return ids.base is self._room


class FusedKernels:
    """Kernels that are called one after the other, without Python between them."""

    def __init__(self, kernels: Sequence[SamplerKernel]) -> None:

        from llamafw.sampling import run_kernels  # imports numba, which is slow

        self._run = run_kernels.run
        self._kernels = tuple(kernels)  # so that what the addresses are of stays
        self._functions = np.array([kernel.function.address for kernel in kernels], np.int64)
        self._options = np.array([kernel.options.ctypes.data for kernel in kernels], np.int64)
        self._sizes = np.array([len(kernel.options) for kernel in kernels], np.int64)
        self._state = np.zeros(3, np.int64)  # ordered, how many ids were written over, which kernel failed

    def run(self, candidates: Candidates, vocabulary: CandidateBuffers | None = None) -> int:
        """Change the candidates; return -1, or the index of the kernel that left none, or more than there were."""
        ids, whole = candidates.ids, vocabulary is not None and candidates.ids is vocabulary.ids
        if vocabulary is not None and whole:
            ids = vocabulary.room()
        elif vocabulary is None or not vocabulary.holds(ids):
            ids = np.array(ids, np.int32)
        logits: Floats = np.require(candidates.logits, np.float32, ["C", "W"])
        state = self._state
        state[0], state[1], state[2] = candidates.sorted, 0, -1
        n = self._run(self._functions, self._options, self._sizes, logits, ids, state)
        if vocabulary is not None and whole:
            vocabulary.spoilt = int(state[1])
        candidates.sorted = bool(state[0])
        candidates.logits = logits[:n]
        if n < len(ids):  # else they are what they were
            candidates.ids = ids[:n]
        return int(state[2])
