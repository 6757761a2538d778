"""Tiny working vocabularies.

Byte-level BPE ("gpt2"), BPE of characters with byte fallback ("llama", "gemma4"), WordPiece ("bert"), unigram ("t5"),
unigram with byte fallback ("plamo2").
"""

from __future__ import annotations

from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # GGUF's token types

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LETTERS = ("▁", *"etaoinsrhldcumfpgwybvkxjqzETAOINSRHLDCUMFPGWYBVKXJQZ.,;:!?'\"-()0123456789")
WORDS = ("the", "and", "ing", "ion", "er", "on", "an", "in", "re", "at", "st", "is", "to", "of", "he")


def byte_level_alphabet() -> list[str]:
    """Return the character that stands for each byte in GPT-2's byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in alphabet]
    alphabet |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [alphabet[byte] for byte in range(256)]


def merges(space: str) -> list[tuple[str, str]]:
    """Return the merges, by priority, that build each of `WORDS`, with and without a leading space."""
    pairs: dict[tuple[str, str], None] = {}
    for word in WORDS:
        for text in (word, space + word):
            for end in range(2, len(text) + 1):
                pairs[text[: end - 1], text[end - 1]] = None
    return list(pairs)


def gpt2(n_vocab: int | None = None) -> dict[str, Any]:
    """Return the metadata of a byte-level BPE vocabulary, padded with unused tokens to ``n_vocab``.

    Tokens 0 to 2 are ``<|endoftext|>``, ``<|im_start|>`` and ``<|im_end|>``, 3 to 258 the bytes; merged tokens follow.
    """
    pairs = merges("Ġ")
    merged = list(dict.fromkeys(a + b for a, b in pairs))
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_level_alphabet(), *merged]
    types = [CONTROL] * 3 + [NORMAL] * (256 + len(merged))
    _pad(tokens, types, n_vocab)

    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in pairs],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def spm(n_vocab: int | None = None) -> dict[str, Any]:
    """Return the metadata of a SentencePiece vocabulary, padded with unused tokens to ``n_vocab``.

    Tokens 0 to 2 are ``<unk>``, ``<s>`` and ``</s>``, 3 and 4 ``<|im_start|>`` and ``<|im_end|>``, 5 to 260 the bytes;
    merged pieces follow in the order of their scores, then single letters.
    """
    merged = list(dict.fromkeys(a + b for a, b in merges("▁")))
    tokens = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [UNKNOWN] + [CONTROL] * 4 + [BYTE] * 256
    scores = [0.0] * len(tokens)

    tokens += [*merged, *LETTERS]
    types += [NORMAL] * (len(merged) + len(LETTERS))
    scores += [-float(i) for i in range(len(merged) + len(LETTERS))]
    _pad(tokens, types, n_vocab)

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores + [-1e4] * (len(tokens) - len(scores)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.eot_token_id": 4,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
    }


def gemma4(n_vocab: int | None = None) -> dict[str, Any]:
    """Return the metadata of a vocabulary as in Gemma 4, padded with unused tokens to ``n_vocab``.

    Tokens 0 to 3 are ``<pad>``, ``<eos>``, ``<bos>`` and ``<unk>``, 4 and 5 ``<|turn>`` and ``<turn|>``, 6 to 261 the
    bytes; single letters and merged pieces follow.
    """
    pairs = merges("▁")
    pieces = dict.fromkeys((*LETTERS, *(a + b for a, b in pairs)))
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [CONTROL] * 3 + [UNKNOWN] + [CONTROL] * 2 + [BYTE] * 256 + [NORMAL] * len(pieces)
    tokens += pieces
    _pad(tokens, types, n_vocab)

    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in pairs],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.ggml.add_bos_token": True,
    }


def wordpiece(n_vocab: int | None = None) -> dict[str, Any]:
    """Return the metadata of an uncased WordPiece vocabulary, padded with unused tokens to ``n_vocab``.

    Tokens 0 to 4 are ``[PAD]``, ``[UNK]``, ``[CLS]``, ``[SEP]`` and ``[MASK]``; words and letters follow, each at the
    beginning of a word and within words.
    """
    texts = dict.fromkeys((*WORDS, *(letter.lower() for letter in LETTERS[1:])))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"▁{text}" for text in texts), *texts]
    types = [CONTROL, UNKNOWN, *[CONTROL] * 3] + [NORMAL] * (2 * len(texts))
    _pad(tokens, types, n_vocab)

    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
    }


def unigram(n_vocab: int | None = None) -> dict[str, Any]:
    """Return the metadata of a unigram vocabulary as in XLM-RoBERTa, padded with unused tokens to ``n_vocab``.

    Tokens 0 to 3 are ``<s>``, ``<pad>``, ``</s>`` and ``<unk>``; words follow, with and without a leading space, then
    letters. The rarer a token, the lower its score.
    """
    pieces = dict.fromkeys((*(f"▁{word}" for word in WORDS), *WORDS, *LETTERS))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *pieces]
    types = [CONTROL] * 3 + [UNKNOWN] + [NORMAL] * len(pieces)
    scores = [0.0] * 4 + [-2.0 - i / 16 for i in range(len(pieces))]
    _pad(tokens, types, n_vocab)

    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores + [-1e4] * (len(tokens) - len(scores)),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 2,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }


def plamo2(n_vocab: int | None = None) -> dict[str, Any]:
    """Return the metadata of a vocabulary as in PLaMo 2, padded with unused tokens to ``n_vocab``.

    Tokens 0 to 4 are ``<|plamo:unk|>``, ``<|plamo:bos|>``, ``<|plamo:eos|>``, ``<|plamo:pad|>`` and ``<|plamo:op|>``,
    5 to 260 the bytes; words follow, with and without a leading space, then ``</s>`` and letters. The rarer a token,
    the lower its score.
    """
    special = [f"<|plamo:{name}|>" for name in ("unk", "bos", "eos", "pad", "op")]
    pieces = dict.fromkeys((*(f" {word}" for word in WORDS), *WORDS, "</s>", " ", *LETTERS[1:]))
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [UNKNOWN] + [CONTROL] * 4 + [BYTE] * 256 + [NORMAL] * len(pieces)
    scores = [0.0] * 261 + [-2.0 - i / 16 for i in range(len(pieces))]
    _pad(tokens, types, n_vocab)

    return {
        "tokenizer.ggml.model": "plamo2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores + [-1e4] * (len(tokens) - len(scores)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 3,
        "tokenizer.ggml.eot_token_id": 4,
        "tokenizer.ggml.add_bos_token": True,
    }


def _pad(tokens: list[str], types: list[int], n_vocab: int | None) -> None:
    if n_vocab is None:
        return
    if n_vocab < len(tokens):
        raise ValueError(f"n_vocab is {n_vocab}; this vocabulary needs at least {len(tokens)} tokens")
    n = n_vocab - len(tokens)
    tokens += [f"[PAD{i}]" for i in range(n)]
    types += [UNUSED] * n


BY_TOKENIZER = {"gpt2": gpt2, "llama": spm, "gemma4": gemma4, "bert": wordpiece, "t5": unigram, "plamo2": plamo2}
"""The functions above, by the tokenizer's name in GGUF files."""
