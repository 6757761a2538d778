"""``llamafw inspect``: print what a model file has, and whether it runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llamafw.cli.parser import CommandParser
from llamafw.engine.load import open_model
from llamafw.engine.what_runs import Runnable, what_runs
from llamafw.interfaces import Quant, Tokenizer
from llamafw.models.find import find_model
from llamafw.models.tensor_types import byte_size
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model

EXAMPLE = """\
llamafw inspect model.gguf
llamafw inspect model.gguf --json | jq .metadata"""

MAX_TEXT = 72  # characters of a value that are printed
MAX_ITEMS = 6  # of an array
TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class TypeSize:
    """The tensors of one type."""

    tensors: int
    weights: int
    bytes: int


def run(argv: list[str]) -> int:
    """Print a description of a model."""
    parser = CommandParser(
        "llamafw inspect",
        "Print what a model file has: metadata, tensors, tokenizer and chat template, and whether it runs.",
        example=EXAMPLE,
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="GGUF file or other model, or a name from the catalogue"
    )
    parser.add_argument("--tensors", action="store_true", help="print all tensors")
    parser.add_argument("--template", action="store_true", help="print the whole chat template")
    parser.add_argument("--json", action="store_true", help="print JSON: everything, with long arrays shortened")
    parser.add_argument(
        "--plugin",
        metavar="NAME|MODULE|FILE.py",
        action="append",
        default=[],
        help="load an additional plugin; may be repeated",
    )
    args = parser.parse(argv)
    if args.model is None:
        parser.error("MODEL is missing")
    settings, plugins = Settings(model=args.model), Plugins(extra=args.plugin)
    model = open_model(find_model(settings), settings, plugins)
    found = what_runs(model, plugins)
    types = type_sizes(model, plugins.registry("quant"))

    if args.json:
        print(json.dumps(_as_json(model, types, found), indent=2, ensure_ascii=False))
        return 0
    sections = [_summary(model, types, found), _types_table(types), _tokenizer_text(model, found.tokenizer)]
    sections += [_template_text(model, whole=args.template), _metadata_text(model)]
    if args.tensors:
        sections.append(_tensors_text(model))
    print("\n\n".join(section for section in sections if section))
    return 0


def type_sizes(model: Model, quants: Mapping[str, Quant]) -> dict[str, TypeSize]:
    """Return the sizes of the tensors of each type, the largest first."""
    sizes: dict[str, TypeSize] = {}
    for tensor in model.tensors.values():
        old = sizes.get(tensor.type_name, TypeSize(0, 0, 0))
        n = math.prod(tensor.shape)
        n_bytes = byte_size(tensor.shape, quants[tensor.type_name]) or 0
        sizes[tensor.type_name] = TypeSize(old.tensors + 1, old.weights + n, old.bytes + n_bytes)
    return dict(sorted(sizes.items(), key=lambda item: -item[1].bytes))


def _summary(model: Model, types: Mapping[str, TypeSize], found: Runnable) -> str:
    n_weights = sum(size.weights for size in types.values())
    bits = 8 * model.n_bytes / n_weights if n_weights else 0
    lines = [
        str(model.path),
        f"{model.n_bytes / 1e6:.1f} MB in {len(model.tensors)} tensors; {_count(n_weights)} weights of {bits:.2f} bits",
    ]
    for label, key in (("name", "general.name"), ("architecture", "general.architecture")):
        if isinstance(value := model.metadata.get(key), str):
            lines.append(f"{label}: {value}")
    graph = found.graph
    if graph is not None:
        what = "generates text" if graph.logits is not None else "embeds texts"
        lines.append(f"context: {graph.n_ctx_train} tokens, hidden states of {graph.n_embd}; the model {what}")
        if graph.prediction is not None:
            lines.append("the model has a block for multi-token prediction; --spec-type draft-mtp makes drafts with it")
    if found.problems:
        lines.append(f"runs: no, {'; '.join(found.problems.values())}")
    else:
        lines.append(f"runs: yes, with the backends {', '.join(_able(found)) or 'of plugins'}")
        lines += [f"  not with {name}: {reason}" for name, reason in found.backends.items() if reason is not None]
    return "\n".join(lines)


def _able(found: Runnable) -> list[str]:
    return [name for name, reason in found.backends.items() if reason is None]


def _types_table(types: Mapping[str, TypeSize]) -> str:
    n_bytes = sum(size.bytes for size in types.values())
    lines = [f"{'type':10}{'tensors':>8}{'weights':>10}{'MB':>10}{'share':>8}"]
    for name, size in types.items():
        share = size.bytes / n_bytes if n_bytes else 0
        lines.append(f"{name:10}{size.tensors:8}{_count(size.weights):>10}{size.bytes / 1e6:10.1f}{share:8.1%}")
    return "\n".join(lines)


def _tokenizer_text(model: Model, tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return ""
    metadata = model.metadata
    lines = [f"tokenizer: {metadata.get('tokenizer.ggml.model')}, {tokenizer.n_vocab} tokens"]
    if isinstance(pre := metadata.get("tokenizer.ggml.pre"), str):
        lines[0] += f", pre-tokenizer {pre}"
    for name, token, added in (
        ("BOS", tokenizer.bos, tokenizer.add_bos),
        ("EOS", tokenizer.eos, tokenizer.add_eos),
    ):
        if token is not None:
            lines.append(f"{name}: {_token_text(tokenizer, token)}{', added to prompts' if added else ''}")
    ends = ", ".join(_token_text(tokenizer, token) for token in sorted(tokenizer.eog))
    return "\n".join([*lines, f"ends of generation: {ends or 'none'}"])


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    return f"{token} {tokenizer.piece(token, special=True).decode(errors='replace')!r}"


def _template_text(model: Model, *, whole: bool) -> str:
    template = model.metadata.get(TEMPLATE)
    if not isinstance(template, str):
        return "chat template: none"
    if whole:
        return f"chat template:\n{template}"
    return f"chat template: {len(template)} characters (--template prints it): {_shortened(template)}"


def _metadata_text(model: Model) -> str:
    lines = [f"metadata: {len(model.metadata)} values"]
    lines += [f"  {key} = {_value_text(value)}" for key, value in model.metadata.items()]
    return "\n".join(lines)


def _tensors_text(model: Model) -> str:
    width = max((len(name) for name in model.tensors), default=0)
    lines = [f"tensors: {len(model.tensors)}"]
    for name, tensor in model.tensors.items():
        lines.append(f"  {name:{width}}  {tensor.type_name:8}{'×'.join(map(str, tensor.shape))}")
    return "\n".join(lines)


def _value_text(value: Any) -> str:
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, list | np.ndarray):
        items = ", ".join(_value_text(item) for item in value[:MAX_ITEMS])
        return f"[{items}{', …' if len(value) > MAX_ITEMS else ''}] ({len(value)})"
    return str(value)


def _shortened(text: str) -> str:
    text = repr(text)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _count(n: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)


def _as_json(model: Model, types: Mapping[str, TypeSize], found: Runnable) -> dict[str, Any]:
    graph, tokenizer = found.graph, found.tokenizer
    n_weights = sum(size.weights for size in types.values())
    return {
        "path": str(model.path),
        "architecture": _plain(model.metadata.get("general.architecture")),
        "runs": not found.problems,
        "problems": found.problems,
        "backends": found.backends,
        "n_bytes": model.n_bytes,
        "n_weights": n_weights,
        "bits_per_weight": 8 * model.n_bytes / n_weights if n_weights else 0,
        "n_ctx_train": None if graph is None else graph.n_ctx_train,
        "n_embd": None if graph is None else graph.n_embd,
        "n_vocab": None if graph is None else graph.n_vocab,
        "predicts_further_token": graph is not None and graph.prediction is not None,
        "types": {name: asdict(size) for name, size in types.items()},
        "tokenizer": None
        if tokenizer is None
        else {
            "model": _plain(model.metadata.get("tokenizer.ggml.model")),
            "n_vocab": tokenizer.n_vocab,
            "bos": tokenizer.bos,
            "eos": tokenizer.eos,
            "eog": sorted(tokenizer.eog),
            "add_bos": tokenizer.add_bos,
            "add_eos": tokenizer.add_eos,
        },
        "chat_template": _plain(model.metadata.get(TEMPLATE)),
        "metadata": {key: _plain(value) for key, value in model.metadata.items()},
        "tensors": [
            {"name": name, "type": tensor.type_name, "shape": list(tensor.shape)}
            for name, tensor in model.tensors.items()
        ],
    }


def _plain(value: Any) -> Any:
    """Return a value of the metadata for JSON: long arrays become their length and first items."""
    if isinstance(value, list | np.ndarray):
        items = [_plain(item) for item in value[: None if len(value) <= 64 else MAX_ITEMS]]
        return items if len(value) <= 64 else {"length": len(value), "first": items}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
