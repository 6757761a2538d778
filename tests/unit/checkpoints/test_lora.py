"""LoRA adapters of PEFT become adapters of llama.cpp that change the converted model in the same way."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from checkpoints import all_checkpoints
from checkpoints.folders import config_path, conversions, write_folder
from llamafw import Model, ModelError
from llamafw.checkpoints import open_adapter, open_checkpoint
from llamafw.cli.main import main
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer

Floats = npt.NDArray[np.float32]
RANK, ALPHA = 4, 6.0
NAMES = [one.name for one in all_checkpoints() if config_path(one.name).exists()]
CONV1D = [one.name for one in all_checkpoints() if one.architecture == "gpt2"]  # their matrices are (n_in, n_out)
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}


def write_base(name: str, folder: Path) -> Path:
    (checkpoint,) = [one for one in all_checkpoints() if one.name == name]
    return write_folder(checkpoint, folder)


def write_adapter(
    folder: Path, weights: dict[str, Floats], *, conv1d: bool = False, **config: Any
) -> dict[str, Floats]:
    """Write an adapter for some matrices; return their sums with alpha / r · B A, transposed for ``conv1d``."""
    rng, tensors, changed = np.random.default_rng(0), {}, {}
    for name, weight in weights.items():
        n_out, n_in = weight.shape[::-1] if conv1d else weight.shape
        a, b = rng.normal(size=(RANK, n_in)), rng.normal(size=(n_out, RANK))
        product = (b @ a).T if conv1d else b @ a
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = a.astype(np.float32)
        tensors[f"{stem}.lora_B.weight"] = b.astype(np.float32)
        changed[name] = (weight + ALPHA / RANK * product).astype(np.float32)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, "fan_in_fan_out": conv1d, **config}))
    return changed


def matrices(base: Path) -> dict[str, Floats]:
    """Return the matrices of a checkpoint's layers."""
    weights = load_file(base / "model.safetensors")
    return {
        name: weight.astype(np.float32)
        for name, weight in weights.items()
        if re.search(r"\.\d+\..*\.weight$", name) and weight.ndim == 2
    }


def write_llama(folder: Path, **config: Any) -> tuple[Path, Path]:
    """Write a model and an adapter for it; return their folders."""
    base = write_base("llama", folder / "base")
    write_adapter(folder / "adapter", matrices(base), **{"base_model_name_or_path": str(base), **config})
    return base, folder / "adapter"


def open_base(folder: Path) -> Model:
    return open_checkpoint(folder, conversions(), read_checkpoint_tokenizer)


def floats(tensor: Any) -> Floats:
    values: Floats = tensor.data.view(np.float32).reshape(tensor.shape)
    return values


@pytest.mark.parametrize("name", NAMES)
def test_adapter_changes_the_model_as_merging_does(name: str, tmp_path: Path) -> None:
    base, folder = write_base(name, tmp_path / "base"), tmp_path / "adapter"
    weights, accepted, conv1d = matrices(base), dict[str, Floats](), name in CONV1D
    for one, weight in weights.items():
        write_adapter(folder, {one: weight}, conv1d=conv1d)
        with suppress(ModelError):  # those that GGUF joins with others
            open_adapter(folder, base, conversions())
            accepted[one] = weight
    joined = ".experts.", "kv_b_proj", "shared_expert_gate"  # the last one becomes a vector
    assert {one for one in weights if not any(part in one for part in joined)} <= accepted.keys()

    changed = write_adapter(folder, accepted, conv1d=conv1d)
    adapter = open_adapter(folder, base, conversions())
    original = {one: floats(tensor) for one, tensor in open_base(base).tensors.items()}
    save_file({**load_file(base / "model.safetensors"), **changed}, base / "model.safetensors")
    merged = {one: floats(tensor) for one, tensor in open_base(base).tensors.items()}
    pairs = {one.removesuffix(".lora_a") for one in adapter.tensors if one.endswith(".lora_a")}
    assert len(pairs) >= len(changed)
    for one, weight in merged.items():
        if one not in pairs:
            np.testing.assert_array_equal(weight, original[one])
            continue
        a, b = (floats(adapter.tensors[f"{one}.lora_{side}"]) for side in "ab")
        scale = adapter.metadata["adapter.lora.alpha"] / RANK
        np.testing.assert_allclose(original[one] + scale * (b @ a), weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flag", [True, False])
def test_adapter_of_gpt2_adds_to_the_outputs_of_its_matrices(flag: bool, tmp_path: Path) -> None:
    """y = x W + alpha / r · x Aᵀ Bᵀ, with ``Conv1D``'s matrices W ``(n_in, n_out)``.

    PEFT corrects ``fan_in_fan_out`` by the class of a layer, so its value does not matter.
    """
    base, folder = write_base("gpt2", tmp_path / "base"), tmp_path / "adapter"
    weights = matrices(base)
    write_adapter(folder, weights, conv1d=True, fan_in_fan_out=flag)
    parts, model = load_file(folder / "adapter_model.safetensors"), open_base(base).tensors
    adapter = open_adapter(folder, base, conversions())
    scale, rng = adapter.metadata["adapter.lora.alpha"] / RANK, np.random.default_rng(1)

    roles = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    assert len(adapter.tensors) == 2 * len(weights) == 2 * 4 * (1 + max(int(one.split(".")[2]) for one in weights))
    for name, weight in weights.items():
        layer, role = name.split(".", 3)[2:]
        target = f"blk.{layer}.{roles[role.removesuffix('.weight')]}.weight"
        a, b = (parts[f"base_model.model.{name.removesuffix('weight')}lora_{side}.weight"] for side in "AB")
        x = rng.normal(size=(3, len(weight)))
        converted_a, converted_b = (floats(adapter.tensors[f"{target}.lora_{side}"]) for side in "ab")
        found = x @ floats(model[target]).T + scale * (x @ converted_a.T @ converted_b.T)
        np.testing.assert_allclose(found, x @ weight + ALPHA / RANK * x @ a.T @ b.T, rtol=1e-6)


def test_all_matrices_of_llama_are_converted(tmp_path: Path) -> None:
    base, folder = write_llama(tmp_path)
    assert len(open_adapter(folder, None, conversions()).tensors) == 2 * len(matrices(base))


def test_adapter_stays_as_it_was_when_its_file_is_overwritten(tmp_path: Path) -> None:
    _, folder = write_llama(tmp_path)
    adapter = open_adapter(folder, None, conversions())
    before = {name: tensor.data.copy() for name, tensor in adapter.tensors.items()}
    with (path := folder / "adapter_model.safetensors").open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert before
    for name, tensor in adapter.tensors.items():
        np.testing.assert_array_equal(tensor.data, before[name])
        assert tensor.held_bytes == tensor.n_bytes


def test_file_has_the_keys_of_llama_cpp(tmp_path: Path) -> None:
    base, folder = write_llama(tmp_path, base_model_name_or_path="somebody/model")
    target = tmp_path / "adapter.gguf"
    assert main(["convert", str(folder), str(target), "--base", str(base), "--quiet"]) == 0
    reader = GGUFReader(target)
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == ALPHA
    shapes = {one.name: one.shape.tolist() for one in reader.tensors}
    n_embd, n_ff = shapes["blk.0.ffn_up.weight.lora_a"][0], shapes["blk.0.ffn_down.weight.lora_a"][0]
    assert shapes["blk.0.ffn_up.weight.lora_b"] == [RANK, n_ff]
    assert shapes["blk.0.ffn_down.weight.lora_b"] == [RANK, n_embd]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, 'peft_type is "IA3", which is not supported'),
        ({"use_dora": True}, "use_dora is true, which is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"bias": "all"}, 'bias is "all", which is not supported'),
        ({"base_model_name_or_path": "nowhere"}, "name its folder with `llamafw convert --base`"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'"),
        ({"lora_alpha": 0}, "lora_alpha is 0; such an adapter changes nothing"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern is not an object of numbers"),
        ({"alpha_pattern": {"(": 2}}, r"alpha_pattern has an invalid pattern, '\('"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is not supported: PEFT changes the weights"),
    ],
)
def test_other_adapters_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, folder = write_llama(tmp_path, **config)
    with pytest.raises(ModelError, match=message):
        open_adapter(folder, None, conversions())


@pytest.mark.parametrize(("name", "part"), [("qwen3moe", ".experts.1."), ("deepseek2-v3", "kv_b_proj")])
def test_matrices_that_gguf_joins_are_refused(name: str, part: str, tmp_path: Path) -> None:
    base = write_base(name, tmp_path / "base")
    write_adapter(tmp_path / "adapter", {one: weight for one, weight in matrices(base).items() if part in one})
    with pytest.raises(ModelError, match="cannot be converted alone: "):
        open_adapter(tmp_path / "adapter", base, conversions())


@pytest.mark.parametrize("name", ["qwen3moe", "olmoe"])
def test_experts_of_a_layer_are_converted_together(name: str, tmp_path: Path) -> None:
    base, folder = write_base(name, tmp_path / "base"), tmp_path / "adapter"
    changed = write_adapter(folder, {one: weight for one, weight in matrices(base).items() if ".experts." in one})
    adapter = open_adapter(folder, base, conversions())
    original = {one: floats(tensor) for one, tensor in open_base(base).tensors.items()}
    save_file({**load_file(base / "model.safetensors"), **changed}, base / "model.safetensors")
    merged = {one: floats(tensor) for one, tensor in open_base(base).tensors.items()}
    pairs = {one.removesuffix(".lora_a") for one in adapter.tensors if one.endswith(".lora_a")}
    assert {one for one in merged if "_exps" in one} == pairs
    for one in pairs:
        a, b = (floats(adapter.tensors[f"{one}.lora_{side}"]) for side in "ab")
        scale = adapter.metadata["adapter.lora.alpha"] / RANK
        np.testing.assert_allclose(original[one] + scale * (b @ a), merged[one], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_embeddings_have_their_factors_in_the_order_of_llama_cpp(name: str, tmp_path: Path) -> None:
    base, folder, rng = write_base(name, tmp_path / "base"), tmp_path / "adapter", np.random.default_rng(1)
    weights = load_file(base / "model.safetensors")
    (embedding,) = [one for one in weights if one.endswith("embed_tokens.weight")]
    n_vocab, n_embd = weights[embedding].shape
    a, b = rng.normal(size=(RANK, n_vocab)), rng.normal(size=(n_embd, RANK))
    stem = f"base_model.model.{embedding.removesuffix('.weight')}"
    factors = {f"{stem}.lora_embedding_A": a.astype(np.float32), f"{stem}.lora_embedding_B": b.astype(np.float32)}
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    found = open_adapter(folder, base, conversions()).tensors
    assert list(found) == ["token_embd.weight.lora_a", "token_embd.weight.lora_b"]
    np.testing.assert_array_equal(floats(found["token_embd.weight.lora_a"]), a.T.astype(np.float32))
    np.testing.assert_array_equal(floats(found["token_embd.weight.lora_b"]), b.astype(np.float32))


def test_matrices_that_do_not_belong_to_the_model_are_refused(tmp_path: Path) -> None:
    _, folder = write_llama(tmp_path)
    names = {side: f"base_model.model.model.layers.0.moe.lora_{side}.weight" for side in "AB"}
    save_file(
        {names["A"]: np.ones((2, 4), np.float32), names["B"]: np.ones((4, 2), np.float32)},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match=r"'model\.layers\.0\.moe\.weight' is not part of a LlamaForCausalLM"):
        open_adapter(folder, None, conversions())
    save_file({names["A"]: np.ones((2, 4), np.float32)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="without the other matrix of its pair"):
        open_adapter(folder, None, conversions())


def test_rank_stabilised_adapters_keep_their_scale(tmp_path: Path) -> None:
    """Their factor is alpha / √r; llama.cpp divides by r (arXiv:2312.03732)."""
    _, folder = write_llama(tmp_path, use_rslora=True)
    alpha = open_adapter(folder, None, conversions()).metadata["adapter.lora.alpha"]
    assert alpha / RANK == pytest.approx(ALPHA / RANK**0.5)


@pytest.mark.parametrize("has_roots", [False, True])
def test_matrices_may_have_their_own_ranks_and_alphas(has_roots: bool, tmp_path: Path) -> None:
    """PEFT scales with alpha / r, or alpha / √r with rsLoRA, of the first patterns that match the name or its end."""
    patterns = {"layers.1.self_attn.q_proj": 5, r"mlp\.\w+_proj": -2.5, "q_proj": 7}
    config = {"use_rslora": has_roots, "rank_pattern": {"q_proj": 9}, "alpha_pattern": patterns}
    base, folder = write_llama(tmp_path, **config)
    rng, tensors, changed = np.random.default_rng(2), dict[str, Floats](), dict[str, Floats]()
    for name, weight in matrices(base).items():
        role = name.split(".")[-2]
        rank = 9 if role == "q_proj" else RANK
        alpha = {"q_proj": 5 if ".1." in name else 7, "gate_proj": -2.5, "up_proj": -2.5, "down_proj": -2.5}.get(
            role, ALPHA
        )
        a, b = rng.normal(size=(rank, weight.shape[1])), rng.normal(size=(weight.shape[0], rank))
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors |= {f"{stem}.lora_A.weight": a.astype(np.float32), f"{stem}.lora_B.weight": b.astype(np.float32)}
        changed[name] = (weight + alpha / (rank**0.5 if has_roots else rank) * (b @ a)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")

    adapter, original = open_adapter(folder, None, conversions()), open_base(base).tensors
    before = {one: floats(tensor).copy() for one, tensor in original.items()}
    save_file({**load_file(base / "model.safetensors"), **changed}, base / "model.safetensors")
    pairs = {one.removesuffix(".lora_a") for one in adapter.tensors if one.endswith(".lora_a")}
    assert len(pairs) == len(changed)
    for one in pairs:
        first, second = (floats(adapter.tensors[f"{one}.lora_{side}"]) for side in "ab")
        found = before[one] + adapter.metadata["adapter.lora.alpha"] / second.shape[1] * (second @ first)
        np.testing.assert_allclose(found, floats(open_base(base).tensors[one]), rtol=1e-4, atol=1e-4)
