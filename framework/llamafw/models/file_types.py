"""The file types of llama.cpp: names for what most tensors of a file are, such as Q4_K_M.

Which type each tensor of such a file gets is in `tensor_mixes`. Numbers: ``llama_ftype`` of
https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamafw.errors import SettingsError, did_you_mean
from llamafw.interfaces import Quantizer
from llamafw.registry import Registry


@dataclass(frozen=True, slots=True)
class FileType:
    """A file type: its name, its number in ``general.file_type``, and the type that most of its tensors have."""

    name: str
    number: int | None  # None: llama.cpp has no such file type
    base: str


FILE_TYPES = {
    one.name: one
    for one in (
        FileType("F32", 0, "F32"),
        FileType("F16", 1, "F16"),
        FileType("BF16", 32, "BF16"),
        FileType("Q4_0", 2, "Q4_0"),
        FileType("Q4_1", 3, "Q4_1"),
        FileType("Q5_0", 8, "Q5_0"),
        FileType("Q5_1", 9, "Q5_1"),
        FileType("Q8_0", 7, "Q8_0"),
        FileType("Q2_K", 10, "Q2_K"),
        FileType("Q2_K_S", 21, "Q2_K"),
        FileType("Q3_K_S", 11, "Q3_K"),
        FileType("Q3_K_M", 12, "Q3_K"),
        FileType("Q3_K_L", 13, "Q3_K"),
        FileType("Q4_K_S", 14, "Q4_K"),
        FileType("Q4_K_M", 15, "Q4_K"),
        FileType("Q5_K_S", 16, "Q5_K"),
        FileType("Q5_K_M", 17, "Q5_K"),
        FileType("Q6_K", 18, "Q6_K"),
        FileType("IQ4_NL", 25, "IQ4_NL"),
        FileType("IQ4_XS", 30, "IQ4_XS"),
        FileType("TQ1_0", 36, "TQ1_0"),
        FileType("TQ2_0", 37, "TQ2_0"),
        FileType("MXFP4_MOE", 38, "MXFP4"),
    )
}
"""By name."""

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

REFUSED = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M"),
    *("Q1_0", "Q2_0", "NVFP4"),
)
"""File types of llama.cpp whose tensors can be computed with, but not rounded to."""


def find_file_type(name: str, quants: Registry) -> FileType:
    """Return a file type of llama.cpp, or one for a tensor type of a plugin; upper and lower case are the same.

    Raises
    ------
    SettingsError
        There is no such type, or weights cannot be rounded to it.
    """
    upper = name.upper()
    if (found := FILE_TYPES.get(ALIASES.get(upper, upper))) is not None:
        return found
    usable = [*FILE_TYPES, *(one for one, quant in quants.items() if _is_quantizer(quant) and one not in FILE_TYPES)]
    if upper in REFUSED:
        raise SettingsError(
            f"--type: weights cannot be rounded to {upper}; such files can be run, and llama-quantize makes them"
        )
    for one in usable:
        if one.upper() == upper:
            return FileType(one, None, one)
    raise SettingsError(
        f"--type: there is no type {name!r}; the types are {', '.join(usable)}{did_you_mean(upper, usable)}"
    )


def find_quantizer(name: str, quants: Registry, flag: str) -> Quantizer:
    """Return the tensor type that a flag names; upper and lower case are the same.

    Raises
    ------
    SettingsError
        No plugin provides the type, or weights cannot be rounded to it; the message lists the types that can be used.
    """
    by_name = {one.upper(): quant for one, quant in quants.items()}
    quant = by_name.get(name.upper())
    if quant is not None and _is_quantizer(quant):
        return quant  # type: ignore[no-any-return]  # a Quantizer, as it has the method
    usable = ", ".join(sorted(one for one, quant in quants.items() if _is_quantizer(quant)))
    if quant is None:
        raise SettingsError(f"{flag}: no plugin provides the tensor type {name!r}; weights can be rounded to {usable}")
    raise SettingsError(f"{flag}: weights cannot be rounded to {quant.name}, only to {usable}")


def _is_quantizer(quant: object) -> bool:
    return callable(getattr(quant, "quantize", None))
