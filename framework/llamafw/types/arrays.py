"""Names for the array and mapping types used in signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
"""Tokens, positions or slot numbers, int32 as in GGUF and llama.cpp."""


Floats = npt.NDArray[np.float32]
"""Logits, hidden states or weights, float32."""


Bytes = npt.NDArray[np.uint8]
"""Raw bytes of a file or a saved state."""


JsonSchema = Mapping[str, Any]
"""A mapping from field names to their JSON Schemas, in OpenAPI 3.0's dialect."""
