"""Find the largest of many numbers without sorting them all. It knows nothing of tokens or samplers.

Sorting the 49 thousand scores of a vocabulary takes milliseconds, even picking out 40 with a partition a third of one.
So first a threshold is found that few numbers pass: the n-th largest of the maxima of interleaved groups. As n groups
reach it, so do at least n numbers.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.floating[Any]]

_GROUP = 64  # numbers per group


def largest(values: Numbers, n: int) -> Indices:
    """Return the indices of the ``n`` largest values, largest first; of equals the lower index first.

    Parameters
    ----------
    values : (m,) float
        Without NaN.
    n : int
        At least 1; more than ``m`` is ``m``.
    """
    found = _reaching(values, n)
    among = values if found is None else values[found]
    order = np.argsort(-among, kind="stable")[:n]
    return order if found is None else found[order]


def _reaching(values: Numbers, n: int) -> Indices | None:
    """Return, ascending, the indices of a few values that include the ``n`` largest; None: all of them are few."""
    m = len(values)
    columns = m // _GROUP
    if 4 * n < columns:
        whole = columns * _GROUP
        # Maxima down the columns of a (64, m/64) matrix: whole rows at a time, so it runs at the speed of memory.
        peaks = np.maximum.reduce(values[:whole].reshape(_GROUP, columns), axis=0)
        return np.flatnonzero(values >= np.partition(peaks, -n)[-n])
    if 4 * n < m:
        return np.flatnonzero(values >= np.partition(values, -n)[-n])
    return None


def nucleus(values: Numbers, weights: Numbers, mass: float, at_least: int, *, strict: bool = False) -> Indices:
    """Return the indices of the largest values, largest first, that together have ``mass`` of the weight.

    Parameters
    ----------
    values : (m,) float
        Decide the order; without NaN.
    weights : (m,) float
        At least 0, their sum above 0.
    mass : float
        What part of the sum of all weights is enough.
    at_least : int
        Return so many, if there are.
    strict : bool
        True: more than ``mass`` is needed.
    """
    enough = mass * float(weights.sum(dtype=np.float64))
    m = len(values)
    n = min(max(at_least, 64), m)
    while True:
        order = largest(values, n)
        sums = weights[order].cumsum(dtype=np.float64)
        if n == m or sums[-1] > enough:
            count = int(sums.searchsorted(enough, side="right" if strict else "left")) + 1
            return order[: max(count, at_least, 1)]
        n = min(16 * n, m)
