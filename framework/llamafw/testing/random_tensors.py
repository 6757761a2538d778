"""Make random tensors of any ggml type.

The `gguf` package quantises random weights where it can. For the other types, and for ternary ones, which would become
zeros mostly, the blocks themselves are random.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

# Byte offset of the float16 scale in a block; byte offset of the float16 minimum, if the type has one; and the minimum,
# in units of the scale, that centres random weights on zero. From the structs in ggml-common.h. The scale of IQ1_M is
# not in one place: each of four 16-bit numbers has 4 of its bits.
SCALES: dict[str, tuple[int, int | None, float]] = {
    "Q2_K": (80, 82, 1.5),
    "Q3_K": (108, None, 0),
    "Q4_K": (0, 2, 7.5),
    "Q5_K": (0, 2, 15.5),
    "Q6_K": (208, None, 0),
    "IQ2_XXS": (0, None, 0),
    "IQ2_XS": (0, None, 0),
    "IQ2_S": (0, None, 0),
    "IQ3_XXS": (0, None, 0),
    "IQ3_S": (0, None, 0),
    "IQ1_S": (0, None, 0),
    "IQ1_M": (48, None, 0),
    "IQ4_NL": (0, None, 0),
    "IQ4_XS": (0, None, 0),
    "TQ1_0": (52, None, 0),
    "TQ2_0": (64, None, 0),
    "Q1_0": (0, None, 0),
    "Q2_0": (0, None, 0),
}
STANDARD_DEVIATIONS = {"Q1_0": 1.0, "Q2_0": 1.25**0.5}
"""Of random weights with a scale of 1, for the types that the `gguf` package cannot dequantise."""

NVFP4_STD = (137 / 16) ** 0.5  # of the 16 numbers ±0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6
QUANTIZABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")
WRITABLE = (*QUANTIZABLE, *SCALES, "NVFP4")
"""All types that `random_tensor` can make."""


def random_tensor(
    rng: np.random.Generator, shape: tuple[int, ...], type_name: str, std: float = 1.0, mean: float = 0.0
) -> npt.NDArray[np.generic]:
    """Return random weights of type ``type_name``: floats of ``shape``, or rows of blocks as uint8.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the random numbers.
    shape : tuple of int
        Shape in weights.
    type_name : str
        One of `WRITABLE`.
    std, mean : float
        Standard deviation and mean of the weights. Only the types in `QUANTIZABLE` respect ``mean``.
    """
    if type_name not in QUANTIZABLE:
        return _random_blocks(rng, shape, type_name, std)
    weights = rng.normal(mean, std, shape).astype(np.float32)
    packed: npt.NDArray[np.generic] = quantize(weights, GGMLQuantizationType[type_name])
    return packed


def block_sizes(type_name: str) -> tuple[int, int]:
    """Return the weights and the bytes of a block."""
    if type_name == "Q2_0":  # unknown to the `gguf` package
        return 64, 18
    sizes: tuple[int, int] = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    return sizes


def _random_blocks(
    rng: np.random.Generator, shape: tuple[int, ...], type_name: str, std: float
) -> npt.NDArray[np.uint8]:
    block_size, type_size = block_sizes(type_name)
    if shape[-1] % block_size:
        raise ValueError(f"rows of {shape[-1]} do not divide into {type_name} blocks of {block_size}")
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // block_size, type_size), dtype=np.uint8)
    if type_name == "NVFP4":
        blocks[:, :4] = _nvfp4_scales(std / NVFP4_STD * rng.uniform(0.7, 1.3, (len(blocks), 4)))
        return blocks.reshape(*shape[:-1], -1)

    scale_offset, minimum_offset, centre = SCALES[type_name]

    def set_scales(scale: npt.NDArray[np.float64]) -> None:
        if type_name == "IQ1_M":
            bits = scale.astype("<f2").view("<u2")
            numbers = blocks[:, scale_offset : scale_offset + 8].copy().view("<u2")
            numbers = (numbers & 0x0FFF) | (bits[:, None] >> np.array([0, 4, 8, 12], "<u2") & 15) << 12
            blocks[:, scale_offset : scale_offset + 8] = numbers.view(np.uint8)
            return
        blocks[:, scale_offset : scale_offset + 2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
        if minimum_offset is not None:
            blocks[:, minimum_offset : minimum_offset + 2] = (
                (scale * centre).astype("<f2").view(np.uint8).reshape(-1, 2)
            )

    set_scales(np.ones(len(blocks)))
    if type_name in STANDARD_DEVIATIONS:
        std_of_scale_one = STANDARD_DEVIATIONS[type_name]
    else:
        std_of_scale_one = float(dequantize(blocks.reshape(1, -1), GGMLQuantizationType[type_name]).std())
    set_scales(std / std_of_scale_one * rng.uniform(0.7, 1.3, len(blocks)))
    return blocks.reshape(*shape[:-1], -1)


def _nvfp4_scales(scales: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return the largest unsigned 8-bit floats (UE4M3) that are at most the given numbers."""
    exponents, mantissas = np.divmod(np.arange(0x7F), 8)
    floats = np.where(exponents, (1 + mantissas / 8) * 2.0 ** (exponents - 7), mantissas * 2.0**-9)
    return (np.searchsorted(floats, scales, "right") - 1).astype(np.uint8)
