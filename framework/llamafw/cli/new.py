"""``llamafw plugin new KIND NAME``: write a distribution that works, and passes its own tests.

The files are in ``templates``: those that all kinds have in common, and a folder for each kind. ``$`` and a word in
them stands for something that follows from the name.
"""

from __future__ import annotations

import re
import zlib
from argparse import RawDescriptionHelpFormatter
from datetime import date
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from llamafw import spec
from llamafw.cli.main import COMMANDS
from llamafw.cli.parser import Parser, add_settings
from llamafw.errors import LlamafwError, SettingsError
from llamafw.plugins import Plugins
from llamafw.settings import Settings

KINDS = {
    "sampler": "chooses among tokens",
    "chat-format": "writes a conversation as a prompt",
    "tool-parser": "reads calls of tools in answers",
    "grammar": "holds answers to a form",
    "tokenizer": "text to tokens and back",
    "architecture": "describes a model family",
    "quant": "a tensor type: how weights lie in a file",
    "weights": "opens model files that are not GGUF",
    "backend": "runs models",
    "engine": "answers for models that run elsewhere",
    "endpoint": "an operation of the API",
    "pages": "pages and files beside the API",
    "authenticator": "knows who may call",
    "asgi": "around the whole server: headers, limits",
    "request": "a rule for every request",
    "events": "hears what happens",
    "command": "a command of llamafw",
}
CLASSES = ("authenticator", "events")
"""Kinds that remember something: the entry point is a class, of which one is made."""

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MOST = 40  # characters of a name


def run(argv: list[str]) -> int:
    """Write the files; print what to do next."""
    kinds = "\n".join(f"  {kind:13} {text}" for kind, text in KINDS.items())
    parser = Parser("llamafw plugin new", f"Write a package for a new plugin. KIND is one of\n{kinds}")
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.add_argument("kind", metavar="KIND")
    parser.add_argument("name", metavar="NAME", help="lower-case words with hyphens; the package is llamafw-NAME")
    parser.add_argument("--folder", metavar="PATH", type=Path, help="where to write it (default: ./llamafw-NAME)")
    given = parser.parse(argv)
    kind, name = given.kind.replace("_", "-"), given.name.removeprefix("llamafw-")
    _check(kind, name)
    folder = given.folder or Path(f"llamafw-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"plugin new: {folder} is there already")
    texts = distribution(kind, name)
    _try(kind, name, texts[f"{module_of(name)}.py"])
    try:
        for place, text in texts.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text(text, "utf-8")
    except OSError as error:
        raise SettingsError(f"plugin new: {error.filename}: {error.strerror}") from None
    print(
        f"{folder}: {', '.join(texts)}\n\nNext:\n  cd {folder}\n  pip install -e '.[test]'\n  pytest\n"
        "  llamafw plugin check ."
    )
    return 0


def distribution(kind: str, name: str) -> dict[str, str]:
    """Return the files of a distribution, path → text.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    name : str
        Lower-case words with hyphens.
    """
    words = {
        "name": name,
        "module": module_of(name),
        "snake": name.replace("-", "_"),
        "Class": "".join(word.capitalize() for word in name.split("-")),
        "NAME": name.replace("-", "_").upper(),
        "type_id": f"0x{0x10000 | zlib.crc32(name.encode()) >> 4:X}",  # beyond all of ggml's
        "what": kind.replace("-", " ") if kind in KINDS else kind,
        "year": str(date.today().year),
        "test": f"tests/test_{name.replace('-', '_')}.py",
    }
    words["entry"] = f"{words['module']}:{words['Class']}" if kind in CLASSES else words["module"]
    for part in ("about.md", "usage.sh"):
        words[part.partition(".")[0]] = _fill(kind, part, words).rstrip("\n")
    return {
        "pyproject.toml": _fill("common", "pyproject.toml", words),
        f"{words['module']}.py": _fill(kind, "module.py", words),
        words["test"]: _fill(kind, "test.py", words),
        "README.md": _fill("common", "README.md", words),
        "LICENSE": _fill("common", "LICENSE", words),
        ".gitignore": _fill("common", "gitignore", words),
        ".github/workflows/test.yml": _fill("common", "workflow.yml", words),
    }


def module_of(name: str) -> str:
    """Return the module of a plugin's name."""
    return f"llamafw_{name.replace('-', '_')}"


def _fill(folder: str, file: str, words: dict[str, str]) -> str:
    text = (files("llamafw.cli") / "templates" / folder / f"{file}.tmpl").read_text("utf-8")
    return Template(text).substitute(words)


def _check(kind: str, name: str) -> None:
    if kind not in KINDS:
        raise SettingsError(f"plugin new: there is no kind {kind!r}; there are {', '.join(KINDS)}")
    if not NAME.fullmatch(name) or len(name) > MOST:
        hint = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:MOST]
        hint = f"; {hint} would be one" if NAME.fullmatch(hint) else ""
        raise SettingsError(f"plugin new: {name!r} is no name: lower-case words with hyphens, {MOST} letters{hint}")


def _try(kind: str, name: str, module: str) -> None:
    """Raise SettingsError if the plugin could not be loaded beside those that are installed: a name is taken."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{module_of(name)}.py"
        path.write_text(module, "utf-8")
        plugins = Plugins(tolerant=True)
        broken = {one.name for one in plugins.found.values() if one.error}
        try:
            plugins = Plugins(extra=[str(path)], block=broken)
            document = spec.merged_document(plugins, Settings())
            if kind == "pages" and (f"/{name}" in document["paths"] or name == "docs"):
                raise SettingsError(f"/{name} is there already")
            if kind == "command" and name in COMMANDS:
                raise SettingsError(f"the command {name!r} is llamafw's own")
            parser = Parser("llamafw serve", "")
            add_settings(parser)
            for _, add_options in plugins.calls("add_options"):
                add_options(parser=parser)
        except LlamafwError as error:
            reason = str(error).replace(str(path), f"llamafw-{name}").partition(" (start without it")[0]
            raise SettingsError(f"plugin new: {name} is taken: {reason}") from None
