"""A backend can refuse a model that it does not compute, with an error that names the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Decoder, ModelError, check_decoder
from llamafw.testing.reference import Reference
from llamafw.testing.tiny import write_tiny_gguf


def decoder(activation: Any = "silu", roles: tuple[str, ...] = ("token_embd", "output")) -> Decoder:
    """Return a description with an activation and some tensor roles."""
    return Decoder(
        n_vocab=8,
        n_ctx_train=8,
        n_embd=8,
        n_layer=1,
        n_head=1,
        n_head_kv=1,
        n_embd_head=8,
        n_ff=8,
        norm_eps=1e-5,
        rope_frequencies=np.ones(4),
        rope_magnitude=1.0,
        rope_interleaved=True,
        attention_scale=1.0,
        activation=activation,
        tensors={role: f"{role}.weight" for role in roles},
    )


def check(description: Decoder) -> None:
    """Check a description for a backend that needs two roles and can use a third."""
    check_decoder(
        description, "toy", activations=("silu", "gelu"), required=("token_embd", "output"), optional=("output_bias",)
    )


@pytest.mark.parametrize("roles", [("token_embd", "output"), ("token_embd", "output", "output_bias")])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_supported_models_are_accepted(activation: str, roles: tuple[str, ...]) -> None:
    check(decoder(activation, roles))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (decoder("relu"), "the toy backend does not compute the activation 'relu', only silu, gelu"),
        (decoder(roles=("token_embd", "output", "ffn_up_bias")), "does not use tensors of the role 'ffn_up_bias'"),
        (decoder(roles=("token_embd",)), "the toy backend needs tensors of the role 'output'"),
    ],
)
def test_unsupported_models_are_refused(description: Decoder, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check(description)


def test_reference_refuses_tensors_that_it_would_ignore(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", tensors={"blk.0.attn_q_norm.weight": np.ones(16, np.float32)})
    with pytest.raises(ValueError, match=r"the reference does not use the tensor 'blk\.0\.attn_q_norm\.weight'"):
        Reference(path)
