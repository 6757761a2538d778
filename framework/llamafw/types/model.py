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
    """One tensor of a model file, still in the file.

    ``shape`` is in numpy order, outermost first: a GGUF matrix with ``ne = [n_in, n_out]`` has
    shape ``(n_out, n_in)``. ``data`` is a read-only uint8 view of the file's bytes, ``(n_bytes,)``.
    """

    name: str  # "blk.0.attn_q.weight"
    shape: tuple[int, ...]
    type_name: str  # of the ggml type: "F32", "Q4_1" …
    data: Bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A model file, opened: metadata in memory, tensors on disk."""

    path: Path  # the file, or folder
    metadata: Mapping[str, Any]  # GGUF keys; arrays are lists or numpy arrays
    tensors: Mapping[str, Tensor]  # by name
    n_bytes: int  # of all tensors


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder-only transformer in the Llama family, as an `Architecture` describes it to backends.

    RMSNorm before attention and feed-forward, rotary positions, grouped-query attention, gated
    feed-forward. Tensor names follow GGUF; ``{layer}`` stands for the layer's number.
    """

    n_vocab: int  # rows of the output matrix
    n_ctx_train: int  # positions the model was trained on
    n_embd: int  # size of a hidden state
    n_layer: int  # blocks of attention and feed-forward
    n_head: int  # heads of Q
    n_head_kv: int  # heads of K and V; a divisor of n_head
    n_embd_head: int  # size of one head of Q, K and V
    n_ff: int  # size of the feed-forward layer
    norm_eps: float  # added to the mean square in RMSNorm
    rope_frequencies: npt.NDArray[np.float64]  # (n_rot // 2,) radians per position, scaling applied
    rope_magnitude: float  # factor on cos and sin (YaRN); 1.0 without
    rope_interleaved: bool  # True: pairs (0, 1), (2, 3) …; False: pairs (0, n/2), (1, n/2 + 1) …
    attention_scale: float  # factor on Q·K
    activation: Literal["silu"]  # of the gate
    tensors: Mapping[str, str]  # role → GGUF name; see `llamafw_plugins.architectures.llama`
