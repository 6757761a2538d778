"""Graphs that differ from Llama's in one thing each, for the tests of backends.

Their tensors are those of the tiny Llama that `llamafw.testing.tiny` writes by default, and some more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from llamafw import graph as g
from llamafw.graph.rows import Function
from llamafw.types import Model

N_EMBD, N_HEAD, N_HEAD_KV, SIZE, N_FF, N_LAYER, EPS = 64, 4, 2, 16, 128, 2, 1e-5  # of the tiny Llama
N_CTX = 512
FREQUENCIES = 10_000.0 ** (-2 * np.arange(SIZE // 2) / SIZE)
TURN = g.Rotation(FREQUENCIES, interleaved=True)
STATE_SIZES = g.StateSizes(n_head=4, size=16, n_group=2, n_state=16, kernel=4)
N_EXPERT, N_USED = 6, 2
POSITION_BIAS = {"attn_rel_b.weight": (8, N_HEAD)}  # a table with 8 buckets of distances

Heads = tuple[g.Value, g.Value, g.Value]
Block = Callable[[g.Value, g.Parameters], g.Value]


@dataclass(frozen=True)
class Variation:
    """A graph that differs from Llama's in one thing."""

    name: str  # what the model has: "a sliding window"
    operator: str  # the class of the operator that a refusal must name; empty if a backend may refuse the whole graph
    build: Callable[[Model], g.Graph]  # for a file with the tensors of the tiny Llama and these
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of each layer's further tensors

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the tensors that the tiny Llama does not have: random, but always the same."""
        rng = np.random.default_rng(5)
        found = {}
        for layer in range(N_LAYER):
            for name, shape in self.shapes.items():
                scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.3
                numbers = rng.normal(1.0 if "norm" in name else 0.0, scale, shape)
                found[f"blk.{layer}.{name}"] = (-np.abs(numbers) if name == "ssm_a" else numbers).astype(np.float32)
        return found


def llama(
    model: Model,
    *,
    norm: Callable[[g.Value, g.Parameter], g.Value] = lambda x, p: g.rms_norm(x, p, EPS),
    heads: Callable[[Heads, g.Parameters], Heads] = lambda parts, layer: parts,
    turn: g.Rotation | None = TURN,
    attend: Callable[[Heads, g.Parameters], g.Value] = lambda parts, layer: attend(*parts),
    mix: Block | None = None,
    ffn: Block = g.gated_ffn,
    finish: Callable[[g.Value], g.Value | None] = lambda logits: logits,
) -> g.Graph:
    """Return the graph of the tiny Llama, with some of its parts replaced.

    Parameters
    ----------
    model : Model
        The file.
    norm : callable
        Norm of a row.
    heads : callable
        Changes the queries, keys and values of a layer before they are rotated.
    turn : Rotation, optional
        Rotation of queries and keys.
    attend : callable
        Attention of the queries, keys and values of a layer.
    mix : callable, optional
        What the first layer has instead of attention.
    ffn : callable
        The feed-forward block.
    finish : callable
        Changes the logits; None if the model has none.
    """
    w = g.Parameters.of(model)
    x = g.embedding(g.TOKENS, w["token_embd"])
    for i, layer in enumerate(w.layers(model.metadata["llama.block_count"])):
        h = norm(x, layer["attn_norm"])
        if mix and i == 0:
            x = x + mix(h, layer)
        else:
            q, k, v = heads(g.attention_inputs(h, layer, N_HEAD, N_HEAD_KV, SIZE), layer)
            q, k = (part if turn is None else g.rope(part, turn) for part in (q, k))
            x = x + g.linear(g.flat(attend((q, k, v), layer)), layer["attn_output"])
        x = g.layer_output(x + ffn(norm(x, layer["ffn_norm"]), layer), i)
    hidden = norm(x, w["output_norm"])
    return g.Graph(hidden, finish(g.linear(hidden, g.output_matrix(w))), N_CTX)


def attend(q: g.Value, k: g.Value, v: g.Value, **options: Any) -> g.Value:
    """Return attention over a cache, with the options of `llamafw.graph.Attention`."""
    return g.attention(q, g.cache(k, v), SIZE**-0.5, **options)


def variations() -> Iterator[Variation]:
    """Yield all variations."""
    yield from _rows()
    yield from _attention()
    yield from _mixers()


def _rows() -> Iterator[Variation]:
    """Yield graphs with other operators on rows."""
    for function in get_args(Function):
        build = partial(llama, ffn=partial(g.gated_ffn, function=function))
        yield Variation(f"the activation {function}", "Activation", build)

    biases = {"ffn_gate.bias": (N_FF,), "ffn_up.bias": (N_FF,), "ffn_down.bias": (N_EMBD,)}
    yield Variation("biases of the feed-forward block", "Linear", llama, biases)
    yield Variation(
        "norms with a mean and a bias",
        "LayerNorm",
        partial(llama, norm=lambda x, p: g.layer_norm(x, p, EPS)),
        {"attn_norm.bias": (N_EMBD,), "ffn_norm.bias": (N_EMBD,)},
    )
    yield Variation("norms in groups", "RMSNorm", partial(llama, norm=lambda x, p: g.RMSNorm(x, p.weight, EPS, 4)))
    yield Variation(
        "a norm without weights after the block",
        "RMSNorm",
        partial(llama, ffn=lambda x, layer: g.rms_norm(g.gated_ffn(x, layer), None, EPS)),
    )
    yield Variation("scaled logits", "Scale", partial(llama, finish=lambda logits: logits * 0.5))
    yield Variation("limited logits", "Activation", partial(llama, finish=lambda logits: g.softcap(logits, 3.0)))
    yield Variation("no logits", "Graph", partial(llama, finish=lambda logits: None))
    yield Variation(
        "limited gates",
        "Clamp",
        partial(
            llama,
            ffn=lambda x, layer: g.linear(
                g.Clamp(g.linear(x, layer["ffn_gate"]), -0.5, 0.5) * g.linear(x, layer["ffn_up"]), layer["ffn_down"]
            ),
        ),
    )
    yield Variation("experts", "ExpertLinear", partial(llama, ffn=_experts), _EXPERTS)
    yield Variation(
        "types of tokens",
        "EmbeddingLookup",
        partial(llama, ffn=lambda x, layer: g.gated_ffn(x, layer) + g.embedding(g.TYPES, layer["types"])),
        {"types.weight": (2, N_EMBD)},
    )


def _attention() -> Iterator[Variation]:
    """Yield graphs with another attention."""

    def attention(name: str, **options: Any) -> Variation:
        return Variation(name, "Attention", partial(llama, attend=lambda parts, _: attend(*parts, **options)))

    yield attention("a sliding window", window=8)
    yield attention("windows in chunks", window=8, window_kind="chunked")
    yield attention("limited scores", softcap=2.0)
    yield attention("scores that decrease with distance", alibi=(0.5, 0.25, 0.125, 0.0625))
    yield Variation(
        "a bias by distance",
        "Attention",
        partial(llama, attend=lambda parts, layer: attend(*parts, position_bias=layer["attn_rel_b"].weight)),
        POSITION_BIAS,
    )
    yield attention("queries that grow with their position", temperature=(0.5, 8))
    yield attention("queries that grow with the number of tokens", temperature=(0.5, 8), temperature_offset=1)
    yield Variation(
        "attention sinks",
        "Attention",
        partial(llama, attend=lambda parts, layer: attend(*parts, sinks=layer.tensor("attn_sinks.weight"))),
        {"attn_sinks.weight": (N_HEAD,)},
    )
    yield from _whole_texts()
    yield Variation("values longer than keys", "Attention", partial(llama, attend=_with_long_values))
    yield Variation("norms of heads", "RMSNorm", partial(llama, heads=_with_norms), {"q_norm.weight": (SIZE,)})
    yield Variation("pairs of halves", "Rope", partial(llama, turn=g.Rotation(FREQUENCIES)))
    yield Variation(
        "a rotation of some numbers", "Rope", partial(llama, turn=g.Rotation(FREQUENCIES[::2], 1.2, offset=4))
    )
    yield Variation("no positions", "Attention", partial(llama, turn=None))


def _whole_texts() -> Iterator[Variation]:
    """Yield graphs of encoders, whose tokens depend on later ones; a backend may refuse them all."""

    def encoder(name: str, **options: Any) -> Variation:
        return Variation(name, "", partial(llama, attend=lambda parts, _: whole_text(parts, **options)))

    def whole_text(parts: Heads, **options: Any) -> g.Value:
        q, k, v = parts
        return g.attention(q, g.whole_text(k, v), SIZE**-0.5, **options)

    yield encoder("attention to the whole text")
    yield encoder("a window on both sides", window=8, window_kind="symmetric")
    yield encoder("no window on either side", window=None, window_kind="symmetric")
    yield encoder("whole chunks", window=8, window_kind="chunked")
    yield encoder("a window before and everything after", window=8)
    yield encoder("scores that decrease on both sides", alibi=(0.5, 0.25, 0.125, 0.0625))
    yield encoder("limited scores of the whole text", softcap=2.0)
    yield Variation(
        "a bias by distance on both sides",
        "",
        partial(llama, attend=lambda parts, layer: whole_text(parts, position_bias=layer["attn_rel_b"].weight)),
        POSITION_BIAS,
    )


def _mixers() -> Iterator[Variation]:
    """Yield graphs with an operator that has a state of fixed size."""
    n_inner, n_keys, n_head = STATE_SIZES.n_inner, STATE_SIZES.n_keys, STATE_SIZES.n_head
    n_conv = n_inner + 2 * n_keys
    yield Variation(
        "a convolution",
        "Conv",
        partial(llama, mix=lambda x, layer: g.conv(x, layer["kernel"])),
        {"kernel.weight": (N_EMBD, 4), "kernel.bias": (N_EMBD,)},
    )
    yield Variation(
        "a gated delta net",
        "LinearAttention",
        partial(llama, mix=lambda x, layer: g.gated_delta_net(x, layer, STATE_SIZES, EPS, tiled=False)),
        {
            "attn_qkv.weight": (n_conv, N_EMBD),
            "attn_gate.weight": (n_inner, N_EMBD),
            "ssm_conv1d.weight": (n_conv, STATE_SIZES.kernel),
            "ssm_beta.weight": (n_head, N_EMBD),
            "ssm_alpha.weight": (n_head, N_EMBD),
            "ssm_dt.bias": (n_head,),
            "ssm_a": (n_head,),
            "ssm_norm.weight": (STATE_SIZES.size,),
            "ssm_out.weight": (N_EMBD, n_inner),
        },
    )
    yield Variation(
        "Mamba-2",
        "LinearAttention",
        partial(llama, mix=lambda x, layer: g.mamba2(x, layer, STATE_SIZES, EPS)),
        {
            "ssm_in.weight": (n_inner + n_conv + n_head, N_EMBD),
            "ssm_conv1d.weight": (n_conv, STATE_SIZES.kernel),
            "ssm_dt.bias": (n_head,),
            "ssm_a": (n_head, 1),
            "ssm_d": (n_head, 1),
            "ssm_norm.weight": (STATE_SIZES.n_group, n_inner // STATE_SIZES.n_group),
            "ssm_out.weight": (N_EMBD, n_inner),
        },
    )
    yield Variation(
        "a selective scan",
        "SelectiveScan",
        partial(llama, mix=_scan),
        {"ssm_a": (N_EMBD, 16), "ssm_d": (N_EMBD,), "ssm_x.weight": (N_EMBD + 32, N_EMBD)},
    )


_EXPERTS = {
    "ffn_gate_inp.weight": (N_EXPERT, N_EMBD),
    "ffn_gate_exps.weight": (N_EXPERT, 32, N_EMBD),
    "ffn_up_exps.weight": (N_EXPERT, 32, N_EMBD),
    "ffn_down_exps.weight": (N_EXPERT, N_EMBD, 32),
}


def _experts(x: g.Value, layer: g.Parameters) -> g.Value:
    return g.experts(x, layer, g.Routing(N_EXPERT, N_USED))


def _with_long_values(parts: Heads, layer: g.Parameters) -> g.Value:
    """Return attention whose values have twice the size of the keys; its first half is used."""
    q, k, v = parts
    return g.Slice(attend(q, k, g.concat(v, v)), 0, SIZE)


def _with_norms(parts: Heads, layer: g.Parameters) -> Heads:
    q, k, v = parts
    return g.rms_norm(q, layer["q_norm"], EPS), g.rms_norm(k, layer["q_norm"], EPS), v


def _scan(x: g.Value, layer: g.Parameters) -> g.Value:
    step, b, c = g.split(g.linear(x, layer["ssm_x"]), N_EMBD, 16, 16)
    a, d = layer.tensor("ssm_a"), layer.tensor("ssm_d")
    return g.SelectiveScan(x, g.activation(step, "softplus"), b, c, a, d)
