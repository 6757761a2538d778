"""The code of samplers is compiled once, by another process, and again when a module in its folder changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PARTS = """
import numba

@numba.njit
def first(logits):
    return logits[0] + {added}
"""
KERNELS = """
from llamafw import compile_sampler_kernel
from sampler_package.parts import first

@compile_sampler_kernel
def add_to_first(logits, ids, ordered, options):
    logits[0] = first(logits)
    return len(logits)
"""
PLUGIN = """
import numpy as np
from llamafw import SamplerKernel

class AddToFirst:
    options = {}
    truncates = False

    @classmethod
    def create(cls, options, context):
        from sampler_package import kernels
        sampler = cls()
        sampler.kernel = SamplerKernel(kernels.add_to_first, np.zeros(0))
        return sampler
"""
START = """
import numpy as np
from llamafw import Candidates
from llamafw.sampling.compile_ahead import compile_ahead, mark_compiled
from sampler_package.plugin import AddToFirst

plugins = {"add": AddToFirst}
with compile_ahead(plugins, print) as wait:
    print("exit code", wait())
kernel = AddToFirst.create({}, None).kernel
mark_compiled(plugins)
candidates = Candidates(np.arange(3, dtype=np.int32), np.zeros(3, np.float32), False)
kernel.apply(candidates)
print("first", candidates.logits[0], "loaded", kernel.function.compiled.cache_hits)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a plugin's package."""
    folder = tmp_path / "sampler_package"
    folder.mkdir()
    for name, text in {"__init__": "", "parts": PARTS.format(added=1), "kernels": KERNELS, "plugin": PLUGIN}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def start(package: Path) -> list[str]:
    """Return what a start of a server would log, and the result of the kernel."""
    path = os.pathsep.join((str(package.parent), os.environ.get("PYTHONPATH", "")))
    env = os.environ | {"NUMBA_CACHE_DIR": str(package.parent / "cache"), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", START], env=env, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_first_start_compiles_samplers_in_another_process(package: Path) -> None:
    announced = "compiling samplers in another process; later starts do not"
    assert start(package) == [announced, "exit code 0", "first 1.0 loaded 1"]
    assert start(package) == ["exit code None", "first 1.0 loaded 1"]


def test_samplers_are_compiled_again_if_a_module_beside_them_changes(package: Path) -> None:
    start(package)
    (package / "parts.py").write_text(PARTS.format(added=2))
    assert start(package)[-1] == "first 2.0 loaded 1"


def test_samplers_that_another_process_cannot_create_are_compiled_by_this_one(package: Path) -> None:
    text = (package / "plugin.py").read_text()
    (package / "plugin.py").write_text(text.replace("sampler = cls()", "sampler = cls() if context is None else 1 / 0"))
    (package / "kernels.py").write_text(KERNELS.replace("import first", "import first, missing"))
    (package / "parts.py").write_text(
        PARTS.format(added=1) + "import sys\nif 'compile_ahead' in str(sys.argv): 1 / 0\nmissing = 0\n"
    )
    assert start(package)[1:] == ["exit code 0", "first 1.0 loaded 0"]
