"""Compiles the kernels of samplers in another process, while this one loads the model.

Numba compiles one function at a time in a process, and the first start compiles for many seconds. Nothing depends on
the other process: what it does not compile, this one compiles.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from operator import attrgetter
from typing import Any, cast

from llamafw.code_cache import use_folder
from llamafw.interfaces import SamplerContext, SamplerPlugin, Tokenizer
from llamafw.sampling.compiled_samplers import plugin_folder


def mark_compiled(plugins: Mapping[str, SamplerPlugin]) -> None:
    """Record that all kernels of samplers are compiled."""
    for plugin in plugins.values():
        if (folder := plugin_folder(plugin)) is not None:
            use_folder(folder)


@contextmanager
def compile_ahead(plugins: Mapping[str, SamplerPlugin], log: Callable[[str], None]) -> Iterator[Callable[[], Any]]:
    """Compile the kernels that were never compiled, while the body of the with statement runs.

    Yields
    ------
    callable
        Waits for the other process.
    """
    process = _start([plugin for plugin in plugins.values() if _is_new(plugin)], log)
    if process is None:
        yield lambda: None
        return
    try:
        yield process.wait
    finally:
        process.kill()
        process.wait()


def _start(plugins: list[SamplerPlugin], log: Callable[[str], None]) -> subprocess.Popen[bytes] | None:
    """Start a process that compiles samplers; return None if there is nothing to gain."""
    if not plugins or not sys.executable or hasattr(sys, "frozen") or (os.cpu_count() or 1) < 2:
        return None
    names = [f"{plugin.__module__}:{cast('type', plugin).__qualname__}" for plugin in plugins]
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    log("compiling samplers in another process; later starts do not")
    return process


def _is_new(plugin: SamplerPlugin) -> bool:
    folder = plugin_folder(plugin)
    return folder is not None and not folder.is_dir()


def main(names: list[str]) -> None:
    """Create samplers with their defaults, which imports their kernels and so compiles them."""
    import_module("llamafw.sampling.run_kernels")  # what runs the kernels is compiled, too

    no_tokenizer = cast("Tokenizer", None)  # samplers that need one are compiled by the server
    for name in names:
        module, _, qualified_name = name.partition(":")
        with suppress(Exception):  # the server reports it
            plugin: SamplerPlugin = attrgetter(qualified_name)(import_module(module))
            defaults = {field: schema["default"] for field, schema in plugin.options.items()}
            plugin.create(defaults, SamplerContext((), 64, 64, no_tokenizer))


if __name__ == "__main__":
    main(sys.argv[1:])
