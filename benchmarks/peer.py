"""Build llama.cpp for comparisons, from the sdist of llama-cpp-python, with all instructions of this machine.

``python benchmarks/peer.py build`` downloads and builds it once, which takes minutes and needs cmake and a C++
compiler. LLAMAFW_PEER names a folder with the same programs of another build.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

SDIST = "llama-cpp-python==0.3.36"
TARGETS = ("llama-bench", "llama-batched-bench", "llama-server")
AMX_FIX = """\
/* GCC 12 drops stores to the tile configuration before _tile_loadconfig; the asm's memory operand keeps them. */
#ifdef __AMX_TILE__
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(p) __asm__ volatile("ldtilecfg %0" :: "m"(*(const char (*)[64])(p)))
#endif
"""


def folder() -> Path:
    """Return the folder of the built programs."""
    other = os.environ.get("LLAMAFW_PEER")
    return Path(other) if other else user_cache_path("llamafw") / "peer" / SDIST.replace("==", "-") / "bin"


def program(name: str) -> Path:
    """Return the path of one of `TARGETS`."""
    path = folder() / name
    if not path.is_file():
        sys.exit(f"{path} does not exist: run `python benchmarks/peer.py build` first")
    return path


def build() -> None:
    """Download the sources and build the programs, unless they exist."""
    if all((folder() / name).is_file() for name in TARGETS):
        return

    out = folder().parent
    out.mkdir(parents=True, exist_ok=True)
    (out / "amx.h").write_text(AMX_FIX)
    with tempfile.TemporaryDirectory() as scratch:
        package = SDIST.split("==")[0]
        run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", package, "--dest", scratch, SDIST)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")

        (source,) = Path(scratch).glob("*/vendor/llama.cpp")
        flags = f"-include {out / 'amx.h'}"
        run(
            "cmake",
            "-S",
            str(source),
            "-B",
            f"{scratch}/build",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=ON",
            "-DLLAMA_CURL=OFF",
            "-DLLAMA_OPENSSL=OFF",
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_EXAMPLES=OFF",
            "-DLLAMA_BUILD_UI=OFF",
            "-DBUILD_SHARED_LIBS=OFF",
            f"-DCMAKE_C_FLAGS={flags}",
            f"-DCMAKE_CXX_FLAGS={flags}",
        )
        run("cmake", "--build", f"{scratch}/build", "--parallel", str(os.cpu_count()), "--target", *TARGETS)

        folder().mkdir(exist_ok=True)
        for name in TARGETS:
            (Path(scratch) / "build/bin" / name).replace(folder() / name)


def run(*command: str) -> None:
    """Run a command; raise an error if it fails."""
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    if sys.argv[1:] != ["build"]:
        sys.exit(__doc__)
    build()
    print(folder())
