"""What installed plugins cost: found, imported and registered; and how soon ``llamafw --help`` is there.

Writes distributions as pip leaves them, a module and its ``.dist-info``, into a temporary folder: each registers a
sampler with options, a field, a flag and a setting, and implements an event. Every number is of a process of its own,
the median of several, in milliseconds on the clock and of processor time, which a busy machine disturbs less; the
modules are compiled beforehand, as pip does.
"""

from __future__ import annotations

import argparse
import compileall
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

CODE = """
from llamafw import hookimpl

requires_api = ">=1.0,<2"
plugin_options = {{"limit_{i}": {{"type": "integer", "minimum": 1, "default": 1}}}}


class Sampler:
    options = {{"option_{i}": {{"type": "number", "minimum": 0, "default": 0, "description": "An option."}}}}
    truncates = False

    @classmethod
    def create(cls, options, context):
        return None


@hookimpl
def configure(options): ...

@hookimpl
def add_options(parser): parser.add_argument("--flag-{i}")

@hookimpl
def register_samplers(register): register("sampler_{i}", Sampler)

@hookimpl
def register_fields(register): register("field_{i}", {{"type": "string"}})

@hookimpl
def request_finished(request, finish): ...
"""
MEASURE = """
import time
from llamafw.plugins import Plugins
begun = time.perf_counter(), time.process_time()
plugins = Plugins()
print(time.perf_counter() - begun[0], time.process_time() - begun[1], len(plugins.records))
"""
LIMITS = {"register": 0.150, "llamafw --help": 0.5}
"""Seconds of processor time, with the more plugins."""

Times = list[tuple[float, float]]  # on the clock, of the processor


def write_distributions(folder: Path, n: int) -> None:
    """Write ``n`` distributions with a plugin each."""
    for i in range(n):
        (folder / f"bench_plugin_{i}.py").write_text(CODE.format(i=i))
        info = folder / f"bench_plugin_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bench-plugin-{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[llamafw]\nbench{i} = bench_plugin_{i}\n")
    compileall.compile_dir(folder, quiet=1)


def registering(site: Path | None, n: int) -> tuple[float, float]:
    """Return seconds to find, import and register all plugins, at least ``n``."""
    environ = {**os.environ, "PYTHONPATH": str(site or "")}
    words = subprocess.check_output([sys.executable, "-c", MEASURE], env=environ, text=True).split()
    if int(words[2]) < n:
        raise SystemExit(f"only {words[2]} plugins were found")
    return float(words[0]), float(words[1])


def running(site: Path | None, *argv: str) -> tuple[float, float]:
    """Return seconds until a command of ours has ended."""
    environ = {**os.environ, "PYTHONPATH": str(site or "")}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "llamafw", *argv], env=environ, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print the table; 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=50, help="plugins (default: 50)")
    parser.add_argument("--runs", type=int, default=7, help="processes per number (default: 7)")
    given = parser.parse_args()
    runs = range(given.runs)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        write_distributions(site, given.n)
        print(f"| | built-in plugins | and {given.n} more |\n|---|---|---|")
        rows = {"register": [[registering(place, n) for _ in runs] for place, n in ((None, 1), (site, given.n))]}
        for argv in (("--help",), ("serve", "--help"), ("plugins",)):
            name = " ".join(("llamafw", *argv))
            rows[name] = [[running(place, *argv) for _ in runs] for place in (None, site)]
    for name, (few, many) in rows.items():
        what = "find, import and register" if name == "register" else f"`{name}`"
        print(f"| {what} | {shown(few)} | {shown(many)} |")
    broken = [name for name, limit in LIMITS.items() if median(one[1] for one in rows[name][1]) > limit]
    for name in broken:
        print(f"{name} takes longer than {LIMITS[name] * 1e3:.0f} ms")
    return 1 if broken else 0


def shown(times: Times) -> str:
    """Return the medians: on the clock, and of processor time."""
    clock, processor = (median(one[i] for one in times) * 1e3 for i in (0, 1))
    return f"{clock:.0f} ({processor:.0f})"


if __name__ == "__main__":
    sys.exit(main())
