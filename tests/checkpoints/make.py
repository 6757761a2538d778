"""Compute the logits of checkpoints with other implementations, and store them.

``cd tests && python -m checkpoints.make [NAME …]`` needs torch and transformers; ``--check`` compares the stored logits
with newly computed ones instead. Names are those of checkpoints or of architectures; without names all are made.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from checkpoints import HERE, N_ROWS, Checkpoint, all_checkpoints, golden, golden_path, tensors, texts

TOLERANCE = 1e-6


def use_float64() -> None:
    """Make torch compute everything in float64.

    The models of transformers convert to float32 inside norms, rotations and softmax, by these names.
    """
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double


def module_of(checkpoint: Checkpoint) -> str:
    """Return the name of the module that computes the logits of a checkpoint."""
    name = checkpoint.architecture.replace("-", "_")
    folder = "with_transformers" if (HERE / "with_transformers" / f"{name}.py").exists() else "with_numpy"
    return f"checkpoints.{folder}.{name}"


def compute_logits(checkpoint: Checkpoint) -> list[npt.NDArray[np.float64]]:
    """Return the logits of the last tokens of each text."""
    arrays = {name: array.astype(np.float64) for name, array in tensors(checkpoint).items()}
    module = importlib.import_module(module_of(checkpoint))
    if hasattr(module, "logits"):
        return [module.logits(checkpoint, arrays, text)[-N_ROWS:] for text in texts(checkpoint)]

    model = module.build(checkpoint, {name: torch.from_numpy(array) for name, array in arrays.items()})
    with torch.no_grad():
        return [model(torch.from_numpy(text)[None]).logits[0, -N_ROWS:].numpy() for text in texts(checkpoint)]


def main() -> None:
    """Make or check the golden files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    use_float64()

    chosen = [one for one in all_checkpoints() if not options.names or {one.name, one.architecture} & {*options.names}]
    if not chosen:
        sys.exit(f"no checkpoint is named {options.names}")
    for checkpoint in chosen:
        logits = compute_logits(checkpoint)
        if not all(np.isfinite(rows).all() for rows in logits):
            sys.exit(f"{checkpoint.name}: the logits are not finite")
        if options.check:
            difference = max(np.abs(a - b.logits).max() for a, b in zip(logits, golden(checkpoint.name), strict=True))
            print(f"{checkpoint.name}: largest difference {difference:.1e}")
            if not difference < TOLERANCE:
                sys.exit(f"{checkpoint.name}: the stored logits differ by {difference}")
        else:
            arrays: dict[str, Any] = {f"tokens_{i}": text for i, text in enumerate(texts(checkpoint))}
            arrays |= {f"logits_{i}": rows for i, rows in enumerate(logits)}
            np.savez_compressed(golden_path(checkpoint.name), **arrays)
            print(f"{checkpoint.name}: logits from {min(map(np.min, logits)):.1f} to {max(map(np.max, logits)):.1f}")


if __name__ == "__main__":
    main()
