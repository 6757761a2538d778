"""The base of samplers that consist of one compiled kernel.

The formulas are in `kernels`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext, SamplerKernel, SamplerKernelFunction


class KernelCall(NamedTuple):
    """The name of a function in `kernels`, and the options to call it with."""

    name: str
    options: tuple[float, ...] = ()
    n_top: int | None = None  # how many of the candidates with the highest logits it needs; None: all


class KernelSampler:
    """Applies one kernel with fixed options.

    Stateless: `accept` does nothing.
    """

    def __init__(self, function: SamplerKernelFunction, *options: float, n_top: int | None = None) -> None:
        self.kernel = SamplerKernel(function, np.array(options, np.float64))
        self.n_top = n_top

    def apply(self, candidates: Candidates) -> None:
        """Run the kernel."""
        self.kernel.apply(candidates)

    def accept(self, token: int) -> None:
        """Do nothing."""


class KernelSamplerPlugin(ABC):
    """Creates `KernelSampler` objects.

    A subclass chooses the kernel from a request's options.
    """

    options: ClassVar[JsonSchema]
    truncates: ClassVar[bool] = True

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request, or None if it would change nothing with these options."""
        call = cls.kernel_call(options, context)
        if call is None:
            return None
        from llamafw_plugins.samplers import kernels  # here, because it imports numba

        return KernelSampler(getattr(kernels, call.name), *call.options, n_top=call.n_top)

    @classmethod
    @abstractmethod
    def kernel_call(cls, options: Mapping[str, Any], context: SamplerContext) -> KernelCall | None:
        """Return the kernel and its options, or None if the sampler would change nothing."""


class CumulativeSampler(KernelSamplerPlugin):
    """Keeps candidates until a sum reaches the value of one option, between 0 and 1.

    At 1, all candidates remain.
    """

    option: ClassVar[str]  # the request field
    kernel: ClassVar[str]  # the name of the function in `kernels`

    @classmethod
    def kernel_call(cls, options: Mapping[str, Any], context: SamplerContext) -> KernelCall | None:
        """Return the kernel with the option and the minimum number of candidates, which is at least 1."""
        value = float(options[cls.option])
        return KernelCall(cls.kernel, (value, max(context.min_keep, 1))) if value < 1 else None
