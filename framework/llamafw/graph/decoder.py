"""Recognises Llama's graph and describes it as a `Decoder`, which backends run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from llamafw.graph.attention import Attention, Cache, Rope, Rotation
from llamafw.graph.model import Graph
from llamafw.graph.rows import Activation, Add, Embedding, LayerOutput, Linear, Mul, RMSNorm
from llamafw.graph.shapes import Reshape
from llamafw.graph.values import TOKENS, GraphError, Value
from llamafw.types import Decoder

Kind = TypeVar("Kind", bound=Value)

_PLAIN_ATTENTION = {"window": None, "softcap": None, "sinks": None, "alibi": (), "temperature": None}


@dataclass(frozen=True, slots=True)
class _Layer:
    """What the layers of a `Decoder` have in common, and one layer's tensors."""

    input: Value
    linears: dict[str, Linear]  # by role
    norms: dict[str, RMSNorm]
    q_rotation: Rotation
    attention: Attention
    function: str


def as_decoder(graph: Graph) -> Decoder:
    """Return the description of a graph with Llama's operators.

    Raises
    ------
    GraphError
        The graph has other operators; the message names the first one and its layer.
    """
    norm = _expect(graph.hidden, RMSNorm, "at the output")
    if graph.logits is None:
        raise GraphError("a model without logits is not supported by the backends")
    output = _expect(graph.logits, Linear, "at the output")
    layers = list(reversed(list(_layers(norm.x))))
    if output.x is not norm or output.bias is not None or output.scale is not None or not layers:
        raise _unsupported(output, "at the output")
    embedding = _expect(layers[0].input, Embedding, "at the input")
    if embedding.ids is not TOKENS or norm.weight is None:
        raise _unsupported(embedding, "at the input")

    first = layers[0]
    for i, layer in enumerate(layers):
        _check_same(layer, first, norm.eps, i)
    n_head, size = first.attention.q.shape
    return Decoder(
        n_vocab=output.shape[0],
        n_ctx_train=graph.n_ctx_train,
        n_embd=norm.shape[0],
        n_layer=len(layers),
        n_head=n_head,
        n_head_kv=first.attention.past.k.shape[0],
        n_embd_head=size,
        n_ff=first.linears["ffn_down"].x.shape[0],
        norm_eps=norm.eps,
        rope_frequencies=first.q_rotation.frequencies,
        rope_magnitude=first.q_rotation.magnitude,
        rope_interleaved=first.q_rotation.interleaved,
        attention_scale=first.attention.scale,
        activation=first.function,  # type: ignore[arg-type]  # `check_decoder` refuses others
        tensors={
            "token_embd": embedding.weight.name,
            "output_norm": norm.weight.name,
            "output": output.weight.name,
            **_roles(layers),
        },
    )


def _layers(x: Value) -> Iterator[_Layer]:
    """Yield the layers, from the last to the first."""
    while isinstance(x, LayerOutput):
        layer = _read_layer(x.x, f"in layer {x.layer}")
        yield layer
        x = layer.input


def _read_layer(x: Value, place: str) -> _Layer:
    """Return the parts of one layer, whose output is ``x``."""
    outer = _expect(x, Add, place)
    down = _expect(outer.b, Linear, place)
    product = _expect(down.x, Mul, place)
    function = _expect(product.a, Activation, place)
    gate, up = _expect(function.x, Linear, place), _expect(product.b, Linear, place)
    ffn_norm = _expect(gate.x, RMSNorm, place)

    inner = _expect(outer.a, Add, place)
    out = _expect(inner.b, Linear, place)
    attention = _expect(_expect(out.x, Reshape, place).x, Attention, place)
    past = _expect(attention.past, Cache, place)
    q_rope, k_rope = _expect(attention.q, Rope, place), _expect(past.k, Rope, place)
    q, k, v = (_expect(_expect(part, Reshape, place).x, Linear, place) for part in (q_rope.x, k_rope.x, past.v))
    attn_norm = _expect(q.x, RMSNorm, place)

    if up.x is not ffn_norm or ffn_norm.x is not inner or k.x is not attn_norm or v.x is not attn_norm:
        raise _unsupported(outer, place)
    if attn_norm.x is not inner.a or not _same_rotation(q_rope.rotation, k_rope.rotation):
        raise _unsupported(inner, place)
    if any(getattr(attention, name) != value for name, value in _PLAIN_ATTENTION.items()):
        raise _unsupported(attention, place)
    linears = {
        "attn_q": q,
        "attn_k": k,
        "attn_v": v,
        "attn_output": out,
        "ffn_gate": gate,
        "ffn_up": up,
        "ffn_down": down,
    }
    norms = {"attn_norm": attn_norm, "ffn_norm": ffn_norm}
    return _Layer(inner.a, linears, norms, q_rope.rotation, attention, function.function)


def _check_same(layer: _Layer, first: _Layer, eps: float, i: int) -> None:
    """Raise GraphError unless a layer differs from the first one in its tensors only."""
    same = (
        _same_rotation(layer.q_rotation, first.q_rotation)
        and layer.function == first.function
        and layer.attention.scale == first.attention.scale
        and all(layer.linears[role].weight.shape == one.weight.shape for role, one in first.linears.items())
        and all((layer.linears[role].bias is None) == (one.bias is None) for role, one in first.linears.items())
        and all(norm.eps == eps and norm.groups == 1 and norm.weight is not None for norm in layer.norms.values())
        and all(one.scale is None and one.weight.last is None for one in layer.linears.values())
    )
    if not same:
        raise GraphError(f"layer {i} differs from layer 0, which is not supported by the backends")


def _roles(layers: list[_Layer]) -> dict[str, str]:
    """Return the names of the layers' tensors by role, with ``{layer}`` for the layer's number."""
    names: list[dict[str, str]] = []
    for layer in layers:
        weights = {role: linear.weight for role, linear in layer.linears.items()}
        weights |= {f"{role}_bias": linear.bias for role, linear in layer.linears.items() if linear.bias is not None}
        weights |= {role: norm.weight for role, norm in layer.norms.items() if norm.weight is not None}
        names.append({role: weight.name for role, weight in weights.items()})
    patterns = {role: name.replace("blk.0.", "blk.{layer}.") for role, name in names[0].items()}
    for i, layer_names in enumerate(names):
        for role, name in layer_names.items():
            if patterns[role].format(layer=i) != name:
                raise GraphError(
                    f"the tensor {name!r} is not named like those of layer 0, which backends do not support"
                )
    return patterns


def _same_rotation(a: Rotation, b: Rotation) -> bool:
    numbers = [(one.magnitude, one.interleaved, one.offset, one.sections) for one in (a, b)]
    return numbers[0] == numbers[1] and a.offset == 0 and np.array_equal(a.frequencies, b.frequencies)


def _expect(value: Value, kind: type[Kind], place: str) -> Kind:
    if not isinstance(value, kind):
        raise _unsupported(value, place)
    return value


def _unsupported(value: Value, place: str) -> GraphError:
    return GraphError(
        f"the operator {type(value).__name__} {place} is not supported by the backends, which run Llama's graph"
    )
