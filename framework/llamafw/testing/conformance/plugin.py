"""The rules for all plugins: public imports only, quick to load, and no effect until they are used."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import llamafw
from llamafw.plugins import PluginRecord
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.golden import GOLDEN

SLOW_IMPORTS = ("numba", "onnxruntime", "torch", "transformers", "jinja2", "tokenizers", "gguf", "scipy", "pandas")
PUBLIC = {f"llamafw.{name}" for name in llamafw.__all__}
PUBLIC_MODULES = ("llamafw_backends.numba_cpu.kernel_api",)  # of built-in plugins: what kernels of others are made of
LOAD = "import sys; from llamafw.plugins import Plugins; Plugins(extra={extra!r}, block={block!r}); print(*sys.modules)"


class PluginConformance(Conformance):
    """Subclass it and give as ``name`` the distribution, or what ``llamafw plugins`` lists."""

    kind = "plugin"

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return the settings that a server needs to start with the plugin, if there are any."""
        return {}

    def test_imports_only_the_public_api(self) -> None:
        """It imports only names that `llamafw` exports; submodules may change with any release.

        For kernels there is `llamafw_backends.numba_cpu.kernel_api`.
        """
        own = tuple(self.modules())
        paths = list(self.sources())
        assert paths, f"no Python files of {self.name} are found"
        for path in paths:
            names = {name for name in imports(path) if not name.startswith(own)}
            private = sorted(name for name in names if name.startswith("llamafw.") and name not in PUBLIC)
            assert not private, f"{path.name} imports {private[0]}, which is not public"
            built_in = sorted(
                name
                for name in names
                if name.startswith(("llamafw_plugins", "llamafw_backends")) and not name.startswith(PUBLIC_MODULES)
            )
            assert not built_in, f"{path.name} imports {built_in[0]}: the built-in plugins are not public"

    def test_loading_imports_nothing_slow(self) -> None:
        """Loading it imports no slow package: `llamafw --help` loads every plugin.

        Import such packages where they are used, inside the objects that the plugin registers.
        """
        own = {record.name for record in self.records()}
        others = [name for name in load(self.plugins).records if name not in own]
        code = LOAD.format(extra=self.plugins, block=others)
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr[-2000:]
        slow = ", ".join(sorted(set(SLOW_IMPORTS) & set(process.stdout.split())))
        assert not slow, f"loading it imports {slow}"

    async def test_unused_plugin_changes_no_answer(self, serve: Any, tmp_path: Path) -> None:
        """While its flags, fields and names are not used, answers are the same as without the plugin."""
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            assert (await client.get("/health")).status_code == 200
            for answer in GOLDEN:
                response = await client.post("/completion", json={**answer.body, "return_tokens": True})
                assert response.status_code == 200, response.text
                tokens = tuple(response.json()["tokens"])
                assert tokens == answer.tokens, f"the answer to {answer.body} is {tokens}; without it {answer.tokens}"

    # --- helpers

    def records(self) -> list[PluginRecord]:
        """Return the plugins of that name; fail if there are none."""
        plugins = load(self.plugins).records.values()
        own = [record for record in plugins if self.name in (record.name, record.distribution)]
        if not own:
            known = ", ".join(record.name for record in plugins)
            pytest.fail(f"no plugin {self.name!r} is installed; the plugins are {known}")
        return own

    def modules(self) -> set[str]:
        """Return the top-level modules, or files, of the plugin."""
        modules: set[str] = set()
        for record in self.records():
            if record.name in self.plugins:
                modules.add(record.name)
            else:
                entries = distribution(record.distribution).entry_points.select(group="llamafw")
                modules.update(entry.module.partition(".")[0] for entry in entries)
        return modules

    def sources(self) -> Iterator[Path]:
        """Yield the Python files of the plugin."""
        for module in self.modules():
            yield from _files(Path(module) if module.endswith(".py") else _origin(module))


def imports(path: Path) -> set[str]:
    """Return the absolute imports of a file, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def _origin(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"the module {module} does not exist"
    assert spec.origin is not None, f"the module {module} is not a Python file"
    return Path(spec.origin)


def _files(path: Path) -> Iterator[Path]:
    yield from sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
