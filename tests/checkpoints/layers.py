"""Shapes of the tensors of common layers, from which checkpoints are composed.

The functions for parts of a layer return shapes by role: ``{"attn_q.weight": (64, 64), …}``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from checkpoints import N_VOCAB, Shapes

N_EMBD = 64


class HeadSizes(NamedTuple):
    """Numbers and size of the heads."""

    n: int = 4
    n_kv: int = 2
    size: int = 16
    value_size: int = 0  # 0: as keys


def vectors(*roles: str, n: int = N_EMBD) -> Shapes:
    """Return weights with one number per channel, for norms."""
    return {f"{role}.weight": (n,) for role in roles}


def attention(heads: HeadSizes, *, fused: bool = False, norms: bool = False, n_embd: int = N_EMBD) -> Shapes:
    """Return the projections of an attention block, fused to ``attn_qkv`` or not, and norms of single heads."""
    value_size = heads.value_size or heads.size
    n_q, n_k, n_v = heads.n * heads.size, heads.n_kv * heads.size, heads.n_kv * value_size
    inputs = {"attn_qkv": n_q + n_k + n_v} if fused else {"attn_q": n_q, "attn_k": n_k, "attn_v": n_v}
    return {
        **{f"{role}.weight": (n, n_embd) for role, n in inputs.items()},
        **(vectors("attn_q_norm", "attn_k_norm", n=heads.size) if norms else {}),
        "attn_output.weight": (n_embd, heads.n * value_size),
    }


def gated_ffn(n_ff: int, *, fused: bool = False, n_embd: int = N_EMBD) -> Shapes:
    """Return a gated feed-forward block, its two inputs fused to ``ffn_up`` or not."""
    inputs = {"ffn_up": 2 * n_ff} if fused else {"ffn_gate": n_ff, "ffn_up": n_ff}
    return {**{f"{role}.weight": (n, n_embd) for role, n in inputs.items()}, "ffn_down.weight": (n_embd, n_ff)}


def experts(n_expert: int, n_ff: int, *, fused: bool = False, n_embd: int = N_EMBD) -> Shapes:
    """Return a router and its gated experts, their two inputs fused to ``ffn_gate_up_exps`` or not."""
    inputs = {"ffn_gate_up_exps": 2 * n_ff} if fused else {"ffn_gate_exps": n_ff, "ffn_up_exps": n_ff}
    return {
        "ffn_gate_inp.weight": (n_expert, n_embd),
        **{f"{role}.weight": (n_expert, n, n_embd) for role, n in inputs.items()},
        "ffn_down_exps.weight": (n_expert, n_embd, n_ff),
    }


def biases(layer: Shapes, *roles: str) -> Shapes:
    """Return biases for some roles of a layer, or for all matrices."""
    chosen = roles or [name.removesuffix(".weight") for name, shape in layer.items() if len(shape) > 1]
    return {f"{role}.bias": layer[f"{role}.weight"][:-1] for role in chosen}


def norm_biases(norms: Shapes) -> Shapes:
    """Return biases for some norms."""
    return {name.replace(".weight", ".bias"): shape for name, shape in norms.items()}


def model(layers: Iterable[Shapes], *, tied: bool = False, n_embd: int = N_EMBD) -> Shapes:
    """Return the shapes of a whole model."""
    output: Shapes = {} if tied else {"output.weight": (N_VOCAB, n_embd)}
    found: Shapes = {"token_embd.weight": (N_VOCAB, n_embd), "output_norm.weight": (n_embd,), **output}
    for i, layer in enumerate(layers):
        found |= {f"blk.{i}.{role}": shape for role, shape in layer.items()}
    return found
