"""Conversion to the architecture ``gemma3n``, texts only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from llamafw import checkpoints as c
from llamafw_plugins.conversions.gemma2 import LAYER as LAYER_OF_GEMMA2
from llamafw_plugins.conversions.gemma2 import windows

LAYER = {
    **LAYER_OF_GEMMA2,
    **c.HEAD_NORMS,
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "laurel_l": "laurel.linear_left",
    "laurel_r": "laurel.linear_right",
    "laurel_post_norm": "laurel.post_laurel_norm",
    "altup_router": "altup.modality_router",
    "altup_router_norm": "altup.router_norm",
    "altup_predict_coef": "altup.prediction_coefs",
    "altup_correct_coef": "altup.correction_coefs",
}


@dataclass(frozen=True, slots=True)
class RepeatFirst(c.EachAlone):
    """Append the first row until there are ``n``: tokens of images have the small embeddings of token 0."""

    n_original: int
    n: int

    def change(self, array: c.Array) -> c.Array:
        """Append rows."""
        return np.concatenate([array, np.repeat(array[:1], self.n - self.n_original, 0)])

    def undo(self, array: c.Array) -> c.Array:
        """Remove the rows."""
        return array[: self.n_original]

    def describe(self, arrays: Sequence[c.Array]) -> list[c.Array]:
        """Return arrays with as many rows."""
        if any(len(array) != self.n_original for array in arrays):
            raise ValueError(f"it has {len(arrays[0])} rows, not {self.n_original}")
        return [np.broadcast_to(array[:1], (self.n, *array.shape[1:])) for array in arrays]


def gemma3n(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Gemma3nForCausalLM``, or of the text part of one with images."""
    text = config.text_section()
    n_layer, n_vocab = text.integer("num_hidden_layers"), text.integer("vocab_size")
    n_small = min(text.integer("vocab_size_per_layer_input", default=n_vocab), n_vocab)
    padding = [RepeatFirst(n_small, n_vocab)] if n_small < n_vocab else []
    return c.Conversion(
        "gemma3n",
        {**_metadata(text, n_layer), **windows(text, c.layer_types(text, n_layer, 5))},
        [
            *c.ends(),
            *c.layers(LAYER),
            c.rule("blk.{i}.altup_correct_scale.weight", "model.layers.{i}.altup.correct_output_scale"),
            c.rule("altup_proj.weight", "model.altup_projections.{e}.weight", c.Stack()),
            c.rule("altup_unembd_proj.weight", "model.altup_unembed_projections.{e}.weight", c.Stack()),
            c.rule("per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight", *padding),
            c.rule("per_layer_model_proj.weight", "model.per_layer_model_projection.weight"),
            c.rule("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"),
        ],
        aliases=c.TEXT_MODEL,
        skipped=c.NOT_TEXT,
    )


def _metadata(config: c.Config, n_layer: int) -> dict[str, Any]:
    config.require("hidden_activation", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
    config.require("altup_correct_scale", True, default=True)
    full, local = (c.rope_section(config, f"{kind}_attention") for kind in ("full", "sliding"))
    for section in (full, local):
        section.require("rope_type", "default")
    n_ff = config.get("intermediate_size")
    n_sparse = 10 if n_layer > 10 else 0
    shares = config.list("activation_sparsity_pattern", n=n_layer, default=[0.95] * n_sparse + [0.0] * n_layer)
    return {
        **c.decoder_metadata(c.Config(config.path, {**config.values, "intermediate_size": 1}, config.prefix)),
        **c.rms_eps(config),
        "feed_forward_length": config.list("intermediate_size", n=n_layer) if isinstance(n_ff, list) else n_ff,
        "attention.key_length": c.head_size(config),
        "attention.value_length": c.head_size(config),
        "attention.shared_kv_layers": config.integer("num_kv_shared_layers", default=0, low=0),
        "embedding_length_per_layer_input": config.integer("hidden_size_per_layer_input"),
        "altup.num_inputs": config.integer("altup_num_inputs"),
        "altup.active_idx": config.integer("altup_active_idx", default=0, low=0),
        "activation_sparsity_scale": [_cutoff(config, one) for one in shares],
        "final_logit_softcapping": config.number("final_logit_softcapping", default=0.0),
        "rope.dimension_count": c.head_size(config),
        "rope.freq_base": full.number("rope_theta", default=1e6),
        "rope.freq_base_swa": local.number("rope_theta", default=config.number("rope_local_base_freq", default=1e4)),
    }


def _cutoff(config: c.Config, share: object) -> float:
    """Return below how many standard deviations this share of normally distributed numbers is; −∞ for none."""
    if not isinstance(share, int | float) or not 0 <= share < 1:
        config.fail("activation_sparsity_pattern", f"has {share!r:.80}; its numbers must be at least 0 and below 1")
    return NormalDist().inv_cdf(share) if share else -math.inf
