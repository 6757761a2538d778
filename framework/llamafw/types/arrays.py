"""Names for the array and mapping types that appear in signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
"""Tokens, positions, slots: int32, as GGUF and llama.cpp have them."""


Floats = npt.NDArray[np.float32]
"""Logits, hidden states, weights: float32."""


Bytes = npt.NDArray[np.uint8]
"""What a file or a state holds, byte by byte."""


JsonSchema = Mapping[str, Any]
"""JSON Schemas by the names of the fields they describe, in the dialect of OpenAPI 3.0."""
