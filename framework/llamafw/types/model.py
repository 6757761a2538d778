"""A model file in memory, and the description of it that backends run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llamafw.types.arrays import Bytes


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model file, not loaded yet.

    ``shape`` is in numpy order, outermost dimension first: a GGUF matrix with ``ne = [n_in, n_out]`` has
    shape ``(n_out, n_in)``. ``data`` is a read-only uint8 view of the file's bytes, ``(n_bytes,)``.
    """

    name: str  # "blk.0.attn_q.weight"
    shape: tuple[int, ...]
    type_name: str  # name of the ggml type: "F32", "Q4_1" …
    data: Bytes


@dataclass(frozen=True, slots=True)
class Model:
    """An open model file: metadata in memory, tensors on disk."""

    path: Path  # the file or folder
    metadata: Mapping[str, Any]  # GGUF keys to values; arrays are lists or numpy arrays
    tensors: Mapping[str, Tensor]  # by name
    n_bytes: int  # total size of the tensors


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder-only transformer of the Llama family, described for backends.

    It has RMSNorm before attention and feed-forward, rotary position embeddings, grouped-query attention and a
    gated feed-forward. Tensor names are GGUF's; ``{layer}`` stands for the layer's number.
    """

    n_vocab: int  # rows of the output matrix
    n_ctx_train: int  # context length used in training, in positions
    n_embd: int  # size of a hidden state
    n_layer: int  # layers, each with attention and feed-forward
    n_head: int  # query heads
    n_head_kv: int  # key and value heads; divides n_head
    n_embd_head: int  # size of one query, key or value head
    n_ff: int  # size of the feed-forward layer
    norm_eps: float  # added to the mean square in RMSNorm
    rope_frequencies: npt.NDArray[np.float64]  # (n_rot // 2,) radians per position, scaling applied
    rope_magnitude: float  # factor on cos and sin (YaRN); 1.0 without YaRN
    rope_interleaved: bool  # True: pairs are (0, 1), (2, 3) …; False: (0, n/2), (1, n/2 + 1) …
    attention_scale: float  # factor on Q·K
    activation: Literal["silu"]  # activation function of the gate
    tensors: Mapping[str, str]  # role → GGUF name; see `llamafw_plugins.architectures.llama`
