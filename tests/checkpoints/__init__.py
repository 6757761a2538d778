"""Tiny random checkpoints of every architecture, with the logits that other implementations compute for them.

Encoders have hidden states instead of logits, and models with a rank head have scores.

Each module beside this one describes the checkpoints of one architecture, as GGUF files have them. `with_transformers`
builds the same models with transformers; ``make.py`` computes their logits in float64 and stores them in ``golden``.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
N_VOCAB = 320
LENGTHS = (1, 5, 40)
PREDICTING = ("deepseek2", "glm4moe", "qwen35", "qwen35moe", "qwen3next")
"""Architectures that use blocks for multi-token prediction."""

N_ROWS = 2  # how many of a text's last tokens have their results stored

Arrays = dict[str, npt.NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]

RANGES: dict[str, tuple[float, float]] = {
    "*_norm*.weight": (0.5, 1.5),
    "*.bias": (-0.5, 0.5),
    "rope_freqs.weight": (1.0, 4.0),
    "rope_factors_*.weight": (1.0, 4.0),
    "*.scale": (0.5, 1.5),
}
"""Lowest and highest number of the tensors that are not matrices, by patterns of their names."""


@dataclass(frozen=True)
class Checkpoint:
    """A tiny model: what its file says, without the numbers of the tensors, which `tensors` makes."""

    name: str  # of the golden file, begins with the architecture
    architecture: str  # general.architecture
    metadata: Mapping[str, Any]  # GGUF keys, with the architecture's prefix
    shapes: Shapes  # GGUF tensor names to shapes, outermost dimension first
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # further `RANGES`, which come first
    lengths: tuple[int, ...] = LENGTHS  # of the texts, in tokens
    refused: Mapping[str, Any] = field(default_factory=dict)  # metadata that the architecture must refuse, each alone
    optional: tuple[str, ...] = ("*.bias", "output.weight", "rope_freqs.weight")  # tensors that may be missing
    skipped: tuple[str, ...] = ()  # tensors that the graph does not use
    tolerance: float = 1e-8  # how much results in float64 may differ from those of the other implementation
    output: Literal["logits", "hidden", "scores"] = "logits"  # the results that are compared
    has_types: bool = False  # the tokens of the second half of a text have another type
    has_config: bool = True  # False: no config describes it; the other implementation is changed by hand

    def key(self, name: str) -> Any:
        """Return the value of a metadata key, given without the architecture's prefix."""
        return self.metadata[f"{self.architecture}.{name}"]


@dataclass(frozen=True)
class Golden:
    """A text and the logits, hidden states or scores that another implementation computes for its last tokens."""

    tokens: npt.NDArray[np.int64]  # (n_tokens,)
    rows: npt.NDArray[np.float64]  # (n_rows, n_vocab) or (n_rows, n_embd); (n_scores,)


def checkpoint(name: str, architecture: str, keys: Mapping[str, Any], shapes: Shapes, **options: Any) -> Checkpoint:
    """Return a checkpoint; ``keys`` and ``refused`` are given without the architecture's prefix."""
    refused = {f"{architecture}.{key}": value for key, value in options.pop("refused", {}).items()}
    metadata = {f"{architecture}.{key}": value for key, value in keys.items()}
    return Checkpoint(name, architecture, metadata, shapes, refused=refused, **options)


def all_checkpoints() -> Iterator[Checkpoint]:
    """Yield the checkpoints of all architectures."""
    for path in sorted(HERE.glob("*.py")):
        if path.stem not in ("__init__", "folders", "layers", "make", "make_adapters"):
            yield from importlib.import_module(f"checkpoints.{path.stem}").CHECKPOINTS


def tensors(checkpoint: Checkpoint) -> Arrays:
    """Return the checkpoint's tensors: random, but always the same."""
    return {name: _tensor(checkpoint, name, shape) for name, shape in checkpoint.shapes.items()}


def texts(checkpoint: Checkpoint) -> list[npt.NDArray[np.int64]]:
    """Return the texts whose results are compared."""
    rng = np.random.default_rng(zlib.crc32(checkpoint.name.encode()))
    return [rng.integers(0, checkpoint.shapes["token_embd.weight"][0], n) for n in checkpoint.lengths]


def types(checkpoint: Checkpoint, text: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the types of a text's tokens, ``(n_tokens,)``."""
    is_second = np.arange(len(text)) >= (len(text) + 1) // 2
    return np.where(is_second & checkpoint.has_types, 1, 0)


def golden_path(name: str) -> Path:
    """Return the path of the file with a checkpoint's stored logits or hidden states."""
    return HERE / "golden" / f"{name}.npz"


def golden(name: str) -> list[Golden]:
    """Return the texts and stored logits or hidden states of a checkpoint."""
    with np.load(golden_path(name)) as file:
        n_texts = len(file.files) // 2
        (output,) = [name.removesuffix("_0") for name in file.files if name.endswith("_0") and name != "tokens_0"]
        return [Golden(file[f"tokens_{i}"], file[f"{output}_{i}"]) for i in range(n_texts)]


def has_prediction(checkpoint: Checkpoint) -> bool:
    """Return whether the checkpoint has a block for multi-token prediction that the architecture uses."""
    return checkpoint.architecture in PREDICTING and any(".nextn." in name for name in checkpoint.shapes)


def prediction_path(name: str) -> Path:
    """Return the path of the file with the logits that such a block computes."""
    return HERE / "golden" / "prediction" / f"{name}.npz"


def golden_prediction(name: str) -> list[Golden]:
    """Return texts, and the logits for the last pairs of their tokens that such a block computes."""
    with np.load(prediction_path(name)) as file:
        return [Golden(file[f"tokens_{i}"], file[f"logits_{i}"]) for i in range(len(file.files) // 2)]


def write(checkpoint: Checkpoint, path: Path) -> Path:
    """Write a checkpoint as GGUF file, with a vocabulary of bytes; return ``path``."""
    from llamafw.testing import vocabularies
    from llamafw.testing.gguf_file import write_gguf

    metadata = {**vocabularies.gpt2(checkpoint.shapes["token_embd.weight"][0]), **checkpoint.metadata}
    arrays = {name: (array, "F32") for name, array in tensors(checkpoint).items()}
    write_gguf(path, checkpoint.architecture, metadata, arrays)
    return path


def _tensor(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(zlib.crc32(f"{checkpoint.name}/{name}".encode()))
    for pattern, (low, high) in (*checkpoint.ranges.items(), *RANGES.items()):
        if fnmatch(name, pattern):
            return rng.uniform(low, high, shape).astype(np.float32)
    std = 3 if name in ("token_embd.weight", "output.weight") else 1.5  # logits with a standard deviation of about 3
    return rng.normal(0, std / shape[-1] ** 0.5, shape).astype(np.float32)
