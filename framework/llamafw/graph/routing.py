"""Mixtures of experts: which experts a token uses, with which weights, and their feed-forward block.

Independent of architectures, which say what a file without the keys means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llamafw.graph.blocks import gated_ffn
from llamafw.graph.builders import (
    activation,
    expert_linear,
    gather,
    heads,
    linear,
    normalise,
    softmax,
    split,
    top_k,
    weighted_sum,
)
from llamafw.graph.experts import GroupMask, SparseMixer
from llamafw.graph.metadata import Metadata
from llamafw.graph.rows import WeightAdd
from llamafw.graph.values import GraphError, Value
from llamafw.graph.weights import Parameter, Parameters

Gating = Literal["softmax", "sigmoid", "softmax of the chosen", "sparsemixer"]
"""How the scores of experts become their weights."""
_GATINGS: dict[int, Gating] = {1: "softmax", 2: "sigmoid", 3: "softmax of the chosen"}
_LEAST_SUM = 2.0**-14  # as in llama.cpp, smaller sums of weights count as this


@dataclass(frozen=True, slots=True)
class Routing:
    """How a mixture of experts chooses the experts of a token (arXiv:1701.06538)."""

    n_expert: int
    n_used: int  # experts of one token
    gating: Gating = "softmax"  # from the router's numbers to scores
    normalised: bool = True  # whether the weights of the chosen experts are divided by their sum
    scale: float = 1.0  # factor on the weights
    n_groups: int = 1  # of experts; only those in the best groups can be chosen (arXiv:2412.19437)
    n_groups_used: int = 1
    n_best: int = 2  # how many of a group's best scores are added up to compare groups


def routing(m: Metadata, *, gating: Gating = "softmax", normalised: bool = True) -> Routing:
    """Return the routing that a model's metadata describes.

    Parameters
    ----------
    m : Metadata
        The model's metadata: ``expert_count``, ``expert_used_count``, ``expert_gating_func`` and others.
    gating : {"softmax", "sigmoid", "softmax of the chosen", "sparsemixer"}
        The gating of models whose metadata do not name it.
    normalised : bool
        Whether weights are divided by their sum in models whose metadata do not say it.

    Raises
    ------
    ModelError
        A key is invalid or asks for something unsupported; the message names it.
    """
    n_expert = m.integer("expert_count")
    n_used = m.integer("expert_used_count", high=n_expert)
    function = m.integer("expert_gating_func", 0, low=0)  # 0: not given
    if function and function not in _GATINGS:
        m.fail("expert_gating_func", f"is {function}, an unknown gating function")

    n_groups = m.integer("expert_group_count", 0, low=0) or 1
    n_groups_used = m.integer("expert_group_used_count", 0, low=0) or n_groups
    if n_expert % n_groups or n_groups_used > n_groups or n_groups_used * (n_expert // n_groups) < n_used:
        m.fail("expert_group_count", f"is {n_groups}, which does not fit {n_expert} experts and {n_groups_used} groups")
    chosen = _GATINGS.get(function, gating)
    n_best = 1 if chosen == "softmax" else 2  # as in DeepSeek-V2 and V3
    if n_groups > 1 and n_expert // n_groups < n_best:
        m.fail("expert_group_count", f"is {n_groups}; each group must have {n_best} of the {n_expert} experts or more")
    return Routing(
        n_expert,
        n_used,
        chosen,
        m.flag("expert_weights_norm", normalised),
        m.number("expert_weights_scale", 0.0, low=0, allow_low=True) or 1.0,  # 0 in a file means 1
        n_groups,
        n_groups_used,
        n_best,
    )


def experts(
    x: Value,
    layer: Parameters,
    how: Routing,
    combine: Callable[[Value, Value], Value] | None = None,
    *,
    router: Value | None = None,
    weighs_inputs: bool = False,
) -> Value:
    """Return the feed-forward block of the experts that the router chooses for a token.

    Parameters
    ----------
    x : Value
        The input, ``(n_embd,)``.
    layer : Parameters
        The layer's parameters: ``ffn_gate_inp`` (the router), ``ffn_gate_exps`` and ``ffn_up_exps``, or both as
        ``ffn_gate_up_exps``, and ``ffn_down_exps``. If the file has ``exp_probs_b``, it is added to the scores for the
        choice, but not to the weights (arXiv:2408.15664).
    how : Routing
        How experts are chosen.
    combine : callable, optional
        Returns the hidden row of each expert from its gate and up rows. Default: ``silu(gate) · up``.
    router : Value, optional
        The router's output, one number per expert. Default: ``ffn_gate_inp · x``.
    weighs_inputs : bool
        Whether the inputs of the experts are multiplied by their weights, instead of their outputs. This is the same as
        to multiply ``gate`` and the output, if the experts have no biases.
    """
    chosen, weights = route(x, layer, how, router)
    down = expert_parameter(layer, "ffn_down_exps", how)
    if "ffn_gate_up_exps" in layer:
        n_ff, both = down.weight.shape[-1], expert_parameter(layer, "ffn_gate_up_exps", how)
        if both.weight.shape[1] != 2 * n_ff:
            other = f"{down.weight.name!r} has {down.weight.shape}"
            raise GraphError(f"the tensor {both.weight.name!r} has shape {both.weight.shape}, but {other}")
        gate, up = split(expert_linear(x, chosen, both), n_ff, n_ff)
    else:
        gate, up = (
            expert_linear(x, chosen, expert_parameter(layer, name, how)) for name in ("ffn_gate_exps", "ffn_up_exps")
        )
    if weighs_inputs:
        gate = gate * heads(weights, how.n_used)
    hidden = combine(gate, up) if combine else activation(gate, "silu") * up
    return weighted_sum(expert_linear(hidden, chosen, down), weights)


def shared_expert(x: Value, layer: Parameters, *, is_gated: bool = False) -> Value:
    """Return the feed-forward block ``ffn_*_shexp``, which every token uses beside the chosen experts.

    With a gate, it is multiplied by ``sigmoid(ffn_gate_inp_shexp · x)``.
    """
    y = gated_ffn(x, layer, suffix="_shexp")
    if not is_gated:
        return y
    return y * activation(linear(x, layer.of_shape("ffn_gate_inp_shexp", 1, x.shape[-1])), "sigmoid")


def route(x: Value, layer: Parameters, how: Routing, router: Value | None = None) -> tuple[Value, Value]:
    """Return the indices of a token's experts, and their weights, ``(n_used,)`` each; see `experts`."""
    numbers = router or linear(x, layer.of_shape("ffn_gate_inp", how.n_expert, x.shape[-1]))
    scores = numbers
    if how.gating in ("softmax", "sigmoid"):
        scores = softmax(numbers) if how.gating == "softmax" else activation(numbers, "sigmoid")

    choice = scores
    if layer.has_tensor("exp_probs_b.bias"):
        choice = WeightAdd(scores, layer.tensor("exp_probs_b.bias"))
    if how.n_groups > 1:
        choice = GroupMask(choice, how.n_groups, how.n_groups_used, how.n_best)
    chosen = top_k(choice, how.n_used)

    weights = SparseMixer(scores, chosen) if how.gating == "sparsemixer" else gather(scores, chosen)
    if how.gating == "softmax of the chosen":
        weights = softmax(weights)
    if how.normalised:
        weights = normalise(weights, _LEAST_SUM)
    return chosen, weights if how.scale == 1 else weights * how.scale


def expert_parameter(layer: Parameters, name: str, how: Routing) -> Parameter:
    """Return a parameter with one matrix per expert; GraphError if their number differs."""
    parameter = layer[name]
    shape = parameter.weight.shape
    if len(shape) != 3 or shape[0] != how.n_expert:
        raise GraphError(f"the tensor {parameter.weight.name!r} has shape {shape} for {how.n_expert} experts")
    return parameter
