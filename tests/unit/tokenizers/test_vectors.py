"""Real vocabularies give the same tokens as llama.cpp: its published test vectors, and known ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafw import Tokenizer
from llamafw.models.gguf import read_gguf
from llamafw_plugins.quants.ggml import TYPES
from llamafw_plugins.tokenizers import make_bert, make_gpt2, make_llama

pytestmark = pytest.mark.slow

FACTORIES = {"gpt2": make_gpt2, "llama": make_llama, "bert": make_bert}
VOCABULARIES = ["deepseek-coder", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder"]
SEPARATOR = "\n__ggml_vocab_test__\n"


def open_tokenizer(path: Path) -> Tokenizer:
    metadata = read_gguf(path, {quant.name: quant for quant in TYPES}).metadata
    return FACTORIES[metadata["tokenizer.ggml.model"]](metadata)


@pytest.fixture(scope="module")
def vocabulary(shared: Path) -> Callable[[str], Tokenizer]:
    """Return a function that opens a vocabulary by its name and caches it."""
    opened: dict[str, Tokenizer] = {}

    def open_vocabulary(name: str) -> Tokenizer:
        if name not in opened:
            opened[name] = open_tokenizer(shared / "vocab" / f"ggml-vocab-{name}.gguf")
        return opened[name]

    return open_vocabulary


@pytest.fixture(scope="module")
def smollm2(real_model: Path) -> Tokenizer:
    return open_tokenizer(real_model)


@pytest.mark.parametrize("name", [*VOCABULARIES, "bert-bge"])
def test_published_vectors_are_exact(name: str, vocabulary: Callable[[str], Tokenizer], shared: Path) -> None:
    base = shared / "vocab" / f"ggml-vocab-{name}.gguf"
    inputs = base.with_suffix(".gguf.inp").read_bytes().decode().split(SEPARATOR)
    outputs = base.with_suffix(".gguf.out").read_bytes().decode().split("\n")
    assert len(inputs) == len(outputs) > 40
    tokenizer = vocabulary(name)
    for text, ids in zip(inputs, outputs, strict=True):
        assert tokenizer.encode(text, parse_special=False) == [int(token) for token in ids.split()], text


@pytest.mark.parametrize("name", VOCABULARIES)
def test_published_texts_survive_encode_and_decode(
    name: str, vocabulary: Callable[[str], Tokenizer], shared: Path
) -> None:
    tokenizer = vocabulary(name)
    texts = (shared / "vocab" / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().split(SEPARATOR)
    assert len(texts) > 40
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == text


def test_tokenizer_of_the_default_model_has_known_tokens(smollm2: Tokenizer) -> None:
    assert (smollm2.n_vocab, smollm2.bos, smollm2.eos) == (49152, 1, 2)
    assert not smollm2.add_bos
    assert not smollm2.add_eos
    assert smollm2.encode("<|im_start|>user\n") == [1, 4093, 198]
    assert smollm2.encode("<|im_start|>user\n", parse_special=False)[0] != 1
    assert smollm2.eog == {0, 2, 4}  # <|endoftext|>, <|im_end|> and <reponame>, as in llama.cpp
    assert smollm2.piece(1) == b""
    assert smollm2.piece(1, special=True) == b"<|im_start|>"
    assert smollm2.decode([1, 4093, 198]) == "user\n"
    assert smollm2.decode([1, 4093, 198], special=True) == "<|im_start|>user\n"


def test_bge_adds_cls_and_sep(vocabulary: Callable[[str], Tokenizer]) -> None:
    bge = vocabulary("bert-bge")
    assert bge.encode("Hello world", add_special=True) == [101, 7592, 2088, 102]
    assert bge.decode(bge.encode("Hello, wörld!", add_special=True)) == "hello , world !"


def test_a_byte_without_a_token_still_separates_text(smollm2: Tokenizer) -> None:
    """SmolLM2 has no token for the byte 0x04.

    As in llama.cpp, it is dropped, and text around it is not merged.
    """
    assert smollm2.encode("us\x04er") == smollm2.encode("us") + smollm2.encode("er") != smollm2.encode("user")


def test_phi_3_strips_white_space_after_special_tokens(vocabulary: Callable[[str], Tokenizer]) -> None:
    phi3 = vocabulary("phi-3")
    assert phi3.encode("<|user|>\n Hi<|end|>\n<|assistant|>") == [32010, *phi3.encode("Hi"), 32007, 32001]
    assert phi3.encode("<s> \n") == [1, *phi3.encode(" \n")]  # but not after <s>


def test_bos_and_eog_of_real_vocabularies_match_libllama(vocabulary: Callable[[str], Tokenizer]) -> None:
    """Expected values from libllama (llama_vocab_is_eog, llama_vocab_get_add_bos)."""
    llama3, qwen2, spm = vocabulary("llama-bpe"), vocabulary("qwen2"), vocabulary("llama-spm")
    assert llama3.encode("", add_special=True) == [128000]  # the pre-tokenizer sets add_bos
    assert llama3.eog == {128001, 128009}
    assert qwen2.encode("", add_special=True) == []
    assert qwen2.eog == {128247, 151643, 151645}  # 128247 is "</s>"
    assert spm.encode("Hello", add_special=True) == [1, 15043]
    assert spm.encode("</s>Hello") == [2, 15043]  # with a new space before Hello
    assert spm.encode("</s>", parse_special=False)[0] != 2
    assert spm.eog == {2}


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("name", VOCABULARIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=ANY_TEXT | st.text("ab 1\n'sd▁<|>é中😀\t", max_size=40))
def test_decode_reverses_encode(name: str, vocabulary: Callable[[str], Tokenizer], text: str) -> None:
    tokenizer = vocabulary(name)
    tokens = tokenizer.encode(text, parse_special=False)
    assert all(0 <= token < tokenizer.n_vocab for token in tokens)
    if name in ("llama-spm", "phi-3"):
        expected, prefix = text.replace("▁", " ").encode(), b" " if text else b""
    else:  # the vocabularies of StarCoder and SmolLM2 lack bytes that hardly ever occur in text
        known = {tokenizer.piece(token) for token in range(tokenizer.n_vocab)}
        expected, prefix = bytes(byte for byte in text.encode() if bytes([byte]) in known), b""
    assert b"".join(map(tokenizer.piece, tokens)) == prefix + expected
    assert tokenizer.decode(tokens) == expected.decode("utf-8", "replace")


@pytest.mark.parametrize("name", [*VOCABULARIES, "bert-bge"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_plain_text_never_becomes_a_control_token(
    name: str, vocabulary: Callable[[str], Tokenizer], data: st.DataObject
) -> None:
    tokenizer = vocabulary(name)
    pieces = {token: tokenizer.piece(token, special=True) for token in range(tokenizer.n_vocab)}
    special = {token for token, piece in pieces.items() if tokenizer.piece(token) != piece}
    assert special
    texts = [pieces[token].decode() for token in special]
    text = "".join(data.draw(st.lists(st.sampled_from([*texts, "a", " ", "<", "|", ">"]), max_size=8)))
    assert not set(tokenizer.encode(text, parse_special=False)) & special


@pytest.mark.parametrize("unit", ["a", " ", "\n", "1", "!", "😀", "中", "\u0301", "aA", " \n", "<", "<|im_start|>"])
@pytest.mark.timeout(120)  # quadratic time would take hours
def test_a_megabyte_of_one_text_is_encoded_in_linear_time(
    unit: str, smollm2: Tokenizer, vocabulary: Callable[[str], Tokenizer]
) -> None:
    text = unit * (1_000_000 // len(unit.encode()))
    for tokenizer in (smollm2, vocabulary("llama-spm")):
        assert tokenizer.decode(tokenizer.encode(text), special=True) == text
