"""Measure the cost of installed plugins: finding, importing and registering them, and the commands of llamafw.

The benchmark writes distributions into a temporary folder as pip installs them: a compiled module and its
``.dist-info``. Each registers a sampler with options, a field, a flag and a setting, and implements an event. Every
number is the median of several new processes, in milliseconds of wall time and of processor time, which other load on
the machine affects less.
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
started = time.perf_counter(), time.process_time()
plugins = Plugins()
print(time.perf_counter() - started[0], time.process_time() - started[1], len(plugins.records))
"""
LIMITS = {"register": 0.150, "llamafw --help": 0.5}
"""Maximum seconds of processor time with the additional plugins."""

Times = list[tuple[float, float]]  # seconds of wall time and of processor time


def write_distributions(folder: Path, n: int) -> None:
    """Write ``n`` distributions with one plugin each."""
    for i in range(n):
        (folder / f"bench_plugin_{i}.py").write_text(CODE.format(i=i))
        info = folder / f"bench_plugin_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bench-plugin-{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[llamafw]\nbench{i} = bench_plugin_{i}\n")
    compileall.compile_dir(folder, quiet=1)


def time_registration(site: Path | None, n: int) -> tuple[float, float]:
    """Return the seconds to find, import and register all plugins; fail if fewer than ``n`` are found."""
    environ = {**os.environ, "PYTHONPATH": str(site or "")}
    words = subprocess.check_output([sys.executable, "-c", MEASURE], env=environ, text=True).split()
    if int(words[2]) < n:
        raise SystemExit(f"{words[2]} plugins were found; there should be at least {n}")
    return float(words[0]), float(words[1])


def time_command(site: Path | None, *argv: str) -> tuple[float, float]:
    """Return the seconds that a llamafw command takes."""
    environ = {**os.environ, "PYTHONPATH": str(site or "")}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "llamafw", *argv], env=environ, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print the table; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=50, help="number of additional plugins (default: 50)")
    parser.add_argument("--runs", type=int, default=7, help="number of processes per measurement (default: 7)")
    args = parser.parse_args()

    runs = range(args.runs)
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary)
        write_distributions(site, args.n)
        rows = {"register": [[time_registration(folder, n) for _ in runs] for folder, n in ((None, 1), (site, args.n))]}
        for argv in (("--help",), ("serve", "--help"), ("plugins",)):
            name = " ".join(("llamafw", *argv))
            rows[name] = [[time_command(folder, *argv) for _ in runs] for folder in (None, site)]

    print(f"| | built-in plugins | and {args.n} more |\n|---|---|---|")
    for name, (few, many) in rows.items():
        label = "find, import and register" if name == "register" else f"`{name}`"
        print(f"| {label} | {format_times(few)} | {format_times(many)} |")

    slow = [name for name, limit in LIMITS.items() if median(times[1] for times in rows[name][1]) > limit]
    for name in slow:
        print(f"{name} takes longer than {LIMITS[name] * 1e3:.0f} ms")
    return 1 if slow else 0


def format_times(times: Times) -> str:
    """Return the medians of wall time and processor time, in milliseconds."""
    wall, processor = (median(pair[i] for pair in times) * 1e3 for i in (0, 1))
    return f"{wall:.0f} ({processor:.0f})"


if __name__ == "__main__":
    sys.exit(main())
