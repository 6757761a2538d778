"""Choose the instruction set that kernels are compiled for."""

from __future__ import annotations

import os

from llamafw import SettingsError
from llamafw_backends.numba_cpu.amx import Amx
from llamafw_backends.numba_cpu.isa import AvxVnni, InstructionSet, Neon, Vnni
from llamafw_backends.numba_cpu.short_sums import Avx2, Plain

INSTRUCTION_SETS: dict[str, InstructionSet] = {
    isa.name: isa
    for isa in (Amx(), Vnni(), AvxVnni(), Avx2(), Neon(), Plain())  # best first
}

ROUNDED_SETS: dict[str, InstructionSet] = {isa.name: isa for isa in (type(one)(8) for one in INSTRUCTION_SETS.values())}
"""The same sets for activations of 8 bits, by their own names."""


def find_set(name: str) -> InstructionSet:
    """Return the set with a name, for activations of any number of bits."""
    return INSTRUCTION_SETS.get(name) or ROUNDED_SETS[name]


def rounded(isa: InstructionSet) -> InstructionSet:
    """Return the set with the same instructions for activations of 8 bits."""
    one = type(isa)(8)
    return ROUNDED_SETS.setdefault(one.name, one)


def choose_instruction_set() -> InstructionSet:
    """Return the best instruction set of this processor, or the one that LLAMAFW_ISA names.

    Raises
    ------
    SettingsError
        This processor does not have the instruction set, or there is none with this name.
    """
    possible = [isa for isa in INSTRUCTION_SETS.values() if isa.available()]
    name = os.environ.get("LLAMAFW_ISA")
    if not name:
        return possible[0]
    for isa in possible:
        if isa.name == name:
            return isa
    raise SettingsError(
        f"LLAMAFW_ISA: {name!r} is not available; this processor has {', '.join(isa.name for isa in possible)}"
    )
