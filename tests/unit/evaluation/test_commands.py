"""``llamafw perplexity`` and ``llamafw imatrix`` against the float64 evaluation of the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import llamafw.graph as g
from checkpoints import all_checkpoints
from checkpoints.folders import write_folder
from llamafw.cli.main import main
from llamafw.evaluation.base_logits import read_base
from llamafw.models.gguf import read_gguf
from llamafw.models.imatrix import read_imatrix
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf

PLUGINS = Plugins()
QUANTS = PLUGINS.registry("quant")
TEXT = "".join(f"line {i}: the quick brown fox jumps over {i * i} lazy dogs.\n" for i in range(8))
N_CTX = 32

Doubles = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two models of the same vocabulary, and a text."""
    path = tmp_path_factory.mktemp("models")
    for name, seed in (("one", 0), ("two", 1)):
        write_tiny_gguf(path / f"{name}.gguf", seed=seed, metadata={"tokenizer.ggml.add_bos_token": True})
    (path / "text.txt").write_text(TEXT)
    return path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs a command and returns the JSON that it prints."""

    def run_command(*words: object) -> Any:
        flags = ["-c", str(N_CTX), "-ctk", "f32", "-ctv", "f32", "--json", "--quiet"]
        assert main([*map(str, words), *flags]) == 0
        return json.loads(capsys.readouterr().out)

    return run_command


def skip_without(backend: str) -> None:
    if backend == "onnx":
        pytest.importorskip("onnxruntime")


def chunks(folder: Path) -> tuple[list[list[int]], int]:
    """Return the tokens of each chunk, and BOS."""
    model = read_gguf(folder / "one.gguf", QUANTS)
    tokenizer = PLUGINS.registry("tokenizer")[model.metadata["tokenizer.ggml.model"]](model.metadata)
    tokens = tokenizer.encode(TEXT, add_special=True, parse_special=False)
    assert tokens[0] == tokenizer.bos
    return [tokens[i : i + N_CTX] for i in range(0, len(tokens) - N_CTX + 1, N_CTX)], tokenizer.bos


def log_probabilities(folder: Path, name: str) -> Doubles:
    """Return the logarithms of the probabilities of the second half of each chunk, (n_chunks, n, n_vocab)."""
    model = read_gguf(folder / f"{name}.gguf", QUANTS)
    graph, found = PLUGINS.registry("architecture")["llama"](model), []
    parts, bos = chunks(folder)
    for tokens in parts:
        _, logits = g.evaluate(graph, [bos, *tokens[1:]], g.read_weights(model, QUANTS))
        assert logits is not None
        found.append(logits[N_CTX // 2 : -1] - np.log(np.exp(logits[N_CTX // 2 : -1]).sum(1, keepdims=True)))
    return np.array(found)


def losses(folder: Path, name: str) -> Doubles:
    """Return −ln p of each token that counts."""
    targets = np.array(chunks(folder)[0])[:, N_CTX // 2 + 1 :]
    return -np.take_along_axis(log_probabilities(folder, name), targets[..., None], -1).reshape(-1)


@pytest.mark.parametrize("backend", ["numba", "onnx"])
def test_perplexity_is_that_of_the_second_halves(folder: Path, run: Any, backend: str) -> None:
    skip_without(backend)
    expected = losses(folder, "one")
    found = run("perplexity", folder / "one.gguf", folder / "text.txt", "--backend", backend)
    assert found["n_tokens"] == expected.size
    assert found["perplexity"] == pytest.approx(np.exp(expected.mean()), rel=1e-3)
    error = np.exp(expected.mean()) * expected.std() / np.sqrt(expected.size - 1)
    assert found["error"] == pytest.approx(error, rel=1e-2)


def test_number_of_chunks_can_be_limited(folder: Path, run: Any) -> None:
    found = run("perplexity", folder / "one.gguf", folder / "text.txt", "--chunks", 1)
    expected = losses(folder, "one")[: N_CTX // 2 - 1]
    assert found["n_tokens"] == expected.size
    assert found["perplexity"] == pytest.approx(np.exp(expected.mean()), rel=1e-3)


def test_predictions_of_two_models_are_compared(folder: Path, tmp_path: Path, run: Any) -> None:
    base = tmp_path / "base.kld"
    run("perplexity", folder / "one.gguf", folder / "text.txt", "--save-all-logits", base)
    found = run("perplexity", folder / "two.gguf", "--kl-divergence", "--kl-divergence-base", base)

    one, two = (log_probabilities(folder, name) for name in ("one", "two"))
    divergences = (np.exp(one) * (one - two)).sum(-1).reshape(-1)
    assert found["kl_divergence"]["mean"] == pytest.approx(divergences.mean(), rel=2e-3)
    assert found["kl_divergence"]["max"] == pytest.approx(divergences.max(), rel=1e-2)
    assert found["kl_divergence"]["quantiles"]["90"] == pytest.approx(np.quantile(divergences, 0.9), rel=1e-2)
    floor = (one.max(-1) - 16).reshape(-1)  # the lowest step of a file also stands for all below
    base_losses = np.minimum(losses(folder, "one"), -floor)
    assert found["base_perplexity"] == pytest.approx(np.exp(base_losses.mean()), rel=1e-3)
    assert found["perplexity"] == pytest.approx(np.exp(losses(folder, "two").mean()), rel=1e-3)
    ratios = losses(folder, "two") - base_losses
    assert found["log_ratio"]["mean"] == pytest.approx(ratios.mean(), abs=1e-3)
    differences = np.exp(-losses(folder, "two")) - np.exp(-base_losses)
    assert found["rms_difference"] == pytest.approx(np.sqrt(np.square(differences).mean()), rel=1e-2)
    assert found["same_top"]["mean"] == pytest.approx((one.argmax(-1) == two.argmax(-1)).mean(), abs=0.02)


def test_model_does_not_differ_from_itself(folder: Path, tmp_path: Path, run: Any) -> None:
    base = tmp_path / "base.kld"
    run("perplexity", folder / "one.gguf", folder / "text.txt", "--save-all-logits", base)
    found = run("perplexity", folder / "one.gguf", "--kl-divergence", "--kl-divergence-base", base)
    assert abs(found["kl_divergence"]["mean"]) < 1e-5
    assert found["same_top"]["mean"] > 0.98


def test_file_of_predictions_has_the_layout_of_llama_cpp(folder: Path, tmp_path: Path, run: Any) -> None:
    """A row: two floats, and 16-bit steps from the lowest to the highest logarithm; an even number of them."""
    base = tmp_path / "base.kld"
    run("perplexity", folder / "one.gguf", folder / "text.txt", "--save-all-logits", base)
    data, parts = base.read_bytes(), chunks(folder)[0]
    expected = log_probabilities(folder, "one")
    n_vocab = expected.shape[-1]
    assert data[:8] == b"_logits_"
    assert np.frombuffer(data, "<i4", 3, 8).tolist() == [N_CTX, n_vocab, len(parts)]
    tokens = np.frombuffer(data, "<i4", N_CTX * len(parts), 20)
    assert tokens.tolist() == [token for part in parts for token in part]
    row = np.frombuffer(data, "<u2", offset=20 + tokens.nbytes)[: 4 + n_vocab]
    scale, low = row[:4].view("<f4")
    np.testing.assert_allclose(low + scale * row[4:].astype(np.float64), expected[0, 0], atol=2e-3)
    floor = expected.max(-1, keepdims=True) - 16  # the lowest step also stands for all below
    np.testing.assert_allclose(np.array(list(read_base(base))), np.maximum(expected, floor), atol=2e-3)


@pytest.mark.parametrize("backend", ["numba", "onnx"])
def test_importance_is_the_mean_square_of_inputs(folder: Path, tmp_path: Path, backend: str) -> None:
    skip_without(backend)
    path = tmp_path / "imatrix.gguf"
    words = ["imatrix", folder / "one.gguf", folder / "text.txt", "-o", path, "-c", N_CTX]
    assert main([*map(str, words), "-ctk", "f32", "-ctv", "f32", "--backend", backend]) == 0
    model = read_gguf(folder / "one.gguf", QUANTS)
    graph = PLUGINS.registry("architecture")["llama"](model)
    matrices = {one.weight.name: one.x for one in graph if isinstance(one, g.Linear) and "blk." in one.weight.name}
    evaluator, (parts, bos) = g.Evaluator(graph, g.read_weights(model, QUANTS)), chunks(folder)
    rows = [evaluator([bos, *part[1:]], g.TextState(graph, N_CTX), *matrices.values()) for part in parts]

    imatrix = read_imatrix(path, QUANTS)
    assert imatrix.entries.keys() == matrices.keys()
    assert (imatrix.n_chunks, imatrix.datasets) == (len(parts), (str(folder / "text.txt"),))
    for name, inputs in zip(matrices, zip(*rows, strict=True), strict=True):
        expected = np.square(np.concatenate(inputs)).mean(0)
        np.testing.assert_allclose(imatrix.entries[name], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["perplexity"], 2, "TEXT is missing"),
        (["perplexity", "ONE", "TEXT", "more"], 2, "unexpected argument"),
        (["perplexity", "-m", "ONE", "ONE", "TEXT"], 2, "the model is already named"),
        (["perplexity", "ONE", "missing.txt"], 2, "the text missing.txt cannot be read"),
        (["perplexity", "ONE", "TEXT", "-c", "4096"], 2, "it must have at least 8192"),
        (["perplexity", "ONE", "TEXT", "-c", "4"], 2, "it must have at least 8"),
        (["perplexity", "ONE", "--kl-divergence"], 2, "--kl-divergence needs --kl-divergence-base"),
        (["perplexity", "ONE", "--kl-divergence", "--kl-divergence-base", "TEXT"], 1, "is not a file of --save-all"),
        (["perplexity", "ONE", "TEXT", "--save-all-logits", "TEXT"], 1, "exists; --force replaces it"),
        (["imatrix", "ONE", "TEXT", "-o", "TEXT"], 1, "exists; --force replaces it"),
        (["imatrix", "ONE", "ONE"], 2, "is not UTF-8"),
    ],
)
def test_invalid_arguments_are_an_error(
    folder: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"ONE": str(folder / "one.gguf"), "TEXT": str(folder / "text.txt")}
    assert main([paths.get(word, word) for word in words]) == code
    assert message in capsys.readouterr().err


def test_damaged_files_of_predictions_are_an_error(folder: Path, tmp_path: Path, run: Any, capsys: Any) -> None:
    base = tmp_path / "base.kld"
    run("perplexity", folder / "one.gguf", folder / "text.txt", "--save-all-logits", base)
    base.write_bytes(base.read_bytes()[:-2])
    words = ["perplexity", str(folder / "one.gguf"), "--kl-divergence", "--kl-divergence-base", str(base)]
    assert main(words) == 1
    assert "is damaged: it has" in capsys.readouterr().err


def write_checkpoint(name: str, folder: Path) -> Path:
    (checkpoint,) = [one for one in all_checkpoints() if one.name == name]
    return write_folder(checkpoint, folder)


@pytest.mark.parametrize("command", ["perplexity", "imatrix"])
def test_chunks_are_not_longer_than_the_positions_of_the_model(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("abcdefgh " * 100)
    write_checkpoint("gpt2", Path("gpt2"))  # has embeddings for 128 positions
    assert main([command, "gpt2", "text.txt", "-c", "129"]) == 2
    assert "--ctx-size: chunks of 129 tokens do not fit; gpt2 has 128 positions" in capsys.readouterr().err
    assert main([command, "gpt2", "text.txt", "--quiet"]) == 0


def test_predictions_of_longer_chunks_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("abcdefgh " * 100)
    write_checkpoint("gpt2", Path("gpt2"))
    write_checkpoint("llama", Path("llama"))  # rotates positions, of which it has any number
    assert main(["perplexity", "llama", "text.txt", "-c", "130", "--save-all-logits", "base.kld", "--quiet"]) == 0
    assert main(["perplexity", "gpt2", "--kl-divergence", "--kl-divergence-base", "base.kld"]) == 2
    assert "base.kld: chunks of 130 tokens do not fit; gpt2 has 128 positions" in capsys.readouterr().err


def test_flags_of_plugins_reach_the_backend(folder: Path, run: Any, tmp_path: Path) -> None:
    """Activations of 8 bits change the result a little."""
    model = write_tiny_gguf(tmp_path / "m.gguf", types="Q8_0", metadata={"tokenizer.ggml.add_bos_token": True})
    words = ("perplexity", model, folder / "text.txt")
    exact, same, rounded = (
        run(*words, *more)["perplexity"]
        for more in ((), ("--numba-activations", "int15"), ("--numba-activations", "int8"))
    )
    assert exact == same != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


def test_flags_of_plugins_are_checked(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text, config = str(folder / "text.txt"), tmp_path / "llamafw.toml"
    for command in (["bench"], ["perplexity", text], ["imatrix", text], ["cvector"]):
        assert main([*command, "--numba-activations", "int4"]) == 2
        assert "--numba-activations: invalid choice: 'int4' (choose from 'int15', 'int8')" in capsys.readouterr().err
        config.write_text("numba-activations = 'int4'\n")
        assert main([*command, "--config", str(config)]) == 2
        assert f"{config}: numba-activations: 'int4' is not one of int15, int8" in capsys.readouterr().err


def test_benchmarks_take_the_flags_of_plugins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--numba-activations", "int8", "-p", "8", "-n", "2", "-r", "1", "-t", "1", "--json"]
    assert main(["bench", "-m", str(folder / "one.gguf"), *flags]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [row["test"] for row in results] == ["pp8", "tg2"]
