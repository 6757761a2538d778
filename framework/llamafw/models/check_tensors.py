"""``--check-tensors``: check that every weight of a model is finite.

This reads the whole file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llamafw.errors import ModelError
from llamafw.interfaces import Quant
from llamafw.types import Model

_MAX_WEIGHTS = 2**22  # unpacked at once


def check_tensors(model: Model, quants: Mapping[str, Quant]) -> None:
    """Raise ModelError for the first tensor with a weight that is NaN or infinite."""
    for tensor in model.tensors.values():
        quant = quants[tensor.type_name]
        n_in = tensor.shape[-1] if tensor.shape else 1
        row_bytes = n_in // quant.block_size * quant.type_size
        step = max(_MAX_WEIGHTS // max(n_in, 1), 1)  # rows

        whole = tensor.data  # read once, because it may have to be computed
        for first in range(0, len(whole) // row_bytes if row_bytes else 0, step):
            data = whole[first * row_bytes : (first + step) * row_bytes]
            with np.errstate(all="ignore"):  # numpy need not warn: the result is checked below
                weights = quant.dequantize(data, (len(data) // row_bytes, n_in))
            n_invalid = int(np.count_nonzero(~np.isfinite(weights)))
            if n_invalid:
                raise ModelError(
                    f"{model.path}: the tensor {tensor.name!r} has weights that are not finite numbers: "
                    f"{n_invalid} in rows {first} to {first + len(weights) - 1}"
                )
