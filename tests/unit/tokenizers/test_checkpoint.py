"""Tokenizers of checkpoints give the same tokens as `tokenizers`, which reads their files too."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import ModelError, Tokenizer
from llamafw.models.gguf import read_gguf
from llamafw_plugins.quants.ggml import TYPES
from llamafw_plugins.tokenizers import make_bert, make_gemma4, make_gpt2, make_llama, make_t5
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer
from llamafw_plugins.tokenizers.gpt2 import Gpt2Tokenizer
from llamafw_plugins.tokenizers.pre_tokenizers import PRE_TOKENIZERS
from support.trained_tokenizers import FAMILIES, TEXT, sentencepiece_model, trained

FACTORIES: Mapping[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "gpt2": make_gpt2, "llama": make_llama, "gemma4": make_gemma4, "bert": make_bert, "t5": make_t5,
}  # fmt: skip
EXPECTED = {  # family: tokenizer.ggml.model, tokenizer.ggml.pre, what is added before and after a text
    "gpt2": ("gpt2", "gpt-2", False, False),
    "llama3": ("gpt2", "llama-bpe", True, False),
    "qwen2": ("gpt2", "qwen2", False, False),
    "deepseek": ("gpt2", "deepseek-v3", True, False),
    "tekken": ("gpt2", "tekken", True, False),
    "starcoder": ("gpt2", "smollm", False, False),
    "roberta": ("gpt2", "gpt-2", True, True),
    "llama2": ("llama", "default", True, False),
    "gemma": ("llama", "default", True, False),
    "gemma4": ("gemma4", None, True, False),
    "bert": ("bert", "default", True, True),
    "bert_cased": ("bert", "default", True, True),
    "t5": ("t5", "default", False, True),
    "xlm_roberta": ("t5", "default", True, True),
}
NAMED = {
    "gemma4": {"model_type": "gemma4_text"},
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    "abT h'eés 1203.,!\n\t日本ß😀", max_size=60
)


def write(folder: Path, family: str, **files: Any) -> Path:
    """Write the files of a family's tokenizer, and others by name: ``tokenizer_config={…}``."""
    folder.mkdir(exist_ok=True)
    trained(family).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(NAMED.get(family, {})), "utf-8")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), "utf-8")
    return folder


def read(folder: Path, n_vocab: int | None = None) -> dict[str, Any]:
    metadata = read_checkpoint_tokenizer(folder, n_vocab)
    assert metadata is not None
    return metadata


@cache
def metadata_of(family: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return read(write(Path(folder), family))


@cache
def tokenizer_of(family: str) -> Tokenizer:
    return FACTORIES[EXPECTED[family][0]](metadata_of(family))


def normalized(family: str, text: str) -> str:
    """Return a text without what GGUF cannot say.

    That is Qwen's normal form, and spaces that the table of characters does not have, at which `tokenizers` splits
    texts for unigram models. SentencePiece does not.
    """
    if family == "qwen2":
        return unicodedata.normalize("NFC", text)
    if EXPECTED[family][0] == "t5":
        return "".join(character for character in text if not character.isspace() or character in " \t\n\u3000")
    return text


@pytest.mark.parametrize("family", FAMILIES)
def test_metadata_name_the_algorithm_and_what_is_added(family: str) -> None:
    metadata = metadata_of(family)
    model, pre, adds_bos, adds_eos = EXPECTED[family]
    assert metadata["tokenizer.ggml.model"] == model
    assert metadata.get("tokenizer.ggml.pre") == pre
    assert (metadata["tokenizer.ggml.add_bos_token"], metadata["tokenizer.ggml.add_eos_token"]) == (adds_bos, adds_eos)
    assert len(metadata["tokenizer.ggml.tokens"]) == trained(family).get_vocab_size()


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_have_the_tokens_of_the_library(family: str) -> None:
    tokenizer, library = tokenizer_of(family), trained(family)
    for text in (*TEXT[:3], "", "a", "unseen ñ ع ∀", "  two  spaces ", "\n\n\tx\r\n", "I'VE 12345 x/y"):
        text = normalized(family, text)
        assert tokenizer.encode(text, add_special=True) == library.encode(text).ids, text
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("family", FAMILIES)
@given(text=TEXTS)
def test_any_text_has_the_tokens_of_the_library(family: str, text: str) -> None:
    text = normalized(family, text)
    assert tokenizer_of(family).encode(text) == trained(family).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_special_tokens_between_texts_are_found_as_by_the_library(family: str, data: st.DataObject) -> None:
    library = trained(family)
    texts = [token.content for token in library.get_added_tokens_decoder().values() if not token.lstrip]
    text = "".join(data.draw(st.lists(st.sampled_from([*texts, "ab", "The", ", ", "1"]), max_size=6)))
    expected = library.encode(text, add_special_tokens=False).ids
    unknown = metadata_of(family).get("tokenizer.ggml.unknown_token_id")
    assert tokenizer_of(family).encode(text) == expected or unknown in expected


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_each_pre_tokenizer_is_recognised(name: str, tmp_path: Path) -> None:
    family = PRE_TOKENIZERS[name]
    content = json.loads(trained("gpt2").to_str())
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in family.patterns
    ]
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, to_bytes]}
    content["model"]["ignore_merges"] = family.ignore_merges
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    found = PRE_TOKENIZERS[read(tmp_path)["tokenizer.ggml.pre"]]
    assert found.ignore_merges == family.ignore_merges
    if (
        found.patterns != family.patterns
    ):  # two names for the same: BailingMoE's expression is Qwen 2's, written otherwise
        assert name in ("bailingmoe", "bailingmoe2", "llada-moe")


def test_an_unknown_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    content = json.loads(trained("llama3").to_str())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"[a-m]+|[^a-m]+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match=r"splits texts like none .*\[a-m\]"):
        read(tmp_path)


def test_ignoring_merges_does_not_matter_if_merges_lead_to_all_tokens(tmp_path: Path) -> None:
    content = json.loads(trained("qwen2").to_str())
    content["model"]["ignore_merges"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert read(tmp_path)["tokenizer.ggml.pre"] == "qwen2"
    content["model"]["merges"] = content["model"]["merges"][:-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match="splits texts like none"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer makes"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "of type 'WordLevel'"),
        ({"pre_tokenizer": {"type": "Nonsense"}}, "does not work"),
        ({"added_tokens": [{"id": "x", "content": "y"}]}, "has no id or no text"),
        ({"added_tokens": 5}, "is not a list of objects"),
    ],
)
def test_what_gguf_cannot_say_is_refused(change: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    content = json.loads(trained("gpt2").to_str()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match=message):
        read(tmp_path)


def test_damaged_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json is not valid JSON"):
        read(tmp_path)


def test_a_folder_without_a_tokenizer_is_left_to_others(tmp_path: Path) -> None:
    assert read_checkpoint_tokenizer(tmp_path) is None


def test_embeddings_without_tokens_become_unused_tokens(tmp_path: Path) -> None:
    folder = write(tmp_path, "gpt2")
    n = trained("gpt2").get_vocab_size()
    metadata = read(folder, n + 3)
    assert metadata["tokenizer.ggml.tokens"][n:] == [f"[PAD{id}]" for id in range(n, n + 3)]
    assert metadata["tokenizer.ggml.token_type"][n:] == [5, 5, 5]
    with pytest.raises(ModelError, match="but the model has only 10"):
        read(folder, 10)


def test_tokens_without_embeddings_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, "qwen2")
    n = trained("qwen2").get_vocab_size()
    assert len(read(folder, n - 1)["tokenizer.ggml.tokens"]) == n - 1


def test_types_of_added_tokens(tmp_path: Path) -> None:
    metadata = read(
        write(
            tmp_path, "qwen2", tokenizer_config={"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}}
        )
    )
    ids = {text: id for id, text in enumerate(metadata["tokenizer.ggml.tokens"])}
    types = metadata["tokenizer.ggml.token_type"]
    assert (types[ids["<|im_end|>"]], types[ids["<think>"]], types[ids["a"]]) == (3, 4, 1)
    assert metadata["tokenizer.ggml.eos_token_id"] == ids["<|im_end|>"]
    assert metadata["tokenizer.ggml.padding_token_id"] == ids["<|endoftext|>"]


def test_a_token_with_a_role_is_special(tmp_path: Path) -> None:
    metadata = read(write(tmp_path, "qwen2", special_tokens_map={"bos_token": "<think>"}))
    bos = metadata["tokenizer.ggml.bos_token_id"]
    assert metadata["tokenizer.ggml.tokens"][bos] == "<think>"
    assert metadata["tokenizer.ggml.token_type"][bos] == 3


def test_the_config_of_the_tokenizer_decides_whether_bos_is_added(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        "llama2",
        tokenizer_config={"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "add_eos_token": True},
    )
    metadata = read(folder)
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.ggml.add_eos_token"] is True


@pytest.mark.parametrize(
    ("family", "adds"), [("bert", False), ("roberta", True), ("xlm_roberta", True), ("t5", False), ("llama2", False)]
)
def test_a_separator_is_added_between_two_texts(family: str, adds: bool) -> None:
    """RoBERTa has two tokens between texts, EOS and the separator; BERT and T5 only EOS."""
    assert metadata_of(family)["tokenizer.ggml.add_sep_token"] is adds


def test_other_ends_of_a_generation_have_keys_unless_their_texts_are_known(tmp_path: Path) -> None:
    vocabulary = trained("qwen2").get_vocab()
    ends = [vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"], vocabulary["<think>"]]
    metadata = read(write(tmp_path, "qwen2", generation_config={"eos_token_id": ends}))
    assert metadata["tokenizer.ggml.eos_token_id"] == ends[0]
    assert metadata["tokenizer.ggml.eot_token_id"] == ends[2]  # <|endoftext|> is known to end a generation
    assert make_gpt2(metadata).eog == set(ends)


def test_gemma4_shows_tokens_that_parsers_read(tmp_path: Path) -> None:
    content = json.loads(trained("gemma4").to_str())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 9999, "content": "<|tool_call>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gemma4"}', "utf-8")
    metadata = read(tmp_path)
    assert metadata["tokenizer.ggml.token_type"][9999] == 4


def test_merges_that_are_not_scores_need_their_own_algorithm(tmp_path: Path) -> None:
    """A list with one way to form each token is not the same as scores, which allow all ways."""
    folder = write(tmp_path, "gemma4")
    (folder / "config.json").write_text("{}", "utf-8")
    assert read(folder)["tokenizer.ggml.model"] == "gemma4"
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "▁"}, content["normalizer"]],
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match="not the same as scores"):
        read(folder)


def test_vocab_txt_has_the_tokens_of_the_library(tmp_path: Path) -> None:
    library = trained("bert")
    vocabulary = library.get_vocab()
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "cls_token": "[CLS]"}', "utf-8")
    tokenizer = make_bert(read(tmp_path))
    for text in TEXT[:3]:
        assert tokenizer.encode(text, add_special=True) == library.encode(text).ids


@pytest.mark.parametrize(
    ("family", "config", "model_type", "expected"),
    [
        # what AutoTokenizer of transformers 5.24 makes of "É E é e" if the vocabulary has all four letters
        ("bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False}, "bert", "ÉEée"),
        ("bert", {"do_lower_case": False}, "bert", "ÉEée"),
        ("bert", {"tokenizer_class": "DistilBertTokenizerFast", "do_lower_case": False}, "distilbert", "ÉEée"),
        ("bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True}, "bert", "EEee"),
        ("bert", {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, "bert", "eeee"),
        ("bert", {"do_lower_case": False}, "modernbert", "eeee"),
        ("bert_cased", {"tokenizer_class": "BertTokenizer", "do_lower_case": True}, "bert", "eeee"),
        ("bert_cased", {"tokenizer_class": "BertTokenizer"}, "bert", "eeee"),
        ("bert_cased", {}, "nomic_bert", "eeee"),
        ("bert_cased", {"do_lower_case": True, "strip_accents": False}, "bert", "éeée"),
        ("bert_cased", {"tokenizer_class": "TokenizersBackend", "do_lower_case": True}, "bert", "ÉEée"),
        ("bert_cased", {"tokenizer_class": "Mine", "do_lower_case": True}, "bert", "ÉEée"),
        ("bert_cased", {}, "neobert", "ÉEée"),
    ],
)
def test_classes_of_bert_take_the_case_from_their_config(
    family: str, config: dict[str, Any], model_type: str, expected: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, family, tokenizer_config=config, config={"model_type": model_type})
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    letters = content["model"]["vocab"]
    for letter in "ÉEée":
        letters.setdefault(letter, len(letters))
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    tokenizer = make_bert(read(folder))
    found = [tokenizer.piece(token).decode().strip() for token in tokenizer.encode("É E é e", add_special=False)]
    assert "".join(found) == expected


def test_classes_of_bert_without_spaces_around_chinese_characters_are_refused(tmp_path: Path) -> None:
    config = {"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False}
    folder = write(tmp_path, "bert", tokenizer_config=config)
    with pytest.raises(ModelError, match="tokenize_chinese_chars is false, which GGUF cannot say"):
        read(folder)


def test_vocab_json_and_merges_have_the_tokens_of_the_library(tmp_path: Path) -> None:
    library = trained("gpt2")
    library.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}', "utf-8")
    (tmp_path / "added_tokens.json").write_text(
        json.dumps({"<|endoftext|>": library.token_to_id("<|endoftext|>")}), "utf-8"
    )
    tokenizer = make_gpt2(read(tmp_path))
    for text in TEXT[:3]:
        assert tokenizer.encode(text) == library.encode(text).ids
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Other"}', "utf-8")
    with pytest.raises(ModelError, match="the pre-tokenizer of 'Other'"):
        read(tmp_path)


def test_a_table_of_characters_is_kept(tmp_path: Path) -> None:
    content = json.loads(trained("t5").to_str())
    table = base64.b64decode(content["normalizer"]["precompiled_charsmap"])
    assert metadata_of("t5")["tokenizer.ggml.precompiled_charsmap"].tobytes() == table
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert read(tmp_path)["tokenizer.ggml.precompiled_charsmap"].tobytes() == table
    content["normalizer"]["normalizers"][0]["precompiled_charsmap"] = "AAAAAA=="
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match="the normalizer does not work"):
        read(tmp_path)


@cache
def processor(model_type: str, **options: Any) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(model_type, **options))


LLAMA = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "vocab_size": 420,
}


@cache
def from_sentencepiece(model_type: str, file: str, **options: Any) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        (Path(folder) / file).write_bytes(sentencepiece_model(model_type, **options))
        return read(Path(folder))


@given(text=TEXTS)
def test_a_bpe_model_of_sentencepiece_has_its_tokens(text: str) -> None:
    metadata = from_sentencepiece("bpe", "tokenizer.model", **LLAMA)
    assert (metadata["tokenizer.ggml.add_bos_token"], metadata["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert make_llama(metadata).encode(text, parse_special=False) == processor("bpe", **LLAMA).encode(text)


@given(text=st.text("abTh es.,1\t\nü日\u3000ﬁ", max_size=40))
def test_a_unigram_model_of_sentencepiece_has_its_tokens(text: str) -> None:
    metadata = from_sentencepiece("unigram", "spiece.model", vocab_size=300)
    assert (metadata["tokenizer.ggml.add_bos_token"], metadata["tokenizer.ggml.add_eos_token"]) == (False, True)
    assert make_t5(metadata).encode(text) == processor("unigram", vocab_size=300).encode(text)


def test_a_model_without_a_prefix_says_so() -> None:
    metadata = from_sentencepiece("bpe", "tokenizer.model", **LLAMA, add_dummy_prefix=False)
    assert metadata["tokenizer.ggml.add_space_prefix"] is False
    assert make_llama(metadata).encode("The dog") == processor("bpe", **LLAMA, add_dummy_prefix=False).encode("The dog")


def test_symbols_that_users_defined_are_found_first() -> None:
    options = {**LLAMA, "user_defined_symbols": "<sep>,▁▁"}
    metadata = from_sentencepiece("bpe", "tokenizer.model", **options)
    ids = {text: id for id, text in enumerate(metadata["tokenizer.ggml.tokens"])}
    assert metadata["tokenizer.ggml.token_type"][ids["<sep>"]] == metadata["tokenizer.ggml.token_type"][ids["  "]] == 4


def test_ids_of_xlm_roberta_are_those_of_fairseq() -> None:
    metadata = from_sentencepiece("unigram", "sentencepiece.bpe.model", vocab_size=300)
    tokens, unigram = metadata["tokenizer.ggml.tokens"], processor("unigram", vocab_size=300)
    n = unigram.vocab_size()
    assert tokens[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokens[4:] == [*(unigram.id_to_piece(id) for id in range(3, n)), "<mask>"]
    expected = [3 if id == 0 else id + 1 for id in unigram.encode("The quick ع dog")]
    assert make_t5(metadata).encode("The quick ع dog") == expected


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"text"])
def test_other_files_are_not_models_of_sentencepiece(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError, match="is not a model of SentencePiece"):
        read(tmp_path)


SEPARATOR = "\n__ggml_vocab_test__\n"


def published(shared: Path, name: str) -> tuple[dict[str, Any], list[tuple[str, list[int]]]]:
    """Return a published vocabulary, and texts with their tokens."""
    base = shared / "vocab" / f"ggml-vocab-{name}.gguf"
    inputs = base.with_suffix(".gguf.inp").read_bytes().decode().split(SEPARATOR)
    outputs = base.with_suffix(".gguf.out").read_bytes().decode().split("\n")
    vectors = [(text, [int(id) for id in ids.split()]) for text, ids in zip(inputs, outputs, strict=True)]
    assert len(vectors) > 40
    return dict(read_gguf(base, {quant.name: quant for quant in TYPES}).metadata), vectors


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepseek-coder", "gpt-2", "llama-bpe", "qwen2", "starcoder"])
def test_published_vectors_are_exact(name: str, shared: Path, tmp_path: Path) -> None:
    original, vectors = published(shared, name)
    written = make_gpt2(original)
    assert isinstance(written, Gpt2Tokenizer)
    (tmp_path / "tokenizer.json").write_text(written.to_json(), "utf-8")
    metadata = read(tmp_path)
    assert PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]] == PRE_TOKENIZERS[original["tokenizer.ggml.pre"]]
    tokenizer = make_gpt2(metadata)
    for text, ids in vectors:
        assert tokenizer.encode(text, parse_special=False) == ids, text


@pytest.mark.slow
def test_published_vectors_of_bert_are_exact(shared: Path, tmp_path: Path) -> None:
    original, vectors = published(shared, "bert-bge")
    control = {id for id, kind in enumerate(original["tokenizer.ggml.token_type"]) if kind == 3}
    lines = [
        text if id in control else text[1:] if text.startswith("▁") else f"##{text}"
        for id, text in enumerate(original["tokenizer.ggml.tokens"])
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(lines), "utf-8")
    metadata = read(tmp_path)
    assert metadata["tokenizer.ggml.tokens"] == original["tokenizer.ggml.tokens"]
    for key in ("unknown", "seperator", "padding", "cls", "mask"):
        assert metadata[f"tokenizer.ggml.{key}_token_id"] == original[f"tokenizer.ggml.{key}_token_id"]
    tokenizer = make_bert(metadata)
    for text, ids in vectors:
        assert tokenizer.encode(text, parse_special=False) == ids, text


def test_tokenizer_model_comes_before_a_list_of_merges(tmp_path: Path) -> None:
    folder = write(tmp_path, "llama2")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model("bpe", **LLAMA))
    assert len(read(folder)["tokenizer.ggml.tokens"]) == processor("bpe", **LLAMA).vocab_size()
