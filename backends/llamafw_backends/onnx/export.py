"""Writes a model as an ONNX model for other programs: ``llamafw export``.

The model computes one text. All inputs but tokens, positions, wanted rows and states are computed in it, and so are the
embeddings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from llamafw import (
    BackendContext,
    LlamafwError,
    ModelError,
    Settings,
    SettingsError,
    Tokenizer,
    open_context,
    part_files,
)
from llamafw import graph as g
from llamafw_backends.onnx.backend import start_lowering
from llamafw_backends.onnx.code_products import add_codes
from llamafw_backends.onnx.lowering import Lowering, lower_graph
from llamafw_backends.onnx.matrices import add_transposed, form_of, matrix_name, packed_codes
from llamafw_backends.onnx.model_builder import Array, Dimensions, ModelBuilder
from llamafw_backends.onnx.placement import choose_device, support_of
from llamafw_backends.onnx.providers import PROVIDERS

FILES = MODEL, WEIGHTS, DESCRIPTION, TOKENIZER = "model.onnx", "model.onnx.data", "model.json", "tokenizer.json"
ALIGNMENT = 4096  # bytes, so that the weights can be mapped into memory

FLOAT, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32


def run(argv: list[str]) -> int:
    """Run ``llamafw export MODEL DIR``."""
    parser = argparse.ArgumentParser(
        "llamafw export",
        description="Write a model as an ONNX model with external weights, and its tokenizer as tokenizer.json. "
        "model.json describes the inputs. docs/export.md has an example that runs it.",
    )
    parser.add_argument("model", metavar="MODEL", help="GGUF file, or a name from the catalogue")
    parser.add_argument("folder", metavar="DIR", type=Path, help="where the files are written; it is created")
    parser.add_argument("-c", "--ctx-size", metavar="N", type=int, help="positions (default: the context of the model)")
    parser.add_argument(
        "--onnx-provider",
        choices=tuple(PROVIDERS),
        default="cpu",
        help="what the nodes are chosen for; it must work here. Activations are float32 on the CPU, float16 on GPUs "
        "(default: cpu)",
    )
    parser.add_argument(
        "--cache-type", choices=("f32", "f16"), default="f16", help="type of keys and values (default: f16)"
    )
    parser.add_argument("--force", action="store_true", help="replace the model that is in DIR")
    parser.add_argument("--plugin", metavar="NAME", action="append", default=[], help="load an additional plugin")
    args = parser.parse_args(argv)
    if args.ctx_size is not None and args.ctx_size < 1:
        raise SettingsError(f"export: -c {args.ctx_size} is not a number of positions")
    check_folder(args.folder, force=args.force)

    settings = Settings(
        model=args.model,
        ctx_size=args.ctx_size or 0,
        parallel=1,
        cache_type_k=args.cache_type,
        cache_type_v=args.cache_type,
        extra={"onnx_provider": args.onnx_provider},
    )
    context, tokenizer = open_context(settings, args.plugin)
    size = export(context, tokenizer, args.folder, force=args.force)
    print(f"{args.folder}: {MODEL} with {size / 1e6:,.1f} MB of weights, {DESCRIPTION}")
    if (args.folder / TOKENIZER).exists():
        print(f"{args.folder}: {TOKENIZER}")
    else:
        print(f"no {TOKENIZER}: the library tokenizers cannot do the same as this model's tokenizer")
    return 0


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise ModelError if a model cannot be written to a folder because of what is there."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is not a folder")
    for path in (folder / name for name in FILES):
        if path.is_dir():
            raise ModelError(f"{path} is a folder; choose another DIR")
        if path.exists() and not force:
            raise ModelError(f"{path} exists; --force replaces the model in {folder}")


def export(context: BackendContext, tokenizer: Tokenizer, folder: Path, *, force: bool = False) -> int:
    """Write the model, its description, and its tokenizer if that can be a ``tokenizer.json``, to a folder.

    Parameters
    ----------
    context : BackendContext
        The model.
    tokenizer : Tokenizer
        Its tokenizer.
    folder : Path
        The folder; it is created.
    force : bool
        Replace the model that is in the folder.

    Returns
    -------
    int
        The size of the weights in bytes.

    Raises
    ------
    ModelError
        There is a model in the folder, or the files cannot be written. Nothing is left of them, and an earlier model
        stays as it is.
    """
    check_folder(folder, force=force)
    support = support_of(choose_device(context))
    n_ctx = context.options.n_ctx or context.graph.n_ctx_train
    builder = ExportBuilder(support.float_type)
    builder.lowering = lowering = start_lowering(context, support, n_ctx, builder)
    lower_graph(lowering)

    states = {state.past for state in lowering.states}
    unknown = set(builder.input_names) - states - INPUTS.keys()
    if unknown:
        raise LlamafwError(f"export: the inputs {', '.join(sorted(unknown))} cannot be computed in the model")

    description = json.dumps(describe(lowering, tokenizer), indent=2) + "\n"
    locations, size = place_weights(builder.weights)
    model, to_json = builder.build(locations).SerializeToString(), getattr(tokenizer, "to_json", None)
    try:
        with part_files([folder / name for name in FILES], len(model) + size) as parts:
            parts[0].write_bytes(model)
            write_weights(builder.weights, locations, parts[1])
            parts[2].write_text(description, encoding="utf-8")
            if to_json is not None:
                parts[3].write_text(to_json(), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{folder}: the model cannot be written: {error.strerror or error}") from error
    return size


def place_weights(weights: Mapping[str, Array]) -> tuple[dict[str, tuple[str, int]], int]:
    """Return where each weight is in the file that has all of them, and the size of that file in bytes."""
    locations, end = {}, 0
    for name, array in weights.items():
        start = -(-end // ALIGNMENT) * ALIGNMENT
        locations[name], end = (WEIGHTS, start), start + array.nbytes
    return locations, end


def write_weights(weights: Mapping[str, Array], locations: Mapping[str, tuple[str, int]], path: Path) -> None:
    """Write weights to a file, each to its place."""
    with path.open("wb") as file:
        for name, array in weights.items():
            file.write(bytes(locations[name][1] - file.tell()))
            file.write(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")


INPUTS = {
    "tokens": "(n_tokens,) int64: the tokens of the text that are new",
    "positions": "(n_tokens,) int64: their positions, from 0; they follow those in the states",
    "types": "(n_tokens,) int64: their types: 0, or 1 for the tokens of the second of two texts",
    "rows": "(n_rows,) int64: which of the new tokens' logits are wanted",
}
OUTPUTS = {
    "logits": "(n_rows, n_vocab) float32: scores of the token after each wanted one",
    "hidden": "(n_rows, n_embd) float32: hidden states of the wanted tokens",
}


def describe(lowering: Lowering, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what a program must know to run the model."""
    graph, metadata = lowering.context.graph, lowering.context.model.metadata
    declared = lowering.builder.input_names
    return {
        "architecture": metadata.get("general.architecture"),
        "name": metadata.get("general.name"),
        "n_ctx": lowering.n_ctx,
        "n_vocab": graph.n_vocab,
        "n_embd": graph.n_embd,
        "inputs": {name: text for name, text in INPUTS.items() if name in declared},
        "outputs": {name: text for name, text in OUTPUTS.items() if name == "hidden" or graph.logits is not None},
        "states": [
            {
                "input": state.past,
                "output": state.present,
                "dtype": str(state.dtype),
                "shape": [1, state.shape[0], lowering.n_ctx, state.shape[1]] if state.grows else [1, *state.shape],
            }
            for state in lowering.states
        ],
        "states_begin_with": "zeros; each run gets the states that the run before returned",
        "bos": tokenizer.bos if tokenizer.add_bos else None,
        "eog": sorted(tokenizer.eog),
        "chat_template": metadata.get("tokenizer.chat_template"),
    }


@dataclass(slots=True)
class ExportBuilder(ModelBuilder):
    """A builder of models whose inputs are those of `INPUTS` and states; others are computed from these."""

    lowering: Lowering = field(init=False)
    _computed: dict[str, str] = field(default_factory=dict)

    def input(self, name: str, dtype: Any, shape: Dimensions | None) -> str:
        """Declare an input, or compute it; return its name."""
        if name not in self._computed:
            make = self._find(name)
            if make is None:
                return ModelBuilder.input(self, name, dtype, shape)
            self._computed[name] = make()
        return self._computed[name]

    def _find(self, name: str) -> Callable[[], str] | None:
        """Return what adds the nodes that compute an input; None if it stays an input."""
        low, (kind, _, part) = self.lowering, name.rpartition(".")
        if name in low.lookups:
            return lambda: _add_lookup(low, low.lookups[name])
        if kind in low.rotations:
            return lambda: self._angles(low.rotations[kind], part)
        return {
            "active": lambda: self.ints(0),
            "slots": lambda: self.node("Mul", self._positions(), self.ints(0)),
            "lengths": lambda: self.node("Shape", self._tokens()),
            "padded": lambda: self.node("Unsqueeze", self._numbers(self._tokens()), self.ints(0)),
            "slot_rows": lambda: self.input("padded", np.int64, None),
            "unpadded": lambda: self._numbers(self._tokens()),
            "slot_unpadded": lambda: self.input("unpadded", np.int64, None),
            "n_keys": lambda: self.node("Add", self._last_position(), self.ints(1)),
            "logit_rows": lambda: self._numbers(ModelBuilder.input(self, "rows", np.int64, ["n_rows"])),
            "sequence_starts": lambda: self.node("Concat", self.constant([0], np.int32), self._n_tokens(), axis=0),
            "query_lengths": lambda: self._n_tokens(),
            "last_positions": lambda: self.node("Cast", self._last_position(), to=INT32),
            "n_cached": lambda: self.node(
                "Squeeze", self.node("Cast", self.input("n_keys", np.int64, None), to=INT32), self.ints(0)
            ),
        }.get(name)

    def _tokens(self) -> str:
        return ModelBuilder.input(self, "tokens", np.int64, ["n_tokens"])

    def _n_tokens(self) -> str:
        return str(self.node("Cast", self.input("lengths", np.int64, None), to=INT32))

    def _positions(self) -> str:
        return ModelBuilder.input(self, "positions", np.int64, ["n_tokens"])

    def _last_position(self) -> str:
        return str(self.node("Slice", self._positions(), self.ints(-1), self.ints(2**62), self.ints(0)))

    def _numbers(self, vector: str) -> str:
        """Return the numbers from 0 on, as many as a vector has."""
        end = self.node("Squeeze", self.node("Shape", vector), self.ints(0))
        return str(self.node("Range", self.constant(0, np.int64), end, self.constant(1, np.int64)))

    def _angles(self, rotation: g.Rotation, part: str) -> str:
        """Return the cosines or sines of the positions, ``(n_tokens, 1, n_pairs)``, from a table of all positions."""
        n_ctx = self.lowering.n_ctx
        angles = np.arange(n_ctx)[:, None, None] * rotation.frequencies_for(n_ctx)
        table = {"cos": np.cos, "sin": np.sin}[part](angles) * rotation.magnitude
        return str(self.node("Gather", self.floats(table), self._positions(), axis=0))


def _add_lookup(low: Lowering, value: g.EmbeddingLookup) -> str:
    """Return the rows of an embedding, ``(n_tokens, n)`` float32.

    The matrix is kept in the form in which it is multiplied, if that is wanted too: as the matrix of the logits.
    """
    b, weight = low.builder, value.weight
    ids = b.input(value.ids.name, np.int64, ["n_tokens"])  # type: ignore[attr-defined]  # lookups have inputs only
    form = form_of(low, weight)
    if form is None:
        return str(b.node("Cast", _look_up_floats(low, weight, ids), to=FLOAT))

    codes = packed_codes(low, form, weight)
    n_blocks, size = codes.scales.shape[1], codes.block_size
    stored = add_codes(b, codes, form, matrix_name(weight))
    shift, whole = sum(form.bits), b.constant(-(2 ** (sum(form.bits) - 1)), np.int32)
    for bits, part in zip(form.bits, stored.codes, strict=True):
        shift -= bits
        numbers = b.node("Reshape", _unpack(b, b.node("Gather", part, ids), bits), b.ints(-1, n_blocks, size))
        whole = b.node("Add", whole, b.node("Mul", numbers, b.constant(2**shift, np.int32)))

    y = b.node("Mul", b.node("Cast", whole, to=FLOAT), _by_block(b, b.node("Gather", stored.scales, ids)))
    if stored.offsets:
        offsets = b.node("Transpose", b.node("Gather", stored.offsets, ids, axis=1), perm=[1, 0])
        y = b.node("Add", y, _by_block(b, offsets))
    return str(b.node("Reshape", y, b.ints(-1, n_blocks * size)))


def _look_up_floats(low: Lowering, weight: g.Weight, ids: str) -> str:
    """Return rows of a matrix in floats, from its transposed form if a product reads that."""
    b = low.builder
    if any(isinstance(value, g.Linear) and value.weight == weight for value in low.context.graph):
        return str(b.node("Transpose", b.node("Gather", add_transposed(low, weight), ids, axis=1), perm=[1, 0]))
    table = low.tensors.floats(weight)
    if low.tensors.quant(weight).name == "F16":
        table = table.astype(np.float16)  # exact
    return str(b.node("Gather", b.weight(f"{matrix_name(weight)}.rows", table), ids))


def _unpack(b: ModelBuilder, rows: str, bits: int) -> str:
    """Return packed codes as int32; the first of the codes of a byte is in its lowest bits."""
    rows, parts = b.node("Cast", rows, to=INT32), []
    for i in range(8 // bits):
        shifted = b.node("Div", rows, b.constant(2 ** (bits * i), np.int32))
        part = b.node("Mod", shifted, b.constant(2**bits, np.int32))
        parts.append(b.node("Unsqueeze", part, b.ints(-1)))
    return str(b.node("Concat", *parts, axis=-1))


def _by_block(b: ModelBuilder, numbers: str) -> str:
    """Return numbers of blocks, ``(n_tokens, n_blocks)``, as float32 with an axis for the weights of a block."""
    return str(b.node("Unsqueeze", b.node("Cast", numbers, to=FLOAT), b.ints(-1)))
