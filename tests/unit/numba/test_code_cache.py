"""Compiled code is kept for later starts, and removed when it is no longer used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.ccallback import CFunc

from llamafw import compile_c_function
from llamafw.testing.batches import batch
from llamafw_backends.numba_cpu import cache, kernel_compiler
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from support.numba_backend import open_backend

pytestmark = pytest.mark.slow

DAY = 24 * 3600
START = """
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.threads import Pool
compiler = KernelCompiler(print)
Pool(2, compiler).close()
print("compiled", compiler.compiled)
"""


def add_one(number: int) -> int:
    """Return ``number + 1``."""
    return number + 1


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that NUMBA_CACHE_DIR names."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("numba.config.CACHE_DIR", str(folder))
    return folder


def write_code(folder: Path, *, days: float) -> Path:
    """Create the folder of a kernel that was last used some days ago."""
    code = folder / "numba_cpu_0" / "kernel.nbc"
    code.parent.mkdir(parents=True)
    code.write_bytes(b"code")
    for path in (code, code.parent, folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


def test_second_start_compiles_nothing(tmp_path: Path) -> None:
    def start() -> str:
        env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", START], env=env, check=True, capture_output=True, text=True).stdout

    first, second = start(), start()
    assert "compiling kernels for this processor" in first
    assert ": threads.work" in first
    assert second.splitlines() == ["compiled []"]


LOAD = """
import math, sys
from pathlib import Path
import numba
import numpy as np
from llamafw import compile_c_function
from allocate import allocate, other

signature = numba.types.float64(numba.types.int64)
loaded = compile_c_function(allocate, signature, Path(sys.argv[1]))
print(math.isclose(loaded.ctypes(40), math.fsum(math.exp(-i) for i in range(40))))
print(loaded.cache_hits, "numba.np.arraymath" in sys.modules)
print(compile_c_function(other, signature, None).ctypes(3), numba.njit(other)(4))
"""
"""Loads stored code that allocates memory, then compiles other code."""

ALLOCATE = """
import math
import numpy as np

def allocate(n):
    numbers = np.empty(n)
    for i in range(n):
        numbers[i] = math.exp(-i)
    total = 0.0
    for number in numbers:
        total += number
    return total

def other(n):
    return np.arange(n).sum() * 1.0
"""


def test_stored_code_is_loaded_without_registering(tmp_path: Path) -> None:
    """Registering all that Numba can compile takes a tenth of a start."""
    (tmp_path / "allocate.py").write_text(ALLOCATE)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", LOAD, str(tmp_path)], env=env, check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert outputs == [["True", "0", "True", "3.0", "6.0"], ["True", "1", "False", "3.0", "6.0"]]


def test_version_depends_on_every_source(tmp_path: Path) -> None:
    hashes = []
    for text in ("a = 1", "a = 2", "a = 1"):
        (tmp_path / "formats").mkdir(exist_ok=True)
        (tmp_path / "formats/q9.py").write_text(text)
        hashes.append(cache.hash_sources(tmp_path))
    assert hashes[0] == hashes[2] != hashes[1]


def test_version_is_that_of_the_imported_code(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version may be installed while a server runs."""
    before = cache.version_folder()
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    assert cache.version_folder() == before
    assert before.parent == root
    assert before.name.removeprefix("llamafw-") == cache.hash_sources(Path(kernel_compiler.__file__).parent)


def test_kernels_are_compiled_without_a_writable_folder(root: Path) -> None:
    root.write_text("a file instead of a folder")
    lines: list[str] = []
    kernel = KernelCompiler(lines.append)("add one", 1, add_one)
    assert kernel.ctypes(41) == 42
    assert "cannot be stored" in lines[1]
    assert "set NUMBA_CACHE_DIR to a writable folder" in lines[1]


def test_kernels_are_compiled_if_the_cache_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, sig: Any, data: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.FunctionCache.save_overload", fail)
    lines: list[str] = []
    assert KernelCompiler(lines.append)("add one", 1, add_one).ctypes(41) == 42
    assert "No space left on device" in "".join(lines)


def test_code_of_others_is_stored_elsewhere_while_a_kernel_is_compiled(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba's setting is global, so that of other threads would change, too."""
    seen = []

    def compile_it(self: Any) -> None:
        seen.append(numba.config.CACHE_DIR)
        compile_as_before(self)

    compile_as_before = CFunc.compile
    monkeypatch.setattr(CFunc, "compile", compile_it)
    KernelCompiler(lambda line: None)("add one", 1, add_one)
    assert seen == [str(root)]
    assert list(root.glob("llamafw-*/any/add-one/*.nbc"))


def test_a_used_kernel_is_marked_as_used(root: Path) -> None:
    KernelCompiler(lambda line: None)("add one", 1, add_one, isa="avx2")
    (folder,) = root.glob("llamafw-*/avx2/add-one")
    os.utime(folder, (0, 0))
    compiler = KernelCompiler(lambda line: None)
    compiler("add one", 1, add_one, isa="avx2")
    assert compiler.compiled == []
    assert time.time() - folder.stat().st_mtime < DAY


def test_unused_code_is_removed(root: Path) -> None:
    version = cache.version_folder()
    kept = [
        write_code(version / cache.ANY_ISA / "step", days=100),  # of this version
        write_code(version / "avx2" / "matmul", days=100),  # of this version and instruction set
        write_code(version / "plain" / "recent", days=29),
        write_code(root / "llamafw-0123456789abcdef" / "avx2" / "recent", days=29),
        write_code(root / "llamafw-of-somebody-else" / "avx2" / "step", days=100),
        write_code(root / "numba_cpu_1", days=100),  # of another program
    ]
    removed = [
        write_code(version / "plain" / "matmul", days=31),
        write_code(root / "llamafw-0123456789abcdef" / "avx2" / "step", days=31),
        write_code(root / "llamafw-fedcba9876543210" / "any" / "step", days=31),
    ]
    flat = root / "llamafw-00000000000000ff" / "numba_cpu_2"  # old versions had no folders of kernels
    removed.append(write_code(flat, days=0) / "old.nbi")
    (flat / "old.nbi").write_bytes(b"index")
    os.utime(flat / "old.nbi", (0, 0))

    cache.remove_unused(version, "avx2")

    assert [path for path in kept if not (path / "numba_cpu_0" / "kernel.nbc").exists()] == []
    assert [path for path in removed if path.exists()] == []
    assert not (root / "llamafw-fedcba9876543210").exists()  # the empty folder is removed too
    assert (flat / "numba_cpu_0" / "kernel.nbc").exists()
    assert not list(root.rglob("removed-*"))


def test_removal_does_not_follow_links(root: Path, tmp_path: Path) -> None:
    outside = write_code(tmp_path / "outside" / "kernel", days=100)
    version = root / "llamafw-0123456789abcdef"
    (version / "any").mkdir(parents=True)
    (version / "any" / "kernel").symlink_to(outside, target_is_directory=True)
    (version / "avx2").symlink_to(outside.parent, target_is_directory=True)
    os.utime(version / "any" / "kernel", (0, 0), follow_symlinks=False)

    cache.remove_unused(cache.version_folder(), "avx2")
    assert (outside / "numba_cpu_0" / "kernel.nbc").exists()
    assert not (version / "any").exists()


def test_code_that_is_used_during_its_removal_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process marks the folder between the check of its age and its renaming."""
    folder = write_code(root / "llamafw-0123456789abcdef" / "any" / "step", days=31)
    rename = Path.rename

    def use_and_rename(self: Path, target: Path) -> Path:
        if self == folder:
            os.utime(folder)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", use_and_rename)

    cache.remove_unused(cache.version_folder(), "avx2")
    assert (folder / "numba_cpu_0" / "kernel.nbc").exists()


def test_folder_that_another_process_removes_is_created_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removes the folder before this one can mark it as used."""
    utime, n_calls = os.utime, 0

    def remove_first(path: Path) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            shutil.rmtree(root)
        utime(path)

    monkeypatch.setattr(os, "utime", remove_first)

    folder = cache.kernel_folder(cache.version_folder(), "any", "step")
    assert folder is not None
    assert folder.is_dir()
    assert n_calls == 2


def test_processes_can_start_and_remove_at_the_same_time(root: Path) -> None:
    """Four processes compile kernels and remove old ones at the same time; none of them fails."""
    version = root / "llamafw-0123456789abcdef"
    for i in range(30):
        write_code(version / "any" / f"kernel-{i}", days=31)
    code = START + "\ncompiler.remove_unused('plain')"
    env = os.environ | {"NUMBA_CACHE_DIR": str(root)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    results = [(*process.communicate(), process.returncode) for process in processes]
    assert [(stderr, code) for _, stderr, code in results] == [("", 0)] * 4
    assert not version.exists()


def test_a_backend_removes_unused_code(root: Path, tmp_path: Path) -> None:
    from llamafw.testing.tiny import write_tiny_gguf
    from support.numba_backend import open_backend

    old = write_code(root / "llamafw-0123456789abcdef" / "any" / "step", days=31)
    with open_backend(write_tiny_gguf(tmp_path / "m.gguf")):
        assert not old.exists()
        assert list(cache.version_folder().glob("any/step/*"))


def test_backends_share_kernels_in_memory(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM cannot free code, so a backend that is loaded again must not load its kernels again."""

    def load(*arguments: Any, **options: Any) -> Any:
        loaded.append(arguments)
        return compile_c_function(*arguments, **options)

    loaded: list[Any] = []
    monkeypatch.setattr(kernel_compiler, "compile_c_function", load)
    monkeypatch.setattr("llamafw_backends.numba_cpu.backend.LOADED", {})
    counts, rows = [], []
    for _ in range(2):
        with open_backend(tiny_model, n_ctx=64) as backend:
            rows.append(backend.forward(batch((0, 0, (1, 2, 3)))).copy())
        counts.append(len(loaded))
    assert counts[0] == counts[1] > 0
    np.testing.assert_array_equal(*rows)
