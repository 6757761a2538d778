"""Reads what sentence-transformers adds to a checkpoint of an embedding model: pooling, dense layers and prompts.

``modules.json`` lists what happens to a text, one module after another: a transformer, pooling, dense layers,
normalisation (https://sbert.net/docs/sentence_transformer/usage/custom_models.html).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafw.checkpoints.config import Config, read_json
from llamafw.errors import ModelError

POOLING_TYPES = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
"""Pooling → value of ``{architecture}.pooling_type``."""

PROMPT_KEY = "sentence_transformers.prompts."
"""Beginning of the metadata keys of prompts; the rest is the prompt's name."""

DEFAULT_PROMPT_KEY = "sentence_transformers.default_prompt"
"""Metadata key of the name of the prompt before texts that name none."""

DENSE_NAMES = ("dense_2", "dense_3")
"""GGUF's names of the dense layers, in order."""

_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_NAMES = {"mean": "mean", "cls": "cls", "lasttoken": "last"}  # pooling_mode in newer files
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A dense layer after pooling."""

    folder: str  # "2_Dense", which has its tensors
    n_in: int
    n_out: int
    bias: bool
    activation: str  # "identity", "tanh", "relu" or "gelu"


@dataclass(frozen=True, slots=True)
class SentenceTransformer:
    """What follows the transformer of an embedding model."""

    pooling: str | None = None  # "mean", "cls" or "last"; None: the checkpoint does not say it
    dense: tuple[DenseLayer, ...] = ()
    normalizes: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)  # name → text before the input, such as "query: "
    default_prompt: str | None = None  # name
    max_length: int | None = None  # tokens


def read_sentence_transformer(folder: Path) -> SentenceTransformer:
    """Return what the checkpoint in a folder says; the defaults if it has no ``modules.json``.

    Raises
    ------
    ModelError
        A file is missing or damaged, or a module is not supported.
    """
    pooling: str | None = None
    dense: list[DenseLayer] = []
    normalizes = False
    for kind, path in _modules(folder):
        if kind == "Pooling":
            pooling = _read_pooling(folder / path / "config.json")
        elif kind == "Dense":
            dense.append(_read_dense(folder, path))
        elif kind == "Normalize":
            normalizes = True
        elif kind not in ("Transformer", "Dropout"):
            raise ModelError(f"{folder / 'modules.json'}: the module {kind!r} is not supported")
    prompts, default = _read_prompts(folder / "config_sentence_transformers.json")
    if pooling == "mean" and any(prompts.values()):
        _require_prompts_in_mean(folder)
    return SentenceTransformer(pooling, tuple(dense), normalizes, prompts, default, _read_max_length(folder))


def sentence_transformer_metadata(folder: Path, architecture: str) -> dict[str, Any]:
    """Return metadata of the pooling and the dense layers, as GGUF names them, of the prompts, and of shorter sizes.

    Nothing if the checkpoint has no files of sentence-transformers.
    """
    model = read_sentence_transformer(folder)
    metadata: dict[str, Any] = {f"{PROMPT_KEY}{name}": text for name, text in model.prompts.items()}
    if model.default_prompt is not None:
        metadata[DEFAULT_PROMPT_KEY] = model.default_prompt
    if sizes := _read_sizes(folder / "config.json"):
        metadata[f"{architecture}.matryoshka_dimensions"] = sizes
    if model.pooling:
        metadata[f"{architecture}.pooling_type"] = POOLING_TYPES[model.pooling]
    for name, layer in zip(DENSE_NAMES, model.dense, strict=False):
        metadata |= {f"{architecture}.{name}_feat_in": layer.n_in, f"{architecture}.{name}_feat_out": layer.n_out}
    return metadata


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return the class and the folder of each module."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        modules = json.loads(path.read_text("utf-8"))
        return [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path} is not a list of modules with type and path: {error!r}") from None


def _read_pooling(path: Path) -> str:
    config = read_json(path)
    found = [mode for key, mode in _MODES.items() if config.get(key) is True]
    others = [
        key for key, value in config.items() if key.startswith("pooling_mode_") and value is True and key not in _MODES
    ]
    if not found and not others and config.get("pooling_mode") in _NAMES:
        return _NAMES[config["pooling_mode"]]
    if len(found) != 1 or others:
        raise ModelError(f"{path}: only pooling by mean, by the first token (cls) or by the last one is supported")
    return found[0]


def _require_prompts_in_mean(folder: Path) -> None:
    """Raise ModelError if the mean of a text leaves out the tokens of its prompt, as in INSTRUCTOR."""
    for kind, path in _modules(folder):
        if kind == "Pooling":
            file = folder / path / "config.json"
            Config(file, read_json(file)).require("include_prompt", True, default=True)


def _read_dense(folder: Path, path: str) -> DenseLayer:
    file = folder / path / "config.json"
    config = Config(file, read_json(file))
    activation = config.text("activation_function", default="torch.nn.modules.linear.Identity").rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        config.fail("activation_function", f"is {activation!r}, which is not supported")
    return DenseLayer(
        folder=path,
        n_in=config.integer("in_features"),
        n_out=config.integer("out_features"),
        bias=config.flag("bias", default=True),
        activation=_ACTIVATIONS[activation],
    )


def _read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """Return the prompts by name, and the name of the default one."""
    if not path.is_file():
        return {}, None
    config = Config(path, read_json(path))
    prompts = config.section("prompts").values
    if not all(isinstance(text, str) for text in prompts.values()):
        config.fail("prompts", "has a value that is not a string")
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        config.fail("default_prompt_name", f"is {default!r:.80}, which is none of prompts")
    return dict(prompts), default


def _read_sizes(path: Path) -> list[int]:
    """Return the numbers of dimensions to which the model was trained to shorten embeddings, as Jina and others do."""
    if not path.is_file():
        return []
    sizes = read_json(path).get("matryoshka_dimensions") or []
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise ModelError(f"{path}: matryoshka_dimensions is not a list of positive integers")
    return sizes


def _read_max_length(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    if not path.is_file():
        return None
    config = Config(path, read_json(path))
    return config.integer("max_seq_length") if config.has("max_seq_length") else None
