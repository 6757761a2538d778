"""Directions of control vectors are those that numpy finds in hidden states of float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import ModelError
from llamafw.cli.main import main
from llamafw.evaluation.directions import find_directions, observe_layers
from llamafw.models.adapters import read_control_vector
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf
from support.numba_backend import make_context

N_PAIRS, N_EMBD = 7, 24
PAIRS = [("I am happy", "I am sad"), ("what joy!", "what pain!"), ("so good", "so bad, so bad"), ("yes", "no")]


def differences(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N_PAIRS, 2, N_EMBD)) + 0.5 * rng.normal(size=N_EMBD)


def reference(rows: Any, method: str) -> Any:
    """Return a direction, by an eigenvector of the matrix of second moments."""
    mean = rows.mean(0)
    direction = np.linalg.eigh(rows.T @ rows)[1][:, -1] if method == "pca" else mean
    return direction / np.linalg.norm(direction) * np.sign(direction @ mean)


@pytest.mark.parametrize("method", ["pca", "mean"])
@pytest.mark.parametrize("seed", range(4))
def test_directions_are_those_of_numpy(seed: int, method: Literal["pca", "mean"]) -> None:
    rows, base = differences(seed), np.random.default_rng(99).normal(size=(N_PAIRS, 2 * N_EMBD))
    found = find_directions([3, 8], base + rows.reshape(N_PAIRS, -1), base, method)
    assert list(found) == [3, 8]
    for i, direction in enumerate(found.values()):
        np.testing.assert_allclose(direction, reference(rows[:, i], method), atol=1e-6)


def test_methods_find_different_directions() -> None:
    rows = differences(0).reshape(N_PAIRS, -1)
    pca, mean = (find_directions([1, 2], rows, np.zeros_like(rows), method) for method in ("pca", "mean"))
    assert abs(pca[1] @ mean[1]) < 0.999


def test_equal_and_infinite_outputs_are_refused() -> None:
    rows = differences(0).reshape(N_PAIRS, -1)
    with pytest.raises(ModelError, match="layer 1 do not differ"):
        find_directions([1, 2], rows, rows, "pca")
    with pytest.raises(ModelError, match="not finite"):
        find_directions([1, 2], np.where(rows == rows.max(), np.inf, rows), rows, "mean")


@pytest.mark.parametrize("method", ["pca", "mean"])
def test_command_writes_the_directions_of_the_model(method: str, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", n_layer=3)
    positive, negative, out = (tmp_path / name for name in ("positive.txt", "negative.txt", "vector.gguf"))
    positive.write_text("\n".join(one for one, _ in PAIRS) + "\n\n")
    negative.write_text("\n".join(other for _, other in PAIRS))
    files = ["--positive-file", str(positive), "--negative-file", str(negative), "-o", str(out)]
    assert main(["cvector", str(model), *files, "--method", method, "--quiet", "-t", "1", "--backend", "numba"]) == 0

    context = make_context(model)
    loaded = read_control_vector(out, context.model, context.quants)
    assert loaded.adapter.directions == {1: "direction.1", 2: "direction.2"}
    graph, layers = observe_layers(context.graph)
    assert layers == [1, 2]
    metadata = context.model.metadata
    tokenizer = Plugins().registry("tokenizer")[metadata["tokenizer.ggml.model"]](metadata)
    read = g.read_weights(context.model, context.quants)

    def last(text: str) -> Any:
        return g.evaluate(graph, tokenizer.encode(text, add_special=True, parse_special=True), read)[0][-1]

    rows = np.stack([last(one) - last(other) for one, other in PAIRS]).reshape(len(PAIRS), 2, -1)
    for i, name in enumerate(("direction.1", "direction.2")):
        direction = loaded.tensors[name].data.view(np.float32)
        np.testing.assert_allclose(direction, reference(rows[:, i], method), atol=2e-3)


@pytest.mark.parametrize(
    ("positive", "negative", "flags", "code", "words"),
    [
        ("a\nb", "a", [], 2, "--positive-file has 2 prompts, but --negative-file has 1"),
        ("\n", "a", [], 2, "has no prompts"),
        ("a", "b", ["-c", "1"], 0, ""),
        ("aaaa bbbb cccc", "b", ["-c", "2"], 2, "the context has 2"),
        ("a", "a", [], 1, "do not differ"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    positive: str,
    negative: str,
    flags: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "p.txt").write_text(positive)
    (tmp_path / "n.txt").write_text(negative)
    files = ["--positive-file", str(tmp_path / "p.txt"), "--negative-file", str(tmp_path / "n.txt")]
    out = ["-o", str(tmp_path / "v.gguf"), "--quiet", "-t", "1", "--backend", "numba", *flags]
    assert main(["cvector", str(model), *files, *out]) == code
    assert words in capsys.readouterr().err


def test_model_with_one_layer_is_refused(tmp_path: Path) -> None:
    context = make_context(write_tiny_gguf(tmp_path / "tiny.gguf", n_layer=1))
    with pytest.raises(ModelError, match="only one layer"):
        observe_layers(context.graph)
