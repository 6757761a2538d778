"""Write tiny Llama models with random weights as real GGUF files, with the `gguf` package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llamafw.testing import vocabularies
from llamafw.testing.gguf_file import write_gguf
from llamafw.testing.random_tensors import random_tensor


def write_tiny_gguf(
    path: Path,
    *,
    n_vocab: int | None = None,
    n_embd: int = 64,
    n_layer: int = 2,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_embd_head: int | None = None,
    n_ff: int = 128,
    n_ctx: int = 512,
    types: str | Mapping[str, str] = "F32",
    tokenizer: Literal["gpt2", "llama", "gemma4", "bert", "t5", "plamo2"] | None = "gpt2",
    chat_template: str | None = vocabularies.CHATML,
    tied: bool = True,
    biases: bool = False,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, npt.NDArray[np.float32] | None] | None = None,
    part_tensors: int = 0,
) -> Path:
    """Write a Llama model with random weights and a working tokenizer; return ``path``.

    Parameters
    ----------
    path : Path
        The file to write.
    n_vocab : int, optional
        Number of tokens. Default: as many as the vocabulary has, about 320; without a vocabulary 320.
    n_embd, n_layer, n_head, n_head_kv, n_ff, n_ctx : int
        Sizes of the model.
    n_embd_head : int, optional
        Size of a head, which is then also in the metadata. Default: ``n_embd // n_head``.
    types : str or mapping
        Tensor type of all matrices, or a mapping from roles (``"attn_v"``, ``"token_embd"``, ``"output"``;
        ``"default"`` for the others) to types in `llamafw.testing.random_tensors.WRITABLE`. Norms and biases are F32.
    tokenizer : {"gpt2", "llama", "gemma4", "bert", "t5", "plamo2"}, optional
        Kind of vocabulary, from `llamafw.testing.vocabularies`. None: no vocabulary.
    chat_template : str, optional
        Jinja template in the metadata. None: no template.
    tied : bool
        Use the embedding as the output matrix too, without ``output.weight``.
    biases : bool
        Add biases to the attention projections.
    seed : int
        Seed of the weights.
    metadata : mapping, optional
        Keys to add or replace (int → uint32, float → float32, bool, str, list). A value of None removes the key.
    tensors : mapping, optional
        F32 tensors to add or replace. A value of None leaves the tensor out.
    part_tensors : int
        Split the model into files of at most this many tensors. Their names are made from ``path``, but none of them
        has this name. 0: one file at ``path``.
    """
    rng = np.random.default_rng(seed)
    vocabulary = vocabularies.BY_TOKENIZER[tokenizer](n_vocab) if tokenizer else {}
    n_vocab = len(vocabulary["tokenizer.ggml.tokens"]) if tokenizer else n_vocab or 320
    size = n_embd_head or n_embd // n_head
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": n_layer,
        "llama.context_length": n_ctx,
        "llama.embedding_length": n_embd,
        "llama.feed_forward_length": n_ff,
        "llama.attention.head_count": n_head,
        "llama.attention.head_count_kv": n_head_kv,
        "llama.attention.key_length": n_embd_head,
        "llama.attention.value_length": n_embd_head,
        "llama.rope.dimension_count": size,
        "llama.rope.freq_base": 10_000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": n_vocab,
        **vocabulary,
        "tokenizer.chat_template": chat_template if tokenizer else None,
        **(metadata or {}),
    }

    kinds = {"default": types} if isinstance(types, str) else {"default": "F32", **types}
    shapes = {
        "attn_q": (n_head * size, n_embd),
        "attn_k": (n_head_kv * size, n_embd),
        "attn_v": (n_head_kv * size, n_embd),
        "attn_output": (n_embd, n_head * size),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }
    made: dict[str, tuple[npt.NDArray[np.generic], str]] = {}

    def add_matrix(name: str, role: str, shape: tuple[int, int], std: float) -> None:
        kind = kinds.get(role, kinds["default"])
        made[name] = (random_tensor(rng, shape, kind, std), kind)

    def add_vector(name: str, n: int, mean: float) -> None:
        made[name] = (random_tensor(rng, (n,), "F32", 0.1, mean), "F32")

    add_matrix(
        "token_embd.weight", "token_embd", (n_vocab, n_embd), 3 / n_embd**0.5
    )  # logits with a standard deviation of about 3
    add_vector("output_norm.weight", n_embd, 1.0)
    if not tied:
        add_matrix("output.weight", "output", (n_vocab, n_embd), 3 / n_embd**0.5)
    for layer in range(n_layer):
        add_vector(f"blk.{layer}.attn_norm.weight", n_embd, 1.0)
        add_vector(f"blk.{layer}.ffn_norm.weight", n_embd, 1.0)
        for role, shape in shapes.items():
            add_matrix(f"blk.{layer}.{role}.weight", role, shape, 1.5 / shape[1] ** 0.5)
            if biases and role.startswith("attn"):
                add_vector(f"blk.{layer}.{role}.bias", shape[0], 0.0)

    for name, value in (tensors or {}).items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = (value, "F32")

    architecture = keys.pop("general.architecture")  # the writer adds this key itself
    write_gguf(path, architecture, keys, made, part_tensors)
    return path
