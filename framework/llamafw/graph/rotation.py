"""Compute the angular frequencies of rotary position embeddings (arXiv:2104.09864) from a model's metadata.

Supported scalings of the context are linear (position interpolation, arXiv:2306.15595), YaRN (arXiv:2309.00071), a
factor per frequency in a tensor (Llama 3.1), and two such tensors for short and long contexts (LongRoPE,
arXiv:2402.13753). Independent of how rotations are computed.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from llamafw.errors import ModelError
from llamafw.graph.attention import Rotation
from llamafw.graph.metadata import Metadata
from llamafw.graph.values import GraphError

FACTORS = "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"

Doubles = npt.NDArray[np.float64]


def rotation(
    metadata: Metadata,
    n_rot: int,
    n_ctx_train: int,
    *,
    interleaved: bool = False,
    yarn_magnitude: float | None = None,
    whole_pairs: bool = True,
) -> Rotation:
    """Return the rotary position embeddings that a model's metadata describes.

    Parameters
    ----------
    metadata : Metadata
        The model's metadata: ``rope.freq_base``, ``rope.scaling.*``.
    n_rot : int
        How many numbers of a head are rotated.
    n_ctx_train : int
        The model's training context, in positions.
    interleaved : bool
        Whether pairs are adjacent numbers; see `Rotation`.
    yarn_magnitude : float, optional
        YaRN's factor on cosines and sines, before the model's own factors. Default: `yarn_temperature`. A model whose
        metadata have ``rope.scaling.yarn_log_multiplier`` needs it.
    whole_pairs : bool
        Whether YaRN's ramp begins and ends at whole pairs, as in llama.cpp and most models.

    Raises
    ------
    ModelError
        A metadata key is invalid or asks for a scaling that is not supported.
    GraphError
        ``n_rot`` is not a positive even number.
    """
    if yarn_magnitude is None:
        if metadata.has("rope.scaling.yarn_log_multiplier"):
            metadata.fail("rope.scaling.yarn_log_multiplier", "is not supported")
        yarn_magnitude = yarn_temperature(metadata)
    base = metadata.number("rope.freq_base", 10_000.0, low=0)
    kind, scale = _scaling(metadata)
    share, kept = 0.0, np.zeros(n_rot // 2)
    if kind == "yarn":
        share = metadata.number("rope.scaling.yarn_ext_factor", 1.0, low=0, allow_low=True)
        kept = share * _yarn_ramp(metadata, n_rot, base, n_ctx_train, whole_pairs)

    def stretched(tensor: str) -> Doubles:
        """Return the frequencies with the factors in a tensor, stretched for the extended context."""
        frequencies = _frequencies(base, n_rot) / _factors(metadata, tensor, n_rot)
        return frequencies / scale * (1 - kept) + frequencies * kept

    magnitude = metadata.number("rope.scaling.attn_factor", 1.0, low=0)
    magnitude *= metadata.number("rope.scaling.yarn_attn_factor", 1.0, low=0)
    if share:  # as in llama.cpp, a share of 0 does not change the magnitude
        magnitude *= yarn_magnitude
    if not _has_long_factors(metadata, kind):
        return Rotation(stretched(FACTORS), magnitude, interleaved)
    return Rotation(
        stretched(SHORT_FACTORS),
        magnitude,
        interleaved,
        long_frequencies=stretched(LONG_FACTORS),
        original_context=metadata.integer("rope.scaling.original_context_length", n_ctx_train),
    )


def plain_rotation(base: float, n_rot: int, *, interleaved: bool = False) -> Rotation:
    """Return rotary position embeddings without any scaling of the context: ``base^(−2i / n_rot)`` for pair ``i``."""
    return Rotation(_frequencies(base, n_rot), 1.0, interleaved)


def _frequencies(base: float, n_rot: int) -> Doubles:
    """Return the frequency of each pair, ``(n_rot // 2,)`` float64; GraphError if numbers do not make whole pairs."""
    if n_rot < 2 or n_rot % 2:
        raise GraphError(f"{n_rot} numbers of a head cannot be rotated in pairs")
    return base ** (-2 * np.arange(n_rot // 2, dtype=np.float64) / n_rot)


def yarn_temperature(metadata: Metadata, multiplier: float = 1.0) -> float:
    """Return ``1 + 0.1 · multiplier · ln(s)`` for a context extended ``s`` times with YaRN, else 1.

    With a multiplier of 1 it is the factor sqrt(1/t) of the paper, on queries and keys, which is applied to cosines and
    sines.
    """
    kind, scale = _scaling(metadata)
    return 1 + 0.1 * multiplier * math.log(scale) if kind == "yarn" else 1.0


def _scaling(metadata: Metadata) -> tuple[str, float]:
    """Return the kind of scaling, and the factor by which the context is extended; 0 in a file means 1."""
    kind = metadata.text("rope.scaling.type", "linear")  # a factor without a type is linear
    if kind not in ("none", "linear", "yarn", "longrope"):
        metadata.fail("rope.scaling.type", f"is {kind!r:.80}; it must be none, linear, yarn or longrope")
    if kind == "none":
        return kind, 1.0
    key = "rope.scaling.factor" if metadata.has("rope.scaling.factor") else "rope.scale_linear"
    return kind, metadata.number(key, 1.0, low=0, allow_low=True) or 1.0


def _has_long_factors(metadata: Metadata, kind: str) -> bool:
    """Return whether the file has LongRoPE's two tensors; ModelError if one is missing."""
    path, tensors = metadata.model.path, metadata.model.tensors
    names = (SHORT_FACTORS, LONG_FACTORS)
    missing = [name for name in names if name not in tensors]
    if len(missing) == 1 or (missing and kind == "longrope"):
        raise ModelError(f"{path}: the tensor {missing[0]!r} is missing")
    if not missing and FACTORS in tensors:
        raise ModelError(f"{path}: the tensors {FACTORS!r} and {SHORT_FACTORS!r} cannot be used together")
    return not missing


def _factors(metadata: Metadata, name: str, n_rot: int) -> Doubles:
    """Return the divisor of each frequency, ``(n_rot // 2,)`` float64; ones if the file has no such tensor."""
    path = metadata.model.path
    tensor = metadata.model.tensors.get(name)
    if tensor is None:
        return np.ones(n_rot // 2)
    if tensor.type_name != "F32" or tensor.shape != (n_rot // 2,):
        raise ModelError(
            f"{path}: the tensor {name!r} is {tensor.type_name} of shape {tensor.shape}, not F32 of {(n_rot // 2,)}"
        )
    factors = tensor.data.view("<f4").astype(np.float64)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise ModelError(f"{path}: the tensor {name!r} has values that are not positive numbers")
    return factors


def _yarn_ramp(metadata: Metadata, n_rot: int, base: float, n_ctx_train: int, whole_pairs: bool) -> Doubles:
    """Return the share of each frequency that is not scaled, from 1 (fast) to 0 (slow), ``(n_rot // 2,)`` float64.

    Section 3.2 of the paper: a frequency with more than beta_fast rotations within the original context is kept, one
    with less than beta_slow rotations is interpolated, with a linear ramp over the pairs between.
    """
    n_ctx = metadata.integer("rope.scaling.original_context_length", n_ctx_train)
    fast = metadata.number("rope.scaling.yarn_beta_fast", 32.0, low=0)
    slow = metadata.number("rope.scaling.yarn_beta_slow", 1.0, low=0)
    if base <= 1:
        metadata.fail("rope.freq_base", f"is {base}; with YaRN it must be above 1")

    def pair(n_rotations: float) -> float:
        """Return the pair, as a fraction, that rotates this often within the original context."""
        return n_rot * math.log(n_ctx / (n_rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair(fast), pair(slow)
    if whole_pairs:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0, low), min(n_rot - 1, high)
    ramp = (np.arange(n_rot // 2) - low) / max(0.001, high - low)
    return 1 - np.clip(ramp, 0, 1)
