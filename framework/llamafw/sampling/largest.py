"""Finds the largest of many numbers without sorting all of them.

Sorting the 49 thousand logits of a vocabulary takes milliseconds, and even a partition that selects 40 of them takes a
third of a millisecond. Therefore only the numbers that reach a threshold are sorted. The threshold is the n-th largest
of the maxima of interleaved groups: n groups reach it, so at least n numbers do, and few others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_MAX_GROUP = 64  # numbers per group


def largest_indices(values: npt.NDArray[np.floating[Any]], n: int) -> npt.NDArray[np.intp]:
    """Return the indices of the ``n`` largest values, in descending order of value.

    Of equal values, the one with the lower index comes first.

    Parameters
    ----------
    values : (m,) float
        Must not contain NaN.
    n : int
        At least 0. Numbers above ``m`` count as ``m``.
    """
    if n < 1:
        return np.empty(0, np.intp)
    group = min(len(values) // (4 * n), _MAX_GROUP)
    if group < 2:
        return np.argsort(-values, kind="stable")[:n]

    columns = len(values) // group
    # Computing maxima down the columns of a (group, columns) matrix reads whole rows, as fast as memory allows.
    maxima = np.maximum.reduce(values[: group * columns].reshape(group, columns), axis=0)
    passing = np.flatnonzero(values >= np.partition(maxima, -n)[-n])
    return passing[np.argsort(-values[passing], kind="stable")[:n]]
