"""Choose the files of a Hugging Face checkpoint in a repository that has no GGUF model.

Independent of the hub.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from llamafw.errors import DownloadError
from llamafw.models.choose_model import format_names

CONFIG, INDEX = "config.json", "model.safetensors.index.json"

_SMALL = (
    CONFIG, INDEX, "generation_config.json", "hf_quant_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.jsonl",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json", "chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja",
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "[0-9]_*/config.json",
)  # fmt: skip
"""Files besides weights, as patterns."""

_DENSE = "[0-9]_*/model.safetensors"  # weights of the modules of sentence-transformers
_NOT_WEIGHTS = ("adapter_*", "consolidated*", "optimizer*")  # LoRA adapters, and copies in other formats
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def has_checkpoint(files: Collection[str]) -> bool:
    """Return whether a repository has a checkpoint and no GGUF file."""
    return CONFIG in files and not any(file.lower().endswith(".gguf") for file in files)


def choose_small_files(files: Iterable[str]) -> list[str]:
    """Return all files of a checkpoint but the weights."""
    return [file for file in files if any(fnmatchcase(file, pattern) for pattern in _SMALL)]


def choose_weights(files: Collection[str], folder: Path, source: str) -> list[str]:
    """Return the files with weights.

    Parameters
    ----------
    files : collection of str
        Paths of the files in the repository.
    folder : Path
        A folder with the small files, of which the index names the files with weights.
    source : str
        Name of the repository, for error messages.

    Raises
    ------
    DownloadError
        There are none, or one that the index names does not exist.
    """
    dense = [file for file in files if fnmatchcase(file, _DENSE)]
    if INDEX in files:
        chosen = _read_index(folder / INDEX, source)
        if missing := [file for file in chosen if file not in files]:
            raise DownloadError(f"{source} lacks {format_names(missing)}, which {INDEX} names")
        return chosen + dense
    found = sorted(file for file in files if fnmatchcase(file, "*.safetensors") and "/" not in file)
    found = [file for file in found if not any(fnmatchcase(file, pattern) for pattern in _NOT_WEIGHTS)]
    chosen = ["model.safetensors"] if "model.safetensors" in found else found
    if not chosen:
        pickles = sorted(file for file in files if any(fnmatchcase(file, pattern) for pattern in _PICKLES))
        hint = f"; {format_names(pickles)} can run code when they are opened, and are not used" if pickles else ""
        raise DownloadError(f"{source} has neither a GGUF model nor a *.safetensors file{hint}")
    return chosen + dense


def _read_index(path: Path, source: str) -> list[str]:
    try:
        files = set(json.loads(path.read_text("utf-8"))["weight_map"].values())
        if files and all(isinstance(file, str) and not Path(file).is_absolute() and ".." not in file for file in files):
            return sorted(files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # the error below
    raise DownloadError(f"{INDEX} of {source} does not name files with weights")
