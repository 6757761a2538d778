"""Rank heads: scores of hidden states, and errors in files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import Batch, EmbedRequest, Floats, GenerationError, Model, ModelError, NotSupported
from llamafw.engine import BatchingEngine
from llamafw.engine.dense_layers import DenseLayer, read_dense_layers
from llamafw.engine.rank_head import RankHead, read_rank_head
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf
from support.toy_model import N_EMBD, ToyBackend, random_logits

TEXT = tuple(range(40))
RNG = np.random.default_rng(5)
DENSE = DenseLayer(RNG.normal(size=(3, N_EMBD)), RNG.normal(size=3))
OUTPUT = DenseLayer(RNG.normal(size=(2, 3)), RNG.normal(size=2))
ALONE = DenseLayer(RNG.normal(size=(1, N_EMBD)), RNG.normal(size=1))
LAST = random_logits(TEXT)[:N_EMBD].astype(np.float64)
EXPECTED = {
    "both": (RankHead(DENSE, OUTPUT), (np.tanh(DENSE.weight @ LAST + DENSE.bias) @ OUTPUT.weight.T + OUTPUT.bias)[0]),
    "dense": (RankHead(DENSE, None), np.tanh(DENSE.weight @ LAST + DENSE.bias)[0]),
    "output": (RankHead(None, ALONE), (ALONE.weight @ LAST + ALONE.bias)[0]),
}


@pytest.mark.inventory("E-162", "C-107", "T-16")
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("n_batch", [1, 7, 32])
async def test_rank_scores_the_last_hidden_state(start: Callable[..., BatchingEngine], name: str, n_batch: int) -> None:
    head, score = EXPECTED[name]
    found = await start(ToyBackend(n_batch=n_batch), rank_head=head).embed(EmbedRequest(TEXT, "rank"))
    assert (found.vectors.shape, found.vectors.dtype.name, found.n_prompt) == ((1, 1), "float32", 40)
    assert found.vectors[0, 0] == pytest.approx(score, rel=1e-6)


async def test_hidden_states_of_wrong_width_fail_only_their_text(start: Callable[..., BatchingEngine]) -> None:
    class Narrow(ToyBackend):
        def hidden(self, batch: Batch) -> Floats:
            return super().hidden(batch)[:, : 3 if batch.tokens[0] == 9 else None]

    engine = start(Narrow(n_batch=40), rank_head=EXPECTED["output"][0])
    with pytest.raises(GenerationError, match="the model computed invalid hidden states"):
        await engine.embed(EmbedRequest((9, 1), "rank"))
    assert not engine.failed
    assert (await engine.embed(EmbedRequest(TEXT, "rank"))).vectors[0, 0] == pytest.approx(EXPECTED["output"][1])


async def test_model_without_rank_head_cannot_rank(start: Callable[..., BatchingEngine]) -> None:
    with pytest.raises(NotSupported, match="no rank head"):
        await start(ToyBackend()).embed(EmbedRequest(TEXT, "rank"))


PLUGINS = Plugins()
QUANTS = PLUGINS.registry("quant")


def open_tiny(path: Path, tensors: dict[str, Any]) -> tuple[Model, g.Graph]:
    """Return the tiny Llama with further tensors, and its graph; ``_`` stands for a dot."""
    named = {name.replace("_", "."): np.asarray(value, np.float32) for name, value in tensors.items()}
    model = read_gguf(write_tiny_gguf(path / "m.gguf", tensors=named), QUANTS)
    others = {name: tensor for name, tensor in model.tensors.items() if not name.startswith("cls.")}
    return model, PLUGINS.registry("architecture")["llama"](replace(model, tensors=others))


def read(path: Path, architecture: str = "llama", **tensors: Any) -> RankHead | None:
    model, graph = open_tiny(path, tensors)
    metadata = {
        **model.metadata,
        "general.architecture": architecture,
        "modern-bert.attention.layer_norm_epsilon": 1e-5,
    }
    return read_rank_head(replace(model, metadata=metadata), QUANTS, graph)


def test_rank_heads_are_read_from_files(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    weight, bias = RNG.normal(size=(1, 64)), [0.5]
    head = read(tmp_path, cls_output_weight=weight, cls_output_bias=bias)
    assert head
    state = RNG.normal(size=64).astype(np.float32)
    assert head.score(state) == pytest.approx((weight.astype(np.float32) @ state)[0] + 0.5, rel=1e-5)
    flat = read(tmp_path, cls_output_weight=weight[0])
    assert flat
    assert flat.score(state) == pytest.approx(head.score(state) - 0.5)
    both = read(tmp_path, cls_weight=RNG.normal(size=(4, 64)), cls_bias=np.zeros(4), cls_output_weight=np.ones((2, 4)))
    assert both
    assert abs(both.score(state)) <= 4


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"cls_output_weight": np.ones((1, 32))}, "cls.output.weight has 32 inputs instead of 64"),
        ({"cls_weight": np.ones((4, 64)), "cls_output_weight": np.ones((1, 64))}, "has 64 inputs instead of 4"),
        ({"cls_weight": np.ones((4, 64)), "cls_bias": np.ones(3)}, r"cls.bias has shape \(3,\)"),
    ],
)
def test_rank_heads_of_wrong_shape_are_model_errors(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path, **tensors)


def test_modern_bert_has_gelu_a_norm_and_the_mean(tmp_path: Path) -> None:
    torch_like = {"cls_weight": RNG.normal(size=(64, 64)), "cls_norm_weight": RNG.normal(size=64)}
    output = RNG.normal(size=(1, 64))
    head = read(tmp_path, "modern-bert", **torch_like, cls_output_weight=output, cls_output_bias=[0.25])
    assert head
    assert head.state == "mean"
    state = RNG.normal(size=64).astype(np.float32)

    inner = torch_like["cls_weight"].astype(np.float32).astype(np.float64) @ state
    inner = np.array([x * 0.5 * (1 + erf(x / 2**0.5)) for x in inner])
    inner = (inner - inner.mean()) / np.sqrt(inner.var() + 1e-5) * torch_like["cls_norm_weight"].astype(np.float32)
    assert head.score(state) == pytest.approx((output.astype(np.float32) @ inner)[0] + 0.25, rel=1e-6)
    with pytest.raises(ModelError, match=r"cls.norm.weight has shape \(3,\)"):
        read(tmp_path, "modern-bert", cls_weight=np.ones((4, 64)), cls_norm_weight=np.ones(3))


def test_qwen3_has_the_share_of_yes(tmp_path: Path) -> None:
    weight = RNG.normal(size=(2, 64)).astype(np.float32)
    head = read(tmp_path, "qwen3", cls_output_weight=weight)
    assert head
    assert head.state == "last"
    state = RNG.normal(size=64).astype(np.float32)
    yes, no = np.exp(weight.astype(np.float64) @ state)
    assert head.score(state) == pytest.approx(yes / (yes + no))
    assert head.score(1e30 * state) == pytest.approx(float(yes > no))


@pytest.mark.parametrize(("state", "pooling"), [("first", "cls"), ("mean", "mean"), ("last", "last")])
async def test_heads_score_their_state(start: Callable[..., BatchingEngine], state: Any, pooling: Any) -> None:
    engine = start(ToyBackend(n_batch=7), rank_head=RankHead(None, ALONE, state))
    pooled = (await engine.embed(EmbedRequest(TEXT, pooling))).vectors[0]
    score = (await engine.embed(EmbedRequest(TEXT, "rank"))).vectors[0, 0]
    assert score == pytest.approx(ALONE.weight[0] @ pooled + ALONE.bias[0], rel=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "none"])
async def test_dense_layers_follow_the_pooling(start: Callable[..., BatchingEngine], pooling: Any) -> None:
    plain = (await start(ToyBackend()).embed(EmbedRequest(TEXT, pooling))).vectors
    engine = start(ToyBackend(), dense=(DENSE, OUTPUT))
    found = (await engine.embed(EmbedRequest(TEXT, pooling))).vectors
    expected = (plain @ DENSE.weight.T + DENSE.bias) @ OUTPUT.weight.T + OUTPUT.bias
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32


def test_dense_layers_are_read_from_files(tmp_path: Path) -> None:
    arrays = {"dense_2.weight": RNG.normal(size=(96, 64)), "dense_3.weight": RNG.normal(size=(32, 96))}
    tensors = {name: array.astype(np.float32) for name, array in arrays.items()}
    model = read_gguf(write_tiny_gguf(tmp_path / "m.gguf", tensors=tensors), QUANTS)
    layers = read_dense_layers(model, QUANTS, 64)
    assert [layer.weight.shape for layer in layers] == [(96, 64), (32, 96)]
    with pytest.raises(ModelError, match=r"dense_2.weight has 64 inputs instead of 48"):
        read_dense_layers(model, QUANTS, 48)
