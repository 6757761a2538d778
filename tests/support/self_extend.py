"""The positions of self-extend as llama.cpp computed them, and a model that finds a passkey at known distances only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from llamafw.testing.tiny import write_tiny_gguf


def llama_cpp_positions(n: int, factor: int, width: int) -> npt.NDArray[np.int64]:
    """Return the positions that each token sees the others and itself at, ``(n, n)``.

    This is the procedure of llama.cpp's example "passkey" and of its server until October 2024, token by token, with
    its operations on the KV cache: seq_add, seq_div, seq_add.
    """
    positions = np.zeros(n, np.int64)
    seen = np.zeros((n, n), np.int64)
    n_past = ga_i = 0

    def seq_add(first: int, end: int, delta: int, n_cached: int) -> None:
        cached = positions[:n_cached]
        cached[(cached >= first) & (cached < end)] += delta

    def seq_div(first: int, end: int, divisor: int, n_cached: int) -> None:
        cached = positions[:n_cached]
        chosen = (cached >= first) & (cached < end)
        cached[chosen] //= divisor

    for token in range(n):
        while n_past >= ga_i + width:
            ib = factor * ga_i // width
            bd = width // factor * (factor - 1)
            dd = width // factor - ib * bd - width
            seq_add(ga_i, n_past, ib * bd, token)
            seq_div(ga_i + ib * bd, ga_i + ib * bd + width, factor, token)
            seq_add(ga_i + ib * bd + width, n_past + ib * bd, dd, token)
            n_past -= bd
            ga_i += width // factor
        positions[token] = n_past
        n_past += 1
        seen[token] = positions
    return seen


N_TRAINED = 256
"""The context of the passkey model, in tokens."""

FILLER, QUESTION = ord("x") + 3, ord("?") + 3  # the vocabulary begins with 3 control tokens, then the bytes
DIGITS = range(ord("0") + 3, ord("9") + 4)

_ANGLE = np.pi / 2 / N_TRAINED  # by which a key turns per position: at the end of the context, it is not found


def write_passkey_model(path: Path) -> Path:
    """Write a model that answers ``?`` with the digit in the text before it, up to distances of its context.

    The only layer has one head. The query of ``?`` and the keys of digits are the same vector, whose score is the
    cosine of the angle between their positions: positive at the distances of the context only. Without a digit, or if
    it is too far away, the answer is ``x``.
    """
    is_digit, is_question, digit, answer, other = 0, 1, 2, 12, 22  # axes of the hidden states
    n_vocab, n_embd = 320, 64
    embedding, output = np.zeros((2, n_vocab, n_embd), np.float32)
    embedding[:, other] = 1
    embedding[QUESTION] = 0
    embedding[QUESTION, is_question] = 1
    output[FILLER, is_question] = 1
    q, k, v, mix = np.zeros((4, n_embd, n_embd), np.float32)
    q[-2, is_question] = k[-2, is_digit] = 6  # the last pair turns most slowly
    for i, token in enumerate(DIGITS):
        embedding[token] = 0
        embedding[token, [is_digit, digit + i]] = 1
        v[i, digit + i] = mix[answer + i, i] = 1
        output[token, answer + i] = 1
    zeros = np.zeros((n_embd, n_embd), np.float32)
    ones = np.ones(n_embd, np.float32)
    tensors = {
        "token_embd.weight": embedding,
        "output.weight": output,
        "output_norm.weight": ones,
        "blk.0.attn_norm.weight": ones,
        "blk.0.ffn_norm.weight": ones,
        "blk.0.attn_q.weight": q,
        "blk.0.attn_k.weight": k,
        "blk.0.attn_v.weight": v,
        "blk.0.attn_output.weight": mix,
        **{f"blk.0.ffn_{name}.weight": zeros for name in ("gate", "up", "down")},
    }
    base = float(_ANGLE ** (-n_embd / (n_embd - 2)))  # the lowest frequency is base ** (2 / n_embd - 1)
    return write_tiny_gguf(
        path,
        n_layer=1,
        n_head=1,
        n_head_kv=1,
        n_embd=n_embd,
        n_ff=n_embd,
        n_vocab=n_vocab,
        n_ctx=N_TRAINED,
        metadata={"llama.rope.freq_base": base},
        tensors=tensors,
    )


def passkey_prompt(key: int, n_before: int, n_after: int) -> list[int]:
    """Return a prompt with a digit after ``n_before`` tokens, and the question ``n_after`` tokens later."""
    return [FILLER] * n_before + [DIGITS[key]] + [FILLER] * n_after + [QUESTION]
