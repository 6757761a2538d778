"""Compute the logits of checkpoints with other implementations, or the hidden states of encoders, and store them.

``cd tests && python -m checkpoints.make [NAME …]`` needs torch and transformers; ``--check`` compares the stored ones
with newly computed ones instead. Names are those of checkpoints or of architectures; without names all are made.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.utils.logging import disable_progress_bar

from checkpoints import (
    HERE,
    N_ROWS,
    Checkpoint,
    all_checkpoints,
    golden,
    golden_path,
    golden_prediction,
    has_prediction,
    prediction_path,
    tensors,
    texts,
    types,
)
from checkpoints.folders import config_json, config_path

TOLERANCE = 1e-6


def use_float64() -> None:
    """Make torch compute everything in float64.

    The models of transformers convert to float32 inside norms, rotations and softmax, by these names.
    """
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    disable_progress_bar()


def module_of(checkpoint: Checkpoint) -> str:
    """Return the name of the module that computes the results of a checkpoint."""
    name = checkpoint.architecture.replace("-", "_").replace(".", "_")
    folder = "with_transformers" if (HERE / "with_transformers" / f"{name}.py").exists() else "with_numpy"
    return f"checkpoints.{folder}.{name}"


def compute(checkpoint: Checkpoint) -> tuple[list[npt.NDArray[np.float64]], dict[str, Any] | None]:
    """Return the logits or hidden states of the last tokens of each text, and the model's config if it has one."""
    arrays = {name: array.astype(np.float64) for name, array in tensors(checkpoint).items()}
    module = importlib.import_module(module_of(checkpoint))
    if hasattr(module, checkpoint.output):
        function = getattr(module, checkpoint.output)
        config = module.config(checkpoint) if hasattr(module, "config") else None
        return _last_rows(checkpoint, [function(checkpoint, arrays, text) for text in texts(checkpoint)]), config

    model = module.build(checkpoint, {name: torch.from_numpy(array) for name, array in arrays.items()})
    name = {"logits": "logits", "hidden": "last_hidden_state", "scores": "logits"}[checkpoint.output]
    with torch.no_grad():
        rows = [model(**_inputs(checkpoint, text))[name][0].numpy() for text in texts(checkpoint)]
    config = config_json(model.config, type(model)) if checkpoint.has_config else None
    return _last_rows(checkpoint, rows), config


def compute_prediction(checkpoint: Checkpoint) -> list[npt.NDArray[np.float64]]:
    """Return the logits that the block after the layers computes for the last pairs of tokens of each text."""
    from checkpoints.with_transformers.prediction import predict

    arrays = {name: torch.from_numpy(array.astype(np.float64)) for name, array in tensors(checkpoint).items()}
    model = importlib.import_module(module_of(checkpoint)).build(checkpoint, arrays)
    return [predict(checkpoint, model, arrays, text)[-N_ROWS:] for text in texts(checkpoint) if len(text) > 1]


def _inputs(checkpoint: Checkpoint, text: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """Return the arguments of a model."""
    inputs = {"input_ids": text} | ({"token_type_ids": types(checkpoint, text)} if checkpoint.has_types else {})
    return {name: torch.from_numpy(array)[None] for name, array in inputs.items()}


def _last_rows(checkpoint: Checkpoint, results: list[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float64]]:
    """Return what is stored of the results of each text: all scores, or the rows of the last tokens."""
    return results if checkpoint.output == "scores" else [rows[-N_ROWS:] for rows in results]


def write_config(name: str, config: dict[str, Any]) -> None:
    """Store the config of a checkpoint."""
    config_path(name).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")


def _make_prediction(checkpoint: Checkpoint, *, is_checked: bool) -> None:
    """Store what the block after the layers computes, or compare it with what is stored."""
    results, path = compute_prediction(checkpoint), prediction_path(checkpoint.name)
    if is_checked:
        stored = golden_prediction(checkpoint.name)
        difference = max(np.abs(a - b.rows).max() for a, b in zip(results, stored, strict=True))
        print(f"{checkpoint.name}: largest difference of predictions {difference:.1e}")
        if not difference < TOLERANCE:
            sys.exit(f"{checkpoint.name}: the stored predictions differ by {difference}")
        return
    arrays: dict[str, Any] = {
        f"tokens_{i}": text for i, text in enumerate(text for text in texts(checkpoint) if len(text) > 1)
    }
    arrays |= {f"logits_{i}": rows for i, rows in enumerate(results)}
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(f"{checkpoint.name}: predictions from {min(map(np.min, results)):.1f} to {max(map(np.max, results)):.1f}")


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
        if has_prediction(checkpoint):
            _make_prediction(checkpoint, is_checked=options.check)
        results, config = compute(checkpoint)
        if not all(np.isfinite(rows).all() for rows in results):
            sys.exit(f"{checkpoint.name}: the {checkpoint.output} are not finite")
        if options.check:
            difference = max(np.abs(a - b.rows).max() for a, b in zip(results, golden(checkpoint.name), strict=True))
            print(f"{checkpoint.name}: largest difference {difference:.1e}")
            if not difference < TOLERANCE:
                sys.exit(f"{checkpoint.name}: the stored {checkpoint.output} differ by {difference}")
        else:
            arrays: dict[str, Any] = {f"tokens_{i}": text for i, text in enumerate(texts(checkpoint))}
            arrays |= {f"{checkpoint.output}_{i}": rows for i, rows in enumerate(results)}
            np.savez_compressed(golden_path(checkpoint.name), **arrays)
            if config is not None:
                write_config(checkpoint.name, config)
            low, high = min(map(np.min, results)), max(map(np.max, results))
            print(f"{checkpoint.name}: {checkpoint.output} from {low:.1f} to {high:.1f}")


if __name__ == "__main__":
    main()
