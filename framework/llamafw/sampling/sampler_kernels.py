"""Defines compiled samplers and runs several of them in one call.

Numba is imported when the first kernel is compiled or run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw.sampling.compiled_samplers import compile_stored
from llamafw.types import Candidates, Floats, Ints


class SamplerKernelFunction:
    """A compiled kernel.

    Parameters
    ----------
    compiled : object
        Keeps the code in memory and has its ``address``. The code is a C function
        ``int64_t (float *logits, int32_t *ids, int64_t n, int64_t *ordered, double *options, int64_t n_options)``
        with the meaning that `compile_sampler_kernel` describes.
    """

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    @property
    def address(self) -> int:
        """Address of the C function."""
        return int(self.compiled.address)


def compile_sampler_kernel(function: Callable[..., Any]) -> SamplerKernelFunction:
    """Compile the body of a sampler.

    Use it as a decorator, in a module that is imported when a sampler is created.

    Parameters
    ----------
    function : callable
        ``function(logits, ids, ordered, options)``, written in the subset of Python that numba compiles. ``logits``
        ``(n,)`` float32 and ``ids`` ``(n,)`` int32 are the candidates, ``ordered`` ``(1,)`` int64 is 1 if the logits
        are in descending order, and ``options`` float64 holds the sampler's own values, which it may change. The
        function changes the candidates in place and returns how many remain; these must be the first ones. If it
        returns all of them, their ids and order must be unchanged.

    Notes
    -----
    The code is stored in the user's cache folder, or in the folder NUMBA_CACHE_DIR, until a module in the folder of the
    kernel's module changes.
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
    # The function is made from source text, because numba cannot cache a closure. It has the name and line of the body,
    # from which the name of the file in the cache is made.
    source = "\n" * (function.__code__.co_firstlineno - 1) + (
        f"def {function.__name__}(logits, ids, n, ordered, options, n_options):\n"
        " return body(carray(logits, n), carray(ids, n), carray(ordered, 1), carray(options, n_options))"
    )
    body = numba.njit(nogil=True, error_model="numpy")(function)
    names: dict[str, Any] = {"body": body, "carray": numba.carray, "__name__": function.__module__}
    exec(compile(source, function.__code__.co_filename, "exec"), names)

    kernel = names[function.__name__]
    return SamplerKernelFunction(compile_stored(kernel, signature, function.__module__, function.__code__.co_filename))


@dataclass(frozen=True, slots=True, eq=False)
class SamplerKernel:
    """A sampler's `apply`, compiled.

    A chain runs adjacent kernels in one call.

    If a sampler has an attribute ``kernel``, its `apply` is not called. To keep state from token to token, its `accept`
    writes into ``options``.
    """

    function: SamplerKernelFunction  # the compiled code
    options: npt.NDArray[np.float64]  # (n_options,) the argument ``options`` of the function

    def apply(self, candidates: Candidates) -> None:
        """Run the kernel on ``candidates``, as the sampler's `apply` would."""
        FusedKernels([self]).run(candidates)


class CandidateBuffers:
    """Buffers for the ids of candidates, shared by all chains of one thread.

    Nothing is copied per token: after a forward pass only the logits are in the processor's caches, and copying the
    ids and logits of 49k tokens took 0.1 ms. Kernels write into a scratch buffer; only the ids that they overwrote are
    restored before the next token.

    Parameters
    ----------
    n_vocab : int
        Size of the vocabulary.
    """

    def __init__(self, n_vocab: int) -> None:
        self.ids: Ints = np.arange(n_vocab, dtype=np.int32)
        self.ids.flags.writeable = False  # samplers keep references to it
        self._scratch = self.ids.copy()
        self.n_overwritten = 0  # ids at the front of the scratch buffer that must be restored

    def writable_ids(self) -> Ints:
        """Return all ids in a buffer that may be written to."""
        self._scratch[: self.n_overwritten] = self.ids[: self.n_overwritten]
        return self._scratch

    def owns(self, ids: Ints) -> bool:
        """Return whether ``ids`` is the front of the scratch buffer."""
        at_front = ids.base is self._scratch and ids.ctypes.data == self._scratch.ctypes.data
        return at_front and ids.flags.c_contiguous


class FusedKernels:
    """Kernels that run one after the other in one call of compiled code."""

    def __init__(self, kernels: Sequence[SamplerKernel]) -> None:
        from llamafw.sampling import run_kernels  # here, because it imports numba

        self._run = run_kernels.run
        self._kernels = tuple(kernels)  # keeps the code at these addresses alive
        rows = [(one.function.address, one.options.ctypes.data, len(one.options)) for one in kernels]
        self._rows = np.array(rows, np.int64)
        self._rows_address = self._rows.ctypes.data  # numpy takes a microsecond to find an address
        self._state = np.zeros(3, np.int64)  # see `run_kernels`
        self._state_address = self._state.ctypes.data

    def run(self, candidates: Candidates, buffers: CandidateBuffers | None = None) -> int:
        """Change the candidates; return -1, or the index of a kernel that returned an impossible count.

        Raises
        ------
        ValueError
            The candidates' ids and logits are not one-dimensional, or not equally many.
        """
        ids, is_whole = candidates.ids, buffers is not None and candidates.ids is buffers.ids
        if buffers is not None and is_whole:
            ids = buffers.writable_ids()
        elif buffers is None or not buffers.owns(ids):
            ids = np.array(ids, np.int32)
        logits: Floats = np.require(candidates.logits, np.float32, ["C", "W"])
        if ids.shape != logits.shape or ids.ndim != 1:  # compiled code would read and write beyond their ends
            raise ValueError(f"there are ids of shape {ids.shape} and logits of shape {logits.shape}")

        state = self._state
        state[0], state[1], state[2] = candidates.sorted, 0, -1
        addresses = logits.ctypes.data, ids.ctypes.data
        n = self._run(self._rows_address, len(self._rows), *addresses, len(logits), self._state_address)

        if buffers is not None and is_whole:
            buffers.n_overwritten = int(state[1])
        candidates.sorted = bool(state[0])
        candidates.logits = logits[:n]
        if n < len(ids):  # otherwise the ids are unchanged
            candidates.ids = ids[:n]
        return int(state[2])
