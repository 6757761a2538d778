"""Add NormalFloat4, the 4-bit data type of QLoRA, as a tensor type of GGUF files.

The type is defined in Dettmers et al., arXiv:2305.14314, section 3. A block of 64 weights is a float16 scale, which is
the largest magnitude among them, and 64 numbers of 4 bits. Each number selects one of 16 levels, which are equally
likely for normally distributed weights. Byte ``j`` has weight ``j`` in its low half and weight ``j + 32`` in its high
half. This makes 4.25 bits per weight. No ggml type has the type's number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llamafw import Bytes, Floats, ModelError, Register, hookimpl

requires_api = ">=1.0,<2"
NAME, TYPE_ID = "NF4", 0x4E4634  # the letters "NF4" as a number; those of ggml are small
BLOCK, BYTES = 64, 34
LEVELS = np.array(
    [  # appendix E of the paper
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


class NF4:
    """The `llamafw.Quantizer` of NormalFloat4."""

    name, type_id, block_size, type_size = NAME, TYPE_ID, BLOCK, BYTES
    backends: Mapping[str, str] = {"numba": "llamafw_nf4.kernel:NF4Format"}  # imported if a model needs it

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return the weights as float32 in ``shape``."""
        n = math.prod(shape)
        if n % BLOCK or data.size != n // BLOCK * BYTES:
            raise ModelError(f"{data.size} bytes are not an {NAME} tensor of shape {tuple(shape)}")

        from llamafw_nf4.kernel import unpack  # imports numba, which is slow and not needed by other models

        blocks = np.ascontiguousarray(data).reshape(-1, BYTES)
        scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16)[:, 0].astype(np.float32)
        weights = np.empty(n, np.float32)
        unpack(blocks, scales, LEVELS, weights)
        return weights.reshape(shape)

    def quantize(self, values: Floats, importance: Floats | None = None) -> Bytes:
        """Return rows of weights as blocks, for ``llamafw quantize`` and ``--requantize``; importance is not used."""
        return quantize(values).reshape(len(values), values.shape[1] // BLOCK * BYTES)


def quantize(weights: Floats) -> Bytes:
    """Return ``weights`` rounded to the nearest levels, as ``(n_bytes,)`` uint8.

    Parameters
    ----------
    weights : (..., n) float32
        Each row must be whole blocks.
    """
    blocks = weights.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True).astype(np.float16)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.nan_to_num(blocks / scales.astype(np.float32))
    nearest = np.searchsorted((LEVELS[1:] + LEVELS[:-1]) / 2, parts).astype(np.uint8)
    halves = nearest[:, :32] | nearest[:, 32:] << 4
    return np.concatenate([scales.view(np.uint8).reshape(-1, 2), halves], axis=1).reshape(-1)


def main(argv: list[str]) -> int:
    """Run ``llamafw nf4 IN.gguf OUT.gguf``."""
    import argparse

    parser = argparse.ArgumentParser("llamafw nf4", description="Write a GGUF file with its matrices in NormalFloat4.")
    parser.add_argument("source", metavar="IN.gguf")
    parser.add_argument("target", metavar="OUT.gguf")
    args = parser.parse_args(argv)

    n_before, n_after = convert(args.source, args.target)
    print(f"{args.target}: {n_after / 1e6:.1f} MB of weights, {n_before / 1e6:.1f} MB in {args.source}")
    return 0


def convert(source: str, target: str) -> tuple[int, int]:
    """Write ``target`` with matrices in NF4, and return the bytes of all weights before and after."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))

    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kinds = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], kinds)

    n_before = n_after = 0
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        data: Any = tensor.data
        n_before += data.nbytes
        if len(shape) == 2 and shape[1] % BLOCK == 0:
            data = quantize(dequantize(data, tensor.tensor_type).reshape(shape))
            # as int8, because the writer looks up the block size of uint8 data among the types of ggml
            kind: Any = TYPE_ID
            writer.add_tensor(tensor.name, data.view(np.int8), raw_shape=shape, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
        n_after += data.nbytes

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return n_before, n_after


@hookimpl
def register_quants(register: Register) -> None:
    """Register the tensor type."""
    register(NAME, NF4())


@hookimpl
def register_commands(register: Register) -> None:
    """Add the command ``llamafw nf4``."""
    register("nf4", main)
