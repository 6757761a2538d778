"""A sampler that is nothing but its kernel. It knows no formulas."""

from __future__ import annotations

import numpy as np

from llamafw import Candidates, SamplerKernel, SamplerKernelFunction


class Compiled:
    """Applies a kernel with certain options, and remembers nothing."""

    def __init__(self, function: SamplerKernelFunction, *options: float) -> None:
        self.kernel = SamplerKernel(function, np.array(options, np.float64))

    def apply(self, candidates: Candidates) -> None:
        self.kernel.apply(candidates)

    def accept(self, token: int) -> None:
        """Remember nothing."""
