"""``--check-tensors``: whether every weight of a model is a finite number. It reads the whole file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llamafw.errors import ModelError
from llamafw.interfaces import Quant
from llamafw.types import Model

_AT_ONCE = 2**22  # weights


def check_tensors(model: Model, quants: Mapping[str, Quant]) -> None:
    """Raise ModelError for the first tensor with a weight that is NaN or infinite."""
    for tensor in model.tensors.values():
        quant = quants[tensor.type_name]
        n_in = tensor.shape[-1] if tensor.shape else 1
        row = n_in // quant.block_size * quant.type_size  # bytes
        step = max(_AT_ONCE // max(n_in, 1), 1)  # rows
        for first in range(0, len(tensor.data) // row if row else 0, step):
            data = tensor.data[first * row : (first + step) * row]
            with np.errstate(all="ignore"):  # what comes of such weights is looked at, not warned of
                weights = quant.dequantize(data, (len(data) // row, n_in))
            wrong = int(np.count_nonzero(~np.isfinite(weights)))
            if wrong:
                raise ModelError(
                    f"{model.path}: the tensor {tensor.name!r} has weights that are no finite numbers: "
                    f"{wrong} in rows {first} to {first + len(weights) - 1}"
                )
