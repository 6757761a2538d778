"""Recognises graphs like Llama's and describes them as a `Decoder`, which backends run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from llamafw.graph.attention import Attention, Cache, Rope, Rotation
from llamafw.graph.model import Graph
from llamafw.graph.rows import Activation, Add, EmbeddingLookup, LayerOutput, Linear, Mul, RMSNorm
from llamafw.graph.shapes import Reshape
from llamafw.graph.values import TOKENS, GraphError, Value
from llamafw.graph.weights import Weight
from llamafw.types import Decoder

Kind = TypeVar("Kind", bound=Value)

_PLAIN_ATTENTION = {"window": None, "softcap": None, "sinks": None, "alibi": (), "temperature": None}


@dataclass(frozen=True, slots=True)
class _DecoderLayer:
    """The operators of one layer, by the roles that a `Decoder` gives their tensors."""

    input: Value
    linears: dict[str, Linear]  # by role
    norms: dict[str, RMSNorm]
    q_rotation: Rotation
    attention: Attention
    function: str


def as_decoder(graph: Graph) -> Decoder:
    """Return the `Decoder` that describes a graph with Llama's operators.

    Raises
    ------
    GraphError
        The graph has other operators; the message names one of them and its layer.
    """
    norm = _expect(graph.hidden, RMSNorm, "at the output")
    if graph.logits is None:
        raise GraphError("models without logits are not supported by the backends")
    output = _expect(graph.logits, Linear, "at the output")
    layers = list(reversed(list(_layers(norm.x))))
    if output.x is not norm or output.bias is not None or not layers:
        raise _unsupported(output, "at the output")
    embedding = _expect(layers[0].input, EmbeddingLookup, "at the input")
    if embedding.ids is not TOKENS:
        raise _unsupported(embedding, "at the input")
    if norm.weight is None or norm.groups != 1:
        raise _unsupported(norm, "at the output")
    _check_whole(embedding.weight)
    _check_whole(output.weight, output.scale)

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


def _layers(x: Value) -> Iterator[_DecoderLayer]:
    """Yield the layers, from the last to the first."""
    while isinstance(x, LayerOutput):
        layer = _read_layer(x.x, f"in layer {x.layer}")
        yield layer
        x = layer.input


def _read_layer(x: Value, place: str) -> _DecoderLayer:
    """Return the parts of the layer whose output is ``x``."""
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
    if past.k.shape != past.v.shape:
        raise _unsupported(past, place)
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
    return _DecoderLayer(inner.a, linears, norms, q_rope.rotation, attention, function.function)


def _check_same(layer: _DecoderLayer, first: _DecoderLayer, eps: float, i: int) -> None:
    """Raise GraphError if layer ``i`` cannot be described together with the first one: only tensors may differ."""
    for linear in layer.linears.values():
        _check_whole(linear.weight, linear.scale)
    for norm in layer.norms.values():
        if norm.groups != 1 or norm.weight is None:
            raise _unsupported(norm, f"in layer {i}")
        if norm.eps != eps:
            raise GraphError(
                f"the norms of layer {i} have eps {norm.eps} and the output norm {eps}; backends support one value only"
            )

    same = (
        _same_rotation(layer.q_rotation, first.q_rotation)
        and layer.function == first.function
        and layer.attention.scale == first.attention.scale
        and all(layer.linears[role].weight.shape == one.weight.shape for role, one in first.linears.items())
        and all((layer.linears[role].bias is None) == (one.bias is None) for role, one in first.linears.items())
    )
    if not same:
        raise GraphError(f"layer {i} differs from layer 0, which is not supported by the backends")


def _check_whole(weight: Weight, scale: Weight | None = None) -> None:
    """Raise GraphError if only some rows of a tensor are used, or if it has a scale."""
    if weight.last is not None:
        raise GraphError(f"only some rows of the tensor {weight.name!r} are used, which backends do not support")
    if scale is not None:
        raise GraphError(f"the tensor {scale.name!r} scales a product, which backends do not support")


def _roles(layers: list[_DecoderLayer]) -> dict[str, str]:
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
                expected = patterns[role].format(layer=i)
                raise GraphError(f"layer {i} uses the tensor {name!r} as {role}; backends expect {expected!r}")
    return patterns


def _same_rotation(a: Rotation, b: Rotation) -> bool:
    numbers = [(one.magnitude, one.interleaved, one.offset, one.sections) for one in (a, b)]
    is_plain = a.offset == 0 and a.long_frequencies is None
    return is_plain and numbers[0] == numbers[1] and np.array_equal(a.frequencies, b.frequencies)


def _expect(value: Value, kind: type[Kind], place: str) -> Kind:
    if not isinstance(value, kind):
        raise _unsupported(value, place)
    return value


def _unsupported(value: Value, place: str) -> GraphError:
    return GraphError(
        f"the operator {type(value).__name__} {place} is not supported by the backends, which run Llama's graph"
    )
