"""Choose the instruction set that kernels are compiled for."""

from __future__ import annotations

import os

from llamafw import SettingsError
from llamafw_backends.numba_cpu.amx import Amx
from llamafw_backends.numba_cpu.isa import Avx2, AvxVnni, InstructionSet, Neon, Plain, Vnni

INSTRUCTION_SETS: dict[str, InstructionSet] = {
    isa.name: isa
    for isa in (Amx(), Vnni(), AvxVnni(), Avx2(), Neon(), Plain())  # best first
}


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
