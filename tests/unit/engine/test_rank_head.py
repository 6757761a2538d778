"""Rank heads: scores of hidden states, and errors in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Batch, EmbedRequest, Floats, GenerationError, ModelError, NotSupported
from llamafw.engine import BatchingEngine
from llamafw.engine.rank_head import DenseLayer, RankHead, read_rank_head
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


def read(path: Path, **tensors: Any) -> RankHead | None:
    named = {name.replace("_", "."): np.asarray(value, np.float32) for name, value in tensors.items()}
    quants = Plugins().registry("quant")
    return read_rank_head(read_gguf(write_tiny_gguf(path / "m.gguf", tensors=named), quants), quants, 64)


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
