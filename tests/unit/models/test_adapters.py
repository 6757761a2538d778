"""Files of adapters are read, joined to the tensors that a graph needs, and refused if they do not fit the model."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import ModelError
from llamafw import graph as g
from llamafw.models.adapters import LoadedAdapter, adapt_model, read_control_vector, read_lora
from llamafw.testing.adapters import Arrays, random_factors, write_control_vector, write_lora
from llamafw.testing.tiny import write_tiny_gguf
from support.adapters import merged
from support.numba_backend import make_context

SHAPES = {"blk.0.attn_q.weight": (64, 64), "blk.1.ffn_down.weight": (64, 128), "token_embd.weight": (320, 64)}
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(12)]
Context = Any


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return make_context(write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", n_vocab=320))


def read(path: Path, context: Context) -> LoadedAdapter:
    return read_lora(path, context.model, context.quants, {})


def logits(context: Context, adapters: list[LoadedAdapter], strengths: list[float]) -> g.Array:
    adaptation, model = adapt_model(context.model, context.graph, adapters, context.quants)
    scales = np.array([0 if i < 0 else factor * strengths[i] for i, factor in adaptation.scales])
    result = g.evaluate(adaptation.graph, TOKENS, g.read_weights(model, context.quants), scales=scales)[1]
    assert result is not None
    return result


def expected(context: Context, *changes: tuple[Arrays, float]) -> g.Array:
    read = g.read_weights(context.model, context.quants)
    weights: dict[str, Any] = {name: read(name) for name in context.model.tensors}
    for factors, scale in changes:
        weights = merged(weights, factors, scale)
    weights["output.weight"] = read("token_embd.weight")

    def untied(value: g.Value) -> g.Value:
        if isinstance(value, g.Linear) and value.weight.name == "token_embd.weight":
            return g.Linear(value.x, g.Weight("output.weight", value.weight.shape))
        return value

    result = g.evaluate(g.rewrite(context.graph, untied), TOKENS, weights.__getitem__)[1]
    assert result is not None
    return result


def test_adapters_of_different_types_and_ranks_are_joined(context: Context, tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in random_factors(SHAPES, 4, 1).items()}
    first = read(write_lora(tmp_path / "a.gguf", halves, alpha=6.0, type_name="F16"), context)
    factors = random_factors(SHAPES, 3, 2)
    second = read(write_lora(tmp_path / "b.gguf", factors, alpha=0.0), context)

    got = logits(context, [first, second], [0.5, -0.8])
    rounded = {name: array.astype(np.float32) for name, array in halves.items()}
    wanted = expected(context, (rounded, 0.5 * 6 / 4), (factors, -0.8))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(logits(context, [first, second], [0, 0]), expected(context))


@pytest.mark.parametrize("type_name", ["F16", "F32"])
def test_tensors_keep_their_type(type_name: str, context: Context, tmp_path: Path) -> None:
    loaded = read(write_lora(tmp_path / "a.gguf", random_factors(SHAPES, 4, 1), type_name=type_name), context)
    adaptation, model = adapt_model(context.model, context.graph, [loaded, loaded], context.quants)
    assert {model.tensors[stack.name].type_name for stack in adaptation.stacks} == {type_name}


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_f32_tensors_get_16_bits_if_these_are_exact(type_name: str, context: Context, tmp_path: Path) -> None:
    factors = random_factors(SHAPES, 4, 1)
    for array in factors.values():
        bits = array.view(np.uint32)
        bits[...] = bits & 0xFFFF0000 if type_name == "BF16" else array.astype(np.float16).astype(np.float32).view("u4")
    loaded = read(write_lora(tmp_path / "a.gguf", factors), context)
    adaptation, model = adapt_model(context.model, context.graph, [loaded], context.quants)
    assert {model.tensors[stack.name].type_name for stack in adaptation.stacks} == {type_name}
    np.testing.assert_allclose(logits(context, [loaded], [1]), expected(context, (factors, 6 / 4)), rtol=0, atol=1e-10)


def test_joined_tensors_are_in_memory_only_while_they_are_read(context: Context, tmp_path: Path) -> None:
    files = [read(write_lora(tmp_path / f"{n}.gguf", random_factors(SHAPES, n, n)), context) for n in (3, 5)]
    adaptation, model = adapt_model(context.model, context.graph, files, context.quants)
    for stack in adaptation.stacks:
        tensor = model.tensors[stack.name]
        data = tensor.data
        assert tensor.data is data
        assert tensor.n_bytes == data.nbytes == 4 * np.prod(stack.shape)
        again = weakref.ref(data)
        del data
        assert again() is None


def test_tensors_of_files_stay_in_memory(context: Context, tmp_path: Path) -> None:
    files = [read(write_lora(tmp_path / f"{n}.gguf", random_factors(SHAPES, n, n)), context) for n in (3, 5)]
    n_bytes = [sum(tensor.n_bytes for tensor in one.tensors.values()) for one in files]
    assert [sum(tensor.held_bytes for tensor in one.tensors.values()) for one in files] == n_bytes
    for adapters in (files[:1], files):
        adaptation, model = adapt_model(context.model, context.graph, adapters, context.quants)
        held = sum(model.tensors[stack.name].held_bytes for stack in adaptation.stacks)
        assert held == sum(n_bytes[: len(adapters)])


def test_adapters_stay_as_they_were_when_their_files_are_overwritten(context: Context, tmp_path: Path) -> None:
    lora = read(write_lora(tmp_path / "lora.gguf", random_factors(SHAPES, 4, 1)), context)
    vector = write_control_vector(tmp_path / "vector.gguf", {1: np.ones(64, np.float32)})
    adapters = [lora, read_control_vector(vector, context.model, context.quants)]
    before = logits(context, adapters, [1, 1])
    for one in adapters:
        with one.path.open("r+b") as file:  # as cp does; the file is the same
            file.write(bytes(one.path.stat().st_size))
    np.testing.assert_array_equal(logits(context, adapters, [1, 1]), before)


def test_digest_is_that_of_the_numbers(context: Context, tmp_path: Path) -> None:
    factors = random_factors(SHAPES, 4, 1)
    one, same = (read(write_lora(tmp_path / name, factors), context) for name in ("a.gguf", "b.gguf"))
    scaled = read(write_lora(tmp_path / "c.gguf", factors, alpha=5.0), context)
    other = read(write_lora(tmp_path / "d.gguf", random_factors(SHAPES, 4, 2)), context)
    assert one.digest == same.digest
    assert len({one.digest, scaled.digest, other.digest}) == 3


def test_texts_of_the_file_are_read(context: Context, tmp_path: Path) -> None:
    keys = {"adapter.lora.task_name": "sql", "adapter.lora.prompt_prefix": "SELECT"}
    loaded = read(write_lora(tmp_path / "a.gguf", random_factors(SHAPES, 4, 1), metadata=keys), context)
    assert (loaded.task_name, loaded.prompt_prefix) == ("sql", "SELECT")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"general.type": "model"}, "general.type is 'model'"),
        ({"adapter.type": "vera"}, "adapter.type is 'vera'"),
        ({"adapter.lora.alpha": None}, "adapter.lora.alpha is None"),
        ({"adapter.lora.alpha": float("nan")}, "adapter.lora.alpha is nan"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, "aLoRA"),
    ],
    ids=["type", "method", "alpha", "nan", "alora"],
)
def test_other_kinds_of_files_are_refused(keys: dict[str, Any], words: str, context: Context, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.gguf", random_factors(SHAPES, 4, 1), metadata=keys)
    with pytest.raises(ModelError, match=words):
        read(path, context)


def test_other_architecture_is_refused(context: Context, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.gguf", random_factors(SHAPES, 4, 1), architecture="qwen3")
    with pytest.raises(ModelError, match="architecture 'qwen3'; the model's is 'llama'"):
        read(path, context)


def without(factors: Arrays, name: str) -> Arrays:
    return {one: array for one, array in factors.items() if one != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: without(f, "blk.0.attn_q.weight.lora_a"), "'blk.0.attn_q.weight.lora_b' is there without the other"),
        (lambda f: f | {"blk.0.attn_q.weight": np.zeros((2, 2), np.float32)}, "'blk.0.attn_q.weight' is neither"),
        (lambda f: f | {"blk.0.attn_q.weight.lora_a": np.zeros((5, 64), np.float32)}, r"shape \(5, 64\), but"),
        (lambda f: random_factors({"blk.0.attn_q.weight": (64, 32)}, 4, 0), r"'blk.0.attn_q.weight' .*\(4, 32\)"),
        (lambda f: random_factors({"blk.0.attn_q.weight": (8, 64)}, 4, 0), r"'blk.0.attn_q.weight' .*\(8, 4\)"),
        (lambda f: random_factors({"blk.7.attn_q.weight": (64, 64)}, 4, 0), "no tensor 'blk.7.attn_q.weight'"),
        (lambda f: {f"blk.0.attn_norm.weight.lora_{s}": np.zeros((1, 1), np.float32) for s in "ab"}, "attn_norm.*only"),
        (lambda f: {}, "has no tensors"),
    ],
    ids=["pair", "name", "rank", "columns", "rows", "layer", "vector", "empty"],
)
def test_tensors_that_do_not_fit_are_named(change: Any, words: str, context: Context, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.gguf", change(random_factors(SHAPES, 4, 1)))
    with pytest.raises(ModelError, match=words):
        adapt_model(context.model, context.graph, [read(path, context)], context.quants)


def test_damaged_files_are_refused(context: Context, tmp_path: Path) -> None:
    data = write_lora(tmp_path / "a.gguf", random_factors(SHAPES, 4, 1)).read_bytes()
    sizes = range(0, len(data), 397)
    assert len(sizes) > 20
    for size in sizes:
        (tmp_path / "cut.gguf").write_bytes(data[:size])
        with pytest.raises(ModelError):
            read(tmp_path / "cut.gguf", context)
    with pytest.raises(ModelError, match="does not exist"):
        read(tmp_path / "missing.gguf", context)
    with pytest.raises(ModelError, match="without adapter_config.json"):
        read(tmp_path, context)


@pytest.mark.parametrize("name", ["x" * 5000, "~no-such-user-here/a.gguf", "a\0b", ""])
def test_paths_that_cannot_be_opened_are_refused(name: str, context: Context) -> None:
    with pytest.raises(ModelError, match="cannot be opened|without adapter_config.json"):
        read(Path(name), context)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(number: float, context: Context, tmp_path: Path) -> None:
    factors = random_factors(SHAPES, 4, 1)
    factors["blk.1.ffn_down.weight.lora_b"][3, 1] = number
    with pytest.raises(ModelError, match="'blk.1.ffn_down.weight.lora_b' has numbers that are not finite"):
        read(write_lora(tmp_path / "a.gguf", factors), context)


@pytest.mark.parametrize("number", [2e18, -1e38])
def test_numbers_with_products_that_could_overflow_are_refused(number: float, context: Context, tmp_path: Path) -> None:
    factors = random_factors(SHAPES, 4, 1)
    factors["blk.1.ffn_down.weight.lora_a"][2, 7] = number
    with pytest.raises(ModelError, match="'blk.1.ffn_down.weight.lora_a' has numbers beyond 1e\\+18"):
        read(write_lora(tmp_path / "a.gguf", factors), context)
    vector = {1: np.full(64, number, np.float32)}
    with pytest.raises(ModelError, match="'direction.1' has numbers beyond 1e\\+18"):
        read_control_vector(write_control_vector(tmp_path / "v.gguf", vector), context.model, context.quants)


def directions(n: int = 64) -> dict[int, Any]:
    return {1: np.linspace(-1, 1, n, dtype=np.float32)}


def test_control_vectors_are_added_after_their_layer(context: Context, tmp_path: Path) -> None:
    read_weights = g.read_weights(context.model, context.quants)
    loaded = read_control_vector(write_control_vector(tmp_path / "v.gguf", directions()), context.model, context.quants)

    def add(value: g.Value) -> g.Value:
        if isinstance(value, g.LayerOutput) and value.layer == 1:
            return g.WeightAdd(value, g.Weight("direction", (64,)))
        return value

    def read_with_direction(name: str) -> g.Array:
        return -1.5 * directions()[1].astype(np.float64) if name == "direction" else read_weights(name)

    wanted = g.evaluate(g.rewrite(context.graph, add), TOKENS, read_with_direction)[1]
    assert wanted is not None
    np.testing.assert_allclose(logits(context, [loaded], [-1.5]), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("given", "layers", "words"),
    [
        ({0: directions()[1]}, None, "direction.0"),
        ({1: np.zeros(32, np.float32)}, None, r"direction.1' has shape \(32,\)"),
        (directions(), (2, 9), "no direction for the layers 2 to 9"),
        (directions() | {5: directions()[1]}, None, "no layer 5"),
    ],
    ids=["zero", "size", "range", "layer"],
)
def test_control_vectors_that_do_not_fit_are_refused(
    given: Any, layers: Any, words: str, context: Context, tmp_path: Path
) -> None:
    path = write_control_vector(tmp_path / "v.gguf", given)

    def load() -> None:
        loaded = read_control_vector(path, context.model, context.quants, layers)
        adapt_model(context.model, context.graph, [loaded], context.quants)

    with pytest.raises(ModelError, match=words):
        load()
