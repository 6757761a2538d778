"""Conversion to the architecture ``apertus``, which has the parameters of its activation function as metadata."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {
    "attn_norm": "attention_layernorm",
    "ffn_norm": "feedforward_layernorm",
    **c.ATTENTION,
    **c.HEAD_NORMS,
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
XIELU = {"alpha_p": (1,), "alpha_n": (1,), "beta": (), "eps": ()}
"""The parameters of the activation function, and their shapes in checkpoints."""


def apertus(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``ApertusForCausalLM``."""
    config.require("hidden_act", "xielu", default="xielu")
    rope = c.rope(config, c.head_size(config), base=12_000_000.0)
    return c.Conversion(
        "apertus",
        {**c.decoder_metadata(config), **c.rms_eps(config, 1e-5), **rope.metadata},
        [
            *c.ends(),
            *c.layers(LAYER),
            *(
                c.rule(f"blk.{{i}}.xielu.{name}", f"model.layers.{{i}}.mlp.act_fn.{name}", c.Reshape((1,), shape))
                for name, shape in XIELU.items()
            ),
        ],
        extra=rope.tensors,
        layer_numbers=tuple(f"xielu.{name}" for name in XIELU),
    )
