"""Routing: what metadata mean, and mixtures of experts against plain numpy."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import Model, ModelError

N_EMBD, N_FF, N_EXPERT, N_TOKENS = 6, 5, 8, 4
EXPERTS = {"expert_count": N_EXPERT, "expert_used_count": 3}


def metadata(**keys: Any) -> g.Metadata:
    named = {f"tiny.{key}": value for key, value in (EXPERTS | keys).items()}
    return g.Metadata(Model(Path("tiny.gguf"), MappingProxyType(named), MappingProxyType({}), 0), "tiny")


def test_metadata_describe_the_routing() -> None:
    assert g.routing(metadata()) == g.Routing(N_EXPERT, 3, n_best=1)
    how = g.routing(
        metadata(
            expert_gating_func=2,
            expert_weights_norm=False,
            expert_weights_scale=2.5,
            expert_group_count=4,
            expert_group_used_count=2,
        )
    )
    assert how == g.Routing(N_EXPERT, 3, "sigmoid", False, 2.5, 4, 2)


def test_architectures_have_their_own_defaults() -> None:
    how = g.routing(metadata(expert_gating_func=0, expert_weights_scale=0.0), gating="sigmoid", normalised=False)
    assert how == g.Routing(N_EXPERT, 3, "sigmoid", False, 1.0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("expert_count", 0, "tiny.expert_count is 0; it must be a whole number from 1"),
        ("expert_used_count", 9, "tiny.expert_used_count is 9; it must be a whole number from 1 to 8"),
        ("expert_gating_func", 9, "tiny.expert_gating_func is 9, an unknown gating function"),
        ("expert_weights_norm", 1, "tiny.expert_weights_norm is 1; it must be true or false"),
        ("expert_group_count", 3, "tiny.expert_group_count is 3, which does not fit 8 experts"),
    ],
)
def test_invalid_routing_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        g.routing(metadata(**{key: value}))
    assert f"tiny.gguf: {message}" in str(caught.value)


def test_groups_without_enough_experts_are_refused() -> None:
    assert g.routing(metadata(expert_group_count=8, expert_gating_func=1)).n_groups == 8
    with pytest.raises(ModelError, match=r"tiny\.expert_group_count is 8; each group must have 2 of the 8 experts"):
        g.routing(metadata(expert_group_count=8, expert_gating_func=2))


def softmax(x: Any) -> Any:
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def sparse_mixer(numbers: Any, chosen: list[int]) -> Any:
    """Return the weights of the chosen experts: of the numbers that are left, those more than 2% away are masked."""
    weights, left = [], numbers.copy()
    for e in chosen:
        distance = (numbers[e] - numbers) / np.maximum(abs(numbers), numbers[e])
        weights.append(softmax(np.where(distance > 0.02, -np.inf, left))[e])
        left[e] = -np.inf
    return np.array(weights)


def numpy_experts(x: Any, w: dict[str, Any], how: g.Routing) -> Any:
    """Return the output of a mixture of experts for each token, ``(n_tokens, n_embd)``."""
    rows = []
    for row in x:
        numbers = w["ffn_gate_inp.weight"] @ row
        scores = softmax(numbers) if how.gating == "softmax" else numbers
        if how.gating == "sigmoid":
            scores = 1 / (1 + np.exp(-numbers))
        choice = scores + w.get("exp_probs_b.bias", 0)
        groups = np.arange(N_EXPERT) // (N_EXPERT // how.n_groups)
        best = sorted(range(how.n_groups), key=lambda group: -np.sort(choice[groups == group])[-how.n_best :].sum())
        allowed = [e for e in range(N_EXPERT) if groups[e] in best[: how.n_groups_used]]
        chosen = sorted(allowed, key=lambda e: -choice[e])[: how.n_used]

        weights = scores[chosen]
        if how.gating == "softmax of the chosen":
            weights = softmax(weights)
        if how.gating == "sparsemixer":
            weights = sparse_mixer(scores, chosen)
        if how.normalised:
            weights = weights / weights.sum()
        parts = []
        for e in chosen:
            gate, up = w["ffn_gate_exps.weight"][e] @ row, w["ffn_up_exps.weight"][e] @ row
            parts.append(w["ffn_down_exps.weight"][e] @ (gate / (1 + np.exp(-gate)) * up))
        rows.append(how.scale * weights @ np.array(parts))
    return np.array(rows)


@pytest.mark.parametrize(
    "how",
    [
        g.Routing(N_EXPERT, 3),
        g.Routing(N_EXPERT, 3, normalised=False, scale=2.5),
        g.Routing(N_EXPERT, 3, "sigmoid"),
        g.Routing(N_EXPERT, 2, "softmax of the chosen", normalised=False),
        g.Routing(N_EXPERT, 2, "sparsemixer", normalised=False),
        g.Routing(N_EXPERT, 3, "sigmoid", n_groups=4, n_groups_used=2),
        g.Routing(N_EXPERT, 3, n_groups=4, n_groups_used=2, n_best=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_fused", [False, True])
def test_experts_match_numpy(how: g.Routing, has_bias: bool, is_fused: bool) -> None:
    rng = np.random.default_rng(0)
    w = {
        "token_embd.weight": rng.normal(size=(N_TOKENS, N_EMBD)),
        "ffn_gate_inp.weight": rng.normal(size=(N_EXPERT, N_EMBD)),
        "ffn_gate_exps.weight": rng.normal(size=(N_EXPERT, N_FF, N_EMBD)),
        "ffn_up_exps.weight": rng.normal(size=(N_EXPERT, N_FF, N_EMBD)),
        "ffn_down_exps.weight": rng.normal(size=(N_EXPERT, N_EMBD, N_FF)),
    }
    if how.gating == "sparsemixer":
        w["ffn_gate_inp.weight"] = 5 + 0.05 * w["ffn_gate_inp.weight"]  # so that some numbers are close to each other
    if has_bias:
        w["exp_probs_b.bias"] = rng.normal(size=N_EXPERT)
    expected = numpy_experts(w["token_embd.weight"], w, how)
    if is_fused:
        halves = [w.pop(f"ffn_{role}_exps.weight") for role in ("gate", "up")]
        w["ffn_gate_up_exps.weight"] = np.concatenate(halves, 1)

    parameters = g.Parameters({name: array.shape for name, array in w.items()})
    output = g.experts(g.embedding(g.TOKENS, parameters["token_embd"]), parameters, how)
    found, _ = g.evaluate(g.Graph(output, None, 8), range(N_TOKENS), w.__getitem__)
    assert parameters.unused() == []
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_another_number_of_experts_is_refused() -> None:
    shapes = {
        "token_embd.weight": (2, N_EMBD),
        "ffn_gate_inp.weight": (N_EXPERT, N_EMBD),
        "ffn_gate_exps.weight": (7, N_FF, N_EMBD),
        "ffn_up_exps.weight": (N_EXPERT, N_FF, N_EMBD),
        "ffn_down_exps.weight": (N_EXPERT, N_EMBD, N_FF),
    }
    parameters = g.Parameters(shapes)
    with pytest.raises(g.GraphError, match=r"'ffn_gate_exps.weight' has shape \(7, 5, 6\) for 8 experts"):
        g.experts(g.embedding(g.TOKENS, parameters["token_embd"]), parameters, g.Routing(N_EXPERT, 3))
