"""What the processor can do. It knows nothing of kernels."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

import llvmlite.binding as llvm
import numba
import psutil

MACHINE = platform.machine().lower()
IS_X86 = MACHINE in ("x86_64", "amd64")
IS_ARM = MACHINE in ("aarch64", "arm64")


@cache
def features() -> frozenset[str]:
    """Return the names, as LLVM has them, of the features that Numba compiles for."""
    if numba.config.CPU_FEATURES is not None:  # NUMBA_CPU_FEATURES: "+avx2,-fma"
        return frozenset(name[1:] for name in numba.config.CPU_FEATURES.split(",") if name.startswith("+"))
    if numba.config.CPU_NAME not in (None, "host"):  # compiled for another processor, whose features we cannot tell
        return frozenset()
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


def has_fma() -> bool:
    """Return whether fused multiply-add is an instruction. Elsewhere than on x86 it always is."""
    return not IS_X86 or "fma" in features()


def has_half() -> bool:
    """Return whether float16 is converted by instructions. LLVM would call a library that is not there."""
    return IS_ARM or bool(features() & {"f16c", "avx512f", "zvfh"})


@cache
def may_use_amx() -> bool:
    """Ask Linux for AMX's tile registers, for this process and all its threads; return whether it grants them.

    See https://docs.kernel.org/arch/x86/xstate.html. Other systems have no such question, and no known answer.
    """
    if sys.platform != "linux" or not IS_X86 or platform.architecture()[0] != "64bit":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return int(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data)) == 0


def physical_cores() -> int:
    """Return the number of cores this process may use, hyperthreads not counted."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
