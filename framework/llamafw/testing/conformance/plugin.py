"""What every plugin keeps, whatever it registers: public names alone, cheap to load, silent until it is asked."""

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
from llamafw.plugins import Found
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.golden import GOLDEN

HEAVY = ("numba", "onnxruntime", "torch", "transformers", "jinja2", "tokenizers", "gguf", "scipy", "pandas")
PUBLIC = {f"llamafw.{name}" for name in llamafw.__all__}


class PluginConformance(Conformance):
    """Subclass it, and give as ``name`` a distribution, or what ``llamafw plugins`` lists."""

    kind = "plugin"

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return settings that a server needs to start with it, if it does."""
        return {}

    def test_it_does_something(self) -> None:
        for found in self.found():
            assert found.hooks, f"{found.name} implements no hook"

    def test_it_imports_only_what_llamafw_exports(self) -> None:
        own = tuple(self.modules())
        for path in self.sources():
            names = {name for name in imports(path) if not name.startswith(own)}
            private = sorted(name for name in names if name.startswith("llamafw.") and name not in PUBLIC)
            ours = sorted(name for name in names if name.startswith(("llamafw_plugins", "llamafw_backends")))
            assert not private, f"{path.name} imports {private[0]}: only what `llamafw` exports is stable"
            assert not ours, f"{path.name} imports {ours[0]}: what is built in is no library"

    def test_loading_it_is_cheap(self) -> None:
        """What takes long to import is imported by what it registers: ``llamafw --help`` loads every plugin."""
        mine = {one.name for one in self.found()}
        others = [one.name for one in load(self.plugins).found.values() if one.name not in mine]
        code = (
            f"import sys; from llamafw.plugins import Plugins; Plugins(extra={self.plugins!r}, block={others!r}); "
            "print(*sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        heavy = sorted(set(HEAVY) & set(done.stdout.split()))
        assert not heavy, f"loading it imports {', '.join(heavy)}"

    async def test_answers_are_as_ever_until_it_is_asked(self, serve: Any, tmp_path: Path) -> None:
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            assert (await client.get("/health")).status_code == 200
            for stream in GOLDEN:
                response = await client.post("/completion", json={**stream.body, "return_tokens": True})
                assert response.status_code == 200, response.text
                tokens = tuple(response.json()["tokens"])
                assert tokens == stream.tokens, f"{stream.body}: the answer is {tokens} and not {stream.tokens}"

    # --- how

    def found(self) -> list[Found]:
        """Return the plugins of that name."""
        plugins = load(self.plugins).found.values()
        mine = [one for one in plugins if self.name in (one.name, one.distribution)]
        if not mine:
            pytest.fail(f"there is no plugin {self.name!r}; there are {', '.join(one.name for one in plugins)}")
        return mine

    def modules(self) -> set[str]:
        """Return the top-level modules, or files, of the plugin."""
        found: set[str] = set()
        for one in self.found():
            if one.name in self.plugins:
                found.add(one.name)
            else:
                entries = distribution(one.distribution).entry_points.select(group="llamafw")
                found.update(entry.module.partition(".")[0] for entry in entries)
        return found

    def sources(self) -> Iterator[Path]:
        """Yield the Python files of the plugin."""
        for module in self.modules():
            yield from _files(Path(module) if module.endswith(".py") else _origin(module))


def imports(path: Path) -> set[str]:
    """Return what a file imports when it runs, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def _origin(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}"
    assert spec.origin is not None, f"{module} is no Python file"
    return Path(spec.origin)


def _files(path: Path) -> Iterator[Path]:
    yield from sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
