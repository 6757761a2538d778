"""Find the fewest candidates that together have enough probability. It knows nothing of tokens or requests."""
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Floats, largest


def nucleus(
    values: Floats, weights: Floats, mass: float, at_least: int, *, strict: bool = False
) -> npt.NDArray[np.intp]:
    """Return the indices of the largest values, largest first, that together have ``mass`` of the weight.

    Parameters
    ----------
    values : (m,) float32
        Decide the order; without NaN.
    weights : (m,) float32
        At least 0, their sum above 0.
    mass : float
        What part of the sum of all weights is enough.
    at_least : int
        Return so many, if there are, but at least one.
    strict : bool
        True: more than ``mass`` is needed.
    """
    enough = mass * float(weights.sum(dtype=np.float64))
    m = len(values)
    n = min(max(at_least, 64), m)
    while True:  # usually few are enough, so look at all only if they are not
        order = largest(values, n)
        sums: np.ndarray[Any, np.dtype[np.float64]] = weights[order].cumsum(dtype=np.float64)
        if n == m or sums[-1] > enough:
            count = int(sums.searchsorted(enough, side="right" if strict else "left")) + 1
            return order[: max(count, at_least, 1)]
        n = min(16 * n, m)
