"""Opens a folder with a Hugging Face checkpoint as a model.

Its config and tokenizer become GGUF's metadata, its tensors get GGUF's names and order. Numbers are converted when a
backend reads them, so the memory for a model is no larger than with a GGUF file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from llamafw.checkpoints.config import Config, read_config
from llamafw.checkpoints.conversion import Conversion, Convert, convert_checkpoint, limit_context
from llamafw.checkpoints.dense import read_dense_tensors
from llamafw.checkpoints.files import ReadTokenizer, files_metadata, folder_name
from llamafw.checkpoints.safetensors_files import read_safetensors
from llamafw.checkpoints.sentence_transformers import read_sentence_transformer
from llamafw.checkpoints.unpack import unpack
from llamafw.errors import ModelError, PluginError, suggest
from llamafw.types import Model


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is a folder with a checkpoint."""
    return path.is_dir() and (path / "config.json").is_file()


def find_conversion(config: Config, conversions: Mapping[str, Convert]) -> tuple[str, Conversion]:
    """Return the class of a checkpoint, and its conversion.

    Parameters
    ----------
    config : Config
        The checkpoint's config.
    conversions : mapping
        What plugins have registered, by class.

    Raises
    ------
    ModelError
        The config names no class, or one that no plugin can convert; or the conversion refuses the config.
    """
    classes = config.list("architectures", default=())
    if not classes or not all(isinstance(name, str) for name in classes):
        config.fail("architectures", f"is {classes!r:.80}; it must be a list of names of classes")
    known = [name for name in classes if name in conversions]
    if not known:
        raise ModelError(f"{config.path}: no plugin can convert a {classes[0]}{suggest(str(classes[0]), conversions)}")
    conversion = conversions[known[0]](config)
    if not isinstance(conversion, Conversion):
        raise PluginError(
            f"the conversion {known[0]!r} returned {conversion!r:.80}, not a llamafw.checkpoints.Conversion"
        )
    return known[0], conversion


def open_checkpoint(
    path: Path, conversions: Mapping[str, Convert], read_tokenizer: ReadTokenizer, *, mapped: bool = True
) -> Model:
    """Open a checkpoint.

    Parameters
    ----------
    path : Path
        The folder.
    conversions : mapping
        What plugins have registered, by class.
    read_tokenizer : callable
        Returns the metadata of the tokenizer in a folder, for so many tokens; None if it cannot read it.
    mapped : bool
        False reads the files into memory.

    Raises
    ------
    ModelError
        A file is missing or damaged, or the model is not supported; the message names the file.
    """
    config = read_config(path)
    class_name, conversion = find_conversion(config, conversions)
    if n_ctx := read_sentence_transformer(path).max_length:
        conversion = limit_context(conversion, n_ctx)
    found = unpack(config, read_safetensors(path, mapped=mapped))
    of_conversion, tensors = convert_checkpoint(conversion, found, class_name, path)
    if config.text_section().flag("tie_word_embeddings", default=config.flag("tie_word_embeddings", default=False)):
        tensors.pop("output.weight", None)
    tensors |= read_dense_tensors(path, mapped=mapped)
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{path}: the embedding of tokens is missing")

    metadata: dict[str, Any] = {"general.name": folder_name(path), **of_conversion}
    metadata |= files_metadata(path, conversion.architecture, embedding.shape[0], read_tokenizer)
    return Model(
        path=path,
        metadata=MappingProxyType({key: _as_gguf(value) for key, value in metadata.items()}),
        tensors=MappingProxyType(tensors),
        n_bytes=sum(tensor.n_bytes for tensor in tensors.values()),
    )


def _as_gguf(value: Any) -> Any:
    """Return numbers as read-only array of the types that llama.cpp accepts, int32 and float32; others as they are."""
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        return value
    if not isinstance(value, np.ndarray) and any(isinstance(one, str) for one in value):
        return value
    array = np.array(value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    elif array.dtype == np.int64 and (not array.size or np.abs(array).max() < 2**31):
        array = array.astype(np.int32)
    array.flags.writeable = False
    return array
