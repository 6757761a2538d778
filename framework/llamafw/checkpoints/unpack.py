"""Tensors of quantised checkpoints as plain ones, in float32, computed when they are read.

`llamafw.checkpoints.quantized` has the formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from llamafw.checkpoints.config import Config
from llamafw.checkpoints.quantized.awq import unpack_awq
from llamafw.checkpoints.quantized.compressed_tensors import unpack_compressed_tensors
from llamafw.checkpoints.quantized.fp8 import unpack_fp8, unpack_modelopt
from llamafw.checkpoints.quantized.gptq import unpack_gptq
from llamafw.checkpoints.tensors import CheckpointTensor
from llamafw.errors import suggest

Unpack = Callable[[Config, Mapping[str, CheckpointTensor]], Mapping[str, CheckpointTensor]]


def _keep(section: Config, tensors: Mapping[str, CheckpointTensor]) -> Mapping[str, CheckpointTensor]:
    """Return the tensors: they have rules of their own."""
    return tensors


METHODS: Mapping[str, Unpack] = MappingProxyType(
    {
        "awq": unpack_awq,
        "compressed-tensors": unpack_compressed_tensors,
        "fbgemm_fp8": unpack_fp8,
        "fp8": unpack_fp8,
        "gptq": unpack_gptq,
        "modelopt": unpack_modelopt,
        "mxfp4": _keep,
    }
)
"""``quant_method`` of ``config.json`` → what makes plain tensors of those in the files."""


def unpack(config: Config, tensors: Mapping[str, CheckpointTensor]) -> Mapping[str, CheckpointTensor]:
    """Return the tensors as they were before they were quantised: same names as in plain checkpoints.

    Parameters
    ----------
    config : Config
        The checkpoint's config; ``quantization_config`` says how it is quantised.
    tensors : mapping
        The tensors in the files, by name.

    Raises
    ------
    ModelError
        The method is not supported, or a tensor is missing or does not fit.
    """
    section = next((one for one in (config, config.text_section()) if one.has(*_SECTIONS)), None)
    if section is None:
        return tensors
    section = section.section(*_SECTIONS)
    method = section.text("quant_method")
    if method not in METHODS:
        section.fail("quant_method", f"is {method!r}, which is not supported{suggest(method, METHODS)}")
    return METHODS[method](section, tensors)


_SECTIONS = ("quantization_config", "compression_config")
