"""What a checkpoint's files say besides weights, as GGUF's metadata: tokenizer, chat template, sampling, pooling.

Plugins read tokenizers, by the hook ``read_tokenizer``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llamafw.checkpoints.chat_templates import chat_template_metadata
from llamafw.checkpoints.generation_config import sampling_metadata
from llamafw.checkpoints.sentence_transformers import sentence_transformer_metadata
from llamafw.errors import ModelError

ReadTokenizer = Callable[[Path, int], Mapping[str, Any] | None]
"""Returns the metadata ``tokenizer.ggml.*`` of a folder, for a model with so many tokens; None if it cannot."""


def files_metadata(folder: Path, architecture: str, n_vocab: int, read_tokenizer: ReadTokenizer) -> dict[str, Any]:
    """Return the keys of the tokenizer, the chat templates, the recommended sampling, and the pooling.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    architecture : str
        GGUF's name of the architecture.
    n_vocab : int
        Rows of the embedding. There may be fewer tokens; then ``[PAD0]`` … are added.
    read_tokenizer : callable
        Reads the tokenizer.

    Raises
    ------
    ModelError
        A file is missing or damaged, or describes something that is not supported.
    """
    tokenizer = read_tokenizer(folder, n_vocab)
    if tokenizer is None:
        raise ModelError(f"{folder} has no tokenizer of a known kind: no tokenizer.json, tokenizer.model or vocab.txt")
    return {
        **tokenizer,
        **chat_template_metadata(folder),
        **sampling_metadata(folder),
        **sentence_transformer_metadata(folder, architecture),
    }


def folder_name(path: Path) -> str:
    """Return the name of a folder; of a folder in the hub's cache, the name of the repository."""
    path = path.resolve()
    repository = re.fullmatch("models--.+?--(.+)", path.parent.parent.name)
    return repository[1] if repository and path.parent.name == "snapshots" else path.name
