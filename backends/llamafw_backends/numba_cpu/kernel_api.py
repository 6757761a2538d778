"""What plugins import to store and multiply tensor types of their own: the public part of this backend.

The page docs/plugins/quant.md explains it. These names change only with the major version of `llamafw.API_VERSION`; all
other modules of this backend may change at any time.
"""

from __future__ import annotations

from llamafw_backends.numba_cpu.cpu import features
from llamafw_backends.numba_cpu.emit import (
    BYTES,
    FLOATS,
    INTS,
    Builder,
    Value,
    address,
    call,
    constant,
    fma,
    load,
    load_half,
    to_float,
)
from llamafw_backends.numba_cpu.formats.bits import (
    combine,
    copy_bytes,
    copy_halves,
    copy_words,
    mask,
    nibbles,
    pack_bit_string,
    pack_bits,
    pack_crumbs,
    pack_nibbles,
    spread,
    transpose_crumbs,
)
from llamafw_backends.numba_cpu.formats.bits import look_up as look_up_bytes
from llamafw_backends.numba_cpu.isa import DotProducts
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import (
    load_bf16,
    load_f16,
    load_f32,
    read_i8,
    read_u8,
    read_u16,
    read_u32,
    store_f32,
    write_u8,
    write_u16,
    write_u32,
)
from llamafw_backends.numba_cpu.tables import look_up_floats, splat_int
from llamafw_backends.numba_cpu.tiles import COLUMNS, F32_LAYOUT, ROWS, Format, QuantFormat, Record

__all__ = [
    "address",
    "Builder",
    "BYTES",
    "call",
    "COLUMNS",
    "combine",
    "constant",
    "copy_bytes",
    "copy_halves",
    "copy_words",
    "DotProducts",
    "F32_LAYOUT",
    "features",
    "FLOATS",
    "fma",
    "Format",
    "INTS",
    "jit",
    "load",
    "load_bf16",
    "load_f16",
    "load_f32",
    "load_half",
    "look_up_bytes",
    "look_up_floats",
    "mask",
    "nibbles",
    "pack_bit_string",
    "pack_bits",
    "pack_crumbs",
    "pack_nibbles",
    "QuantFormat",
    "read_i8",
    "read_u8",
    "read_u16",
    "read_u32",
    "Record",
    "ROWS",
    "splat_int",
    "spread",
    "store_f32",
    "to_float",
    "transpose_crumbs",
    "Value",
    "write_u8",
    "write_u16",
    "write_u32",
]
