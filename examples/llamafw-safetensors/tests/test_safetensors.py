"""Tests that a folder and a GGUF file of the same model answer alike, and that damaged folders are refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from llamafw_safetensors import GLOBAL, LAYER, open_folder, rope_factors
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from llamafw import ModelError
from llamafw.testing.conformance import PluginConformance, WeightsConformance

N_HEAD, N_KV = 4, 2
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_KV,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m.content }}{% endfor %}"


def write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write float32 tensors as a safetensors file."""
    header, at = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in tensors.values()))


@pytest.fixture
def gguf_file(write_model: Any) -> Path:
    return Path(write_model())


@pytest.fixture
def folder(gguf_file: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    return as_folder(gguf_file, folder)


def as_folder(gguf_file: Path, folder: Path) -> Path:
    """Convert a GGUF file to a folder with two safetensors files, with the halves of Q and K reordered."""
    tensors: dict[str, Any] = {}
    reader = GGUFReader(gguf_file)
    originals = {gguf: name for name, gguf in GLOBAL.items()}
    for i in range(2):
        originals |= {f"blk.{i}.{gguf}.weight": f"model.layers.{i}.{name}.weight" for name, gguf in LAYER.items()}

    for tensor in reader.tensors:
        value = np.array(tensor.data)
        heads = N_HEAD if "attn_q" in tensor.name else N_KV if "attn_k" in tensor.name else 0
        if heads:
            value = np.concatenate([np.r_[head[0::2], head[1::2]] for head in np.split(value, heads)])
        tensors[originals[tensor.name]] = value

    names = list(tensors)
    for number, part in enumerate((names[:9], names[9:])):
        write_safetensors(folder / f"model-{number}.safetensors", {name: tensors[name] for name in part})
    (folder / "config.json").write_text(json.dumps(CONFIG))

    texts = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(line.split(" ")) for line in reader.fields["tokenizer.ggml.merges"].contents()]
    library = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(text, special=True) for text in texts[:3]])
    library.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


async def test_folder_and_file_give_the_same_answers(serve: Any, folder: Path, gguf_file: Path) -> None:
    answers = []
    body = {"prompt": "Hello in the nation", "n_predict": 8, "temperature": 0, "n_probs": 5, "ignore_eos": True}
    for path in (folder, gguf_file):
        async with serve(model=path, backend="numba", threads=1) as client:
            answer = (await client.post("/completion", json=body)).json()
            answers.append((answer["content"], answer["tokens_evaluated"], answer["completion_probabilities"]))

            if path == folder:
                prompt = await client.post("/apply-template", json={"messages": [{"role": "user", "content": "x"}]})
                assert prompt.json() == {"prompt": "<|im_start|>x"}
                tokens = await client.post("/tokenize", json={"content": "é<|im_end|>", "parse_special": False})
                assert 2 not in tokens.json()["tokens"]
                text = await client.post("/detokenize", json=tokens.json())
                assert text.json() == {"content": "é<|im_end|>"}

    assert answers[0] == answers[1]


def test_unsupported_and_damaged_folders_are_refused(folder: Path) -> None:
    for change, message in (
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "the rope_scaling 'longrope'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "has no 'original_max_position_embeddings'"),
    ):
        (folder / "config.json").write_text(json.dumps(CONFIG | change))
        with pytest.raises(ModelError, match=message):
            open_folder(folder)

    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="has no 'num_attention_heads'"):
        open_folder(folder)

    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder / "model-2.safetensors", {"model.layers.0.mlp.experts": np.zeros(1, np.float32)})
    with pytest.raises(ModelError, match="is not part of a Llama model"):
        open_folder(folder)

    (folder / "model-2.safetensors").write_bytes(b"\xff" * 99)
    with pytest.raises(ModelError, match="not a safetensors file"):
        open_folder(folder)


def test_rope_frequencies_of_llama_3_1() -> None:
    """Compare with the formula that the model's authors published, wavelength by wavelength."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = {"hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 500_000.0, "rope_scaling": scaling}
    (tensor,) = rope_factors(config)
    assert tensor.shape == (64,)

    for i, factor in enumerate(tensor.data.view(np.float32)):
        frequency = 500_000.0 ** (-2 * i / 128)
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            expected = frequency
        elif wavelength > 8192:
            expected = frequency / 8
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected = (1 - smooth) * frequency / 8 + smooth * frequency
        assert frequency / factor == pytest.approx(expected, rel=1e-6)


class TestSafetensors(WeightsConformance):
    name = "llamafw-safetensors"

    def write(self, folder: Path, gguf: Path) -> Path:
        return as_folder(gguf, folder)


class TestPlugin(PluginConformance):
    name = "llamafw-safetensors"
