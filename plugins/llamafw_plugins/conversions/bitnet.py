"""Conversions to the architectures ``bitnet`` and ``bitnet-b1.58``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamafw import checkpoints as c

LAYER = {**c.NORMS, "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}
MATRICES = {**c.ATTENTION, **c.FEED_FORWARD}
ARCHITECTURES = {"silu": "bitnet", "relu2": "bitnet-b1.58"}


@dataclass(frozen=True, slots=True)
class Ternary(c.EachAlone):
    """Round the weights of a matrix to −1, 0 and 1 times the mean of their absolute values (arXiv:2402.17764).

    The checkpoint has the weights of the training, which are not known any more after the conversion.
    """

    def change(self, array: c.Array) -> c.Array:
        """Return the rounded matrix, in float32."""
        if array.ndim < 2:
            return array
        weights = array if array.dtype == np.float64 else array.astype(np.float32)
        scale = max(np.abs(weights).mean(), 1e-5)
        rounded: c.Array = np.clip(np.round(weights / scale), -1, 1) * scale
        return rounded

    def undo(self, array: c.Array) -> c.Array:
        """Return the rounded matrix, which would be rounded to itself."""
        return array


def bitnet(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``BitNetForCausalLM``."""
    config.require("hidden_act", *ARCHITECTURES, default="relu2")
    how = config.section("quantization_config")
    is_trained = how.get("quant_method") == "bitnet"  # the weights of the training, which transformers rounds
    if is_trained:
        how.require("quantization_mode", "online")
    rope = c.rope(config, c.head_size(config), base=500_000.0)
    return c.Conversion(
        ARCHITECTURES[config.text("hidden_act", default="relu2")],
        {**c.decoder_metadata(config), **c.rms_eps(config, 1e-5), **rope.metadata},
        [*c.ends(), *c.layers(LAYER), *c.renames(MATRICES, "model.layers.{i}", *([Ternary()] if is_trained else []))],
        extra=rope.tensors,
    )
