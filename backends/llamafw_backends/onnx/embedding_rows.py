"""Reads rows of embeddings from the file, and keeps those that were read last as floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Floats
from llamafw import graph as g
from llamafw_backends.onnx.tensors import Tensors

CACHE_BYTES = 2**24


class EmbeddingRows:
    """The rows of a matrix, ``(n_rows, n_columns)``.

    Reading a row of a quantised type takes longer than all else that is done for a token before the device computes,
    and texts use few of the tokens again and again.

    Parameters
    ----------
    tensors : Tensors
        The file.
    weight : Weight
        The matrix.
    """

    def __init__(self, tensors: Tensors, weight: g.Weight) -> None:
        self._tensors, self._weight = tensors, weight
        n_rows, n_columns = weight.shape
        n_kept = min(n_rows, max(1, CACHE_BYTES // (4 * n_columns)))
        self._kept = np.empty((n_kept, n_columns), np.float32)
        self._owners = np.full(n_kept, -1, np.int64)  # the rows that are kept
        self._places = np.full(n_rows, -1, np.int32)  # where rows are kept; -1: nowhere
        self._next = 0

    def __getitem__(self, ids: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return rows, ``(n, n_columns)`` float32."""
        places = self._places[ids]
        if (places < 0).any():
            new = np.unique(ids[places < 0])
            if len(new) > len(self._kept):
                return self._tensors.rows(self._weight, ids)
            self._keep(new)
            places = self._places[ids]
            if (places < 0).any():  # they were kept, but others have taken their places
                return self._tensors.rows(self._weight, ids)
        rows: Floats = self._kept[places]
        return rows

    def _keep(self, ids: npt.NDArray[np.integer[Any]]) -> None:
        """Read rows, and keep them in the places of those that were read first."""
        places = (self._next + np.arange(len(ids))) % len(self._kept)
        old = self._owners[places]
        self._places[old[old >= 0]] = -1
        self._kept[places] = self._tensors.rows(self._weight, ids)
        self._places[ids], self._owners[places] = places, ids
        self._next = int(places[-1] + 1) % len(self._kept)
