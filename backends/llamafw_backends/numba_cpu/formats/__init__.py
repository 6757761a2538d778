"""The tensor types that this backend multiplies without conversion, one per module."""

from __future__ import annotations

import hashlib
from importlib import import_module

from llamafw import PluginError, Quant
from llamafw_backends.numba_cpu.cache import plugin_source
from llamafw_backends.numba_cpu.formats.floats import BF16Format, F16Format, F32Format
from llamafw_backends.numba_cpu.formats.iq1_m import IQ1_M
from llamafw_backends.numba_cpu.formats.iq1_s import IQ1_S
from llamafw_backends.numba_cpu.formats.iq2_s import IQ2_S
from llamafw_backends.numba_cpu.formats.iq2_xs import IQ2_XS
from llamafw_backends.numba_cpu.formats.iq2_xxs import IQ2_XXS
from llamafw_backends.numba_cpu.formats.iq3_s import IQ3_S
from llamafw_backends.numba_cpu.formats.iq3_xxs import IQ3_XXS
from llamafw_backends.numba_cpu.formats.iq4_nl import IQ4_NL
from llamafw_backends.numba_cpu.formats.iq4_xs import IQ4_XS
from llamafw_backends.numba_cpu.formats.mxfp4 import MXFP4
from llamafw_backends.numba_cpu.formats.nvfp4 import NVFP4
from llamafw_backends.numba_cpu.formats.q1_0 import Q1_0
from llamafw_backends.numba_cpu.formats.q2_0 import Q2_0
from llamafw_backends.numba_cpu.formats.q2_k import Q2_K
from llamafw_backends.numba_cpu.formats.q3_k import Q3_K
from llamafw_backends.numba_cpu.formats.q4_0 import Q4_0
from llamafw_backends.numba_cpu.formats.q4_1 import Q4_1
from llamafw_backends.numba_cpu.formats.q4_k import Q4_K
from llamafw_backends.numba_cpu.formats.q5_0 import Q5_0
from llamafw_backends.numba_cpu.formats.q5_1 import Q5_1
from llamafw_backends.numba_cpu.formats.q5_k import Q5_K
from llamafw_backends.numba_cpu.formats.q6_k import Q6_K
from llamafw_backends.numba_cpu.formats.q8_0 import Q8_0
from llamafw_backends.numba_cpu.formats.tq1_0 import TQ1_0
from llamafw_backends.numba_cpu.formats.tq2_0 import TQ2_0
from llamafw_backends.numba_cpu.tiles import COLUMNS, Format

BUILT_IN: tuple[Format, ...] = (
    F32Format(),
    F16Format(),
    BF16Format(),
    Q4_0(),
    Q4_1(),
    Q5_0(),
    Q5_1(),
    Q8_0(),
    Q2_K(),
    Q3_K(),
    Q4_K(),
    Q5_K(),
    Q6_K(),
    IQ1_S(),
    IQ1_M(),
    IQ2_XXS(),
    IQ2_XS(),
    IQ2_S(),
    IQ3_XXS(),
    IQ3_S(),
    IQ4_NL(),
    IQ4_XS(),
    MXFP4(),
    NVFP4(),
    TQ1_0(),
    TQ2_0(),
    Q1_0(),
    Q2_0(),
)
FORMATS: dict[str, Format] = {one.key: one for one in BUILT_IN}
"""The formats of this process by their `Format.key`. Kernels are compiled for a key."""


def find_format(quant: Quant) -> Format | None:
    """Return the format of a tensor type; None if this backend and the type's plugin have none.

    Raises
    ------
    PluginError
        What the plugin has registered for this backend is not a format, or not of this type.
    """
    if quant.name in FORMATS:
        return FORMATS[quant.name]
    registered = getattr(quant, "backends", {}).get("numba")
    if registered is None:
        return None

    found = _import(quant, registered) if isinstance(registered, str) else registered
    found = found() if isinstance(found, type) else found
    owner = f"the tensor type {quant.name}: its format {found!r:.80} for the numba backend"
    if not isinstance(found, Format):
        raise PluginError(f"{owner} is not a llamafw_backends.numba_cpu.tiles.Format")
    sizes, expected = (found.block_size, found.block_bytes), (quant.block_size, quant.type_size)
    if sizes != expected:
        raise PluginError(
            f"{owner} has blocks of {sizes[0]} weights and {sizes[1]} bytes, not {expected[0]} and {expected[1]}"
        )
    if found.block_size % COLUMNS or found.word_bytes % 64 or found.scale_bytes % 16:
        raise PluginError(
            f"{owner} must have a block_size that is a multiple of {COLUMNS}, a word_bytes that is one of 64, and a "
            "scale_bytes that is one of 16"
        )
    found.version = hashlib.sha256(plugin_source(found.pack)).hexdigest()[:16]
    return FORMATS.setdefault(found.key, found)


def _import(quant: Quant, path: str) -> object:
    """Return what ``path``, such as ``"my_package.kernels:MyFormat"``, names."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"the tensor type {quant.name}: {path!r} cannot be imported: {error}") from error
