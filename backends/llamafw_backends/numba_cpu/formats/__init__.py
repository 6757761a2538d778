"""The tensor types that this backend multiplies without conversion, one per module."""

from __future__ import annotations

import hashlib
from importlib import import_module

from llamafw import PluginError, Quant
from llamafw_backends.numba_cpu.cache import class_source, plugin_source
from llamafw_backends.numba_cpu.formats.floats import BF16Format, BF16Pairs, F16Format, F32Format
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
from llamafw_backends.numba_cpu.tiles import COLUMNS, Format, QuantFormat

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
BF16_PAIRS = BF16Pairs()
"""The format of BF16 weights with ``--numba-activations int8``."""
FORMATS: dict[str, Format] = {one.key: one for one in (*BUILT_IN, BF16_PAIRS)}
"""The formats of this process by their `Format.key`. Kernels are compiled for a key."""

_PACKAGE = "llamafw_backends.numba_cpu"  # whose sources are part of `cache.version_folder`


def find_format(quant: Quant) -> Format | None:
    """Return the format of a tensor type; None if this backend and the type's plugin have none.

    Raises
    ------
    PluginError
        The plugin's format for this backend is invalid, or belongs to another type.
    """
    if quant.name in FORMATS:
        return FORMATS[quant.name]
    registered = getattr(quant, "backends", {}).get("numba")
    if registered is None:
        return None

    found = _import(quant, registered) if isinstance(registered, str) else registered
    owner = f"the tensor type {quant.name}: its format {found!r:.80} for the numba backend"
    try:
        found = found() if isinstance(found, type) else found
    except TypeError as error:  # a method is missing
        raise PluginError(f"{owner} cannot be created: {error}") from error
    if not isinstance(found, Format):
        raise PluginError(f"{owner} is not a llamafw_backends.numba_cpu.kernel_api.Format")
    if problem := _find_problem(found, quant):
        raise PluginError(f"{owner} {problem}")
    found.version = _hash_source(found)
    return FORMATS.setdefault(found.key, found)


def _hash_source(found: Format) -> str:
    """Return a hash of the code of a plugin's format, and of the formats that it is derived from."""
    digest = hashlib.sha256(plugin_source(found.pack))
    for kind in type(found).__mro__:
        if issubclass(kind, Format) and not kind.__module__.startswith(f"{_PACKAGE}."):
            digest.update(class_source(kind))
    return digest.hexdigest()[:16]


def _find_problem(found: Format, quant: Quant) -> str | None:
    """Return what is wrong with the attributes of a plugin's format; None if nothing is."""
    names = ["name", "block_size", "block_bytes", "word_bytes", *(["bound"] if isinstance(found, QuantFormat) else [])]
    if missing := [name for name in names if not hasattr(found, name)]:
        return f"has no {' and no '.join(missing)}"
    if found.name != quant.name:
        return f"has the name {found.name!r}"
    if (found.block_size, found.block_bytes) != (quant.block_size, quant.type_size):
        return (
            f"has blocks of {found.block_size} weights and {found.block_bytes} bytes, not {quant.block_size} and "
            f"{quant.type_size}"
        )

    for name, unit in (("block_size", COLUMNS), ("word_bytes", 64), ("scale_bytes", 16)):
        if getattr(found, name) % unit:
            return f"has the {name} {getattr(found, name)}, which is not a multiple of {unit}"
    if not isinstance(found, QuantFormat):
        return None
    if found.columns_per_scale not in (16, COLUMNS):
        return "must have a columns_per_scale of 32 or 16"
    if not 0 < found.bound <= (255 if found.offset == 128 else 127):
        return f"has the bound {found.bound}; it must be 1 to 127, or up to 255 with an offset of 128"
    return None


def _import(quant: Quant, path: str) -> object:
    """Return what ``path``, such as ``"my_package.kernels:MyFormat"``, names."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: there is no name of a module
        raise PluginError(f"the tensor type {quant.name}: {path!r} cannot be imported: {error}") from error
