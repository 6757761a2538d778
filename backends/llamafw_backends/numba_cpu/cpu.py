"""Find out what the processor can do.

Independent of kernels.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
import numba
import psutil

MACHINE = platform.machine().lower()
IS_X86 = MACHINE in ("x86_64", "amd64")
IS_ARM = MACHINE in ("aarch64", "arm64")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@cache
def features() -> frozenset[str]:
    """Return the features that Numba compiles for, by LLVM's names."""
    if numba.config.CPU_FEATURES is not None:  # NUMBA_CPU_FEATURES: "+avx2,-fma"
        return frozenset(name[1:] for name in numba.config.CPU_FEATURES.split(",") if name.startswith("+"))
    if numba.config.CPU_NAME not in (None, "host"):  # NUMBA_CPU_NAME: the features of that processor are unknown
        return frozenset()
    return frozenset(name for name, is_available in llvm.get_host_cpu_features().items() if is_available)


def has_fma() -> bool:
    """Return whether the processor has fused multiply-add.

    All but some x86 processors have it.
    """
    return not IS_X86 or "fma" in features()


def has_half() -> bool:
    """Return whether the processor has instructions that convert float16.

    Without them, LLVM would call conversion functions of a library that compiled code is not linked with.
    """
    return IS_ARM or bool(features() & {"f16c", "avx512f", "zvfh"})


def has_byte_permutes() -> bool:
    """Return whether the processor can permute the bytes of registers of 512 bits in any way (AVX-512 VBMI)."""
    return IS_X86 and {"avx512bw", "avx512vbmi"} <= features()


def has_bf16_products() -> bool:
    """Return whether the processor multiplies pairs of bfloat16 in registers of 512 bits (AVX-512 BF16)."""
    return IS_X86 and {"avx512f", "avx512bf16"} <= features()


@cache
def may_use_amx() -> bool:
    """Ask Linux for AMX's tile registers for this process; return whether it may use them.

    See https://docs.kernel.org/arch/x86/xstate.html. Only Linux can be asked, so the answer of other systems is False.
    """
    if sys.platform != "linux" or not IS_X86 or platform.architecture()[0] != "64bit":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return int(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data)) == 0


@cache
def cache_bytes() -> int:
    """Return the size of the first processor's largest cache; 0 if it is not known.

    Only Linux tells: see https://docs.kernel.org/admin-guide/abi-testing.html, ``/sys/devices/system/cpu/cpu*/cache``.
    """
    found = (re.fullmatch(r"(\d+)([KM]?)", path.read_text().strip()) for path in CACHES.glob("index*/size"))
    return max((int(one[1]) << {"": 0, "K": 10, "M": 20}[one[2]] for one in found if one), default=0)


def physical_cores() -> int:
    """Return the number of cores that this process may use, without hyperthreads."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
