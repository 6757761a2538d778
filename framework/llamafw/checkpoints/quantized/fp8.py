"""FP8: numbers of 8 bits, with a scale per tensor, per row or per block of rows and columns.

The scale of ``x.weight`` is ``x.weight_scale_inv`` in checkpoints as of DeepSeek V3 and Qwen, and ``x.weight_scale`` in
others; weights are multiplied by either (https://github.com/deepseek-ai/DeepSeek-V3, README_WEIGHTS.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from llamafw.checkpoints.config import Config
from llamafw.checkpoints.quantized.values import computed, refuse, scale_weights
from llamafw.checkpoints.tensors import CheckpointTensor

SCALES = ("_scale_inv", "_scale")
ACTIVATION_SCALES = (
    ".input_scale", "activation_scale", ".input_zero_point", ".k_scale", ".v_scale", ".q_scale", ".kv_scale",
    ".prob_scale",
)  # fmt: skip
"""Ends of names of scales for activations and caches, which have no use where these are not rounded to 8 bits."""

FP8 = ("float8_e4m3fn", "float8_e5m2")


def unpack_fp8(section: Config, tensors: Mapping[str, CheckpointTensor]) -> Mapping[str, CheckpointTensor]:
    """Return the weights of a checkpoint whose ``quant_method`` is ``fp8`` or ``fbgemm_fp8``."""
    return unpack_scaled(tensors, read_block(section, "weight_block_size"))


def unpack_modelopt(section: Config, tensors: Mapping[str, CheckpointTensor]) -> Mapping[str, CheckpointTensor]:
    """Return the weights of a checkpoint by NVIDIA's Model Optimizer in FP8."""
    section.require("quant_algo", "FP8")
    return unpack_scaled(tensors, None)


def read_block(section: Config, key: str) -> list[int] | None:
    """Return the rows and columns of a block; None if the key is absent."""
    if not section.has(key):
        return None
    block = section.list(key)
    if len(block) != 2 or not all(type(size) is int and size > 0 for size in block):
        section.fail(key, f"is {block!r:.80}; it must be two numbers of at least 1")
    return block


def unpack_scaled(
    tensors: Mapping[str, CheckpointTensor], block: Sequence[int] | None
) -> Mapping[str, CheckpointTensor]:
    """Return all tensors, those in FP8 multiplied by their scales; scales and what belongs to activations are left out.

    Parameters
    ----------
    tensors : mapping
        The tensors in the files, by name.
    block : sequence of int, optional
        Rows and columns of a block; None: scales are per row or per tensor.
    """
    found: dict[str, CheckpointTensor] = {}
    used: set[str] = set()
    for name, tensor in tensors.items():
        if tensor.dtype.name in FP8:
            scale = next((tensors[name + suffix] for suffix in SCALES if name + suffix in tensors), None)
            if scale is None:
                refuse(tensor, "is in FP8 and has no scale")
            used.add(scale.name)
            found[name] = computed(name, tensor.shape, (tensor, scale), partial(scale_weights, block=block))
        elif not name.endswith(ACTIVATION_SCALES):
            found[name] = tensor
    return {name: tensor for name, tensor in found.items() if name not in used}
