"""``llamafw plugin new KIND NAME``: write a package for a new plugin that works and passes its own tests.

The folder ``templates`` has a folder with the files of each kind, and ``common`` for files that all kinds share.
Placeholders in these files, such as ``$name``, are replaced by words made from the plugin's name.
"""

from __future__ import annotations

import re
import shutil
import zlib
from datetime import date
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from llamafw import spec
from llamafw.cli.main import COMMANDS
from llamafw.cli.parser import CommandParser
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.errors import LlamafwError, SettingsError, did_you_mean
from llamafw.plugins import Plugins
from llamafw.settings import Settings

KINDS = {
    "sampler": "chooses among the candidates for the next token",
    "chat-format": "renders a conversation as a prompt",
    "tool-parser": "finds tool calls in responses",
    "grammar": "constrains the form of responses",
    "drafter": "guesses the next tokens of responses, to make them faster",
    "tokenizer": "converts text to tokens and back",
    "architecture": "describes a model family to the backends",
    "conversion": "loads a class of Hugging Face checkpoints",
    "operator": "adds an operator to the graphs of architectures",
    "quant": "reads a tensor type: a format in which files store weights",
    "weights": "opens model files that are not GGUF",
    "backend": "runs models",
    "engine": "generates with a model that runs elsewhere",
    "endpoint": "adds an operation to the API",
    "pages": "serves web pages and files beside the API",
    "authenticator": "identifies users by their credentials",
    "asgi": "wraps the whole server as middleware: headers, limits",
    "request": "applies a rule to every request",
    "events": "reacts to events in the server",
    "command": "adds a command to llamafw",
}
"""Kinds of plugins → help."""

KINDS_WITH_STATE = ("authenticator", "events")
"""Kinds whose hooks are methods of a class: llamafw creates one object of it, which keeps the plugin's state."""

KINDS_WITH_KERNEL = ("quant",)
"""Kinds with a second module, which is imported only when a model needs it."""

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME_LENGTH = 40


def run(argv: list[str]) -> int:
    """Write the package and print what to do next."""
    width = max(map(len, KINDS)) + 1
    kinds = "\n".join(f"  {kind:{width}} {text}" for kind, text in KINDS.items())
    parser = CommandParser(
        "llamafw plugin new",
        f"Create a package for a new plugin. KIND is one of\n{kinds}",
        example="llamafw plugin new sampler top-a",
    )
    parser.add_argument("kind", metavar="KIND", help="one of the kinds above")
    parser.add_argument(
        "name", metavar="NAME", help="lower-case words joined by hyphens; the package is called llamafw-NAME"
    )
    parser.add_argument(
        "--folder", metavar="FOLDER", type=Path, help="folder to write the package to (default: ./llamafw-NAME)"
    )

    args = parser.parse(argv)
    kind, name = args.kind.replace("_", "-"), args.name.removeprefix("llamafw-")
    _check_arguments(kind, name)
    folder = args.folder or Path(f"llamafw-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(
            f"plugin new: {folder} already exists and is not an empty folder; choose another with --folder"
        )

    contents = package_files(kind, name)
    _check_it_loads(kind, name, contents[f"{module_of(name)}.py"])
    try:
        for relative_path, text in contents.items():
            path = folder / relative_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # it was empty
        raise SettingsError(f"plugin new: {error.filename or folder}: {error.strerror}") from None

    print(f"Created {folder} with {', '.join(contents)}.\n\nNext:\n  cd {folder}\n  pip install -e '.[test]'")
    print("  pytest\n  llamafw plugin check .")
    return 0


def package_files(kind: str, name: str) -> dict[str, str]:
    """Return the files of a package for a new plugin, path → text.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    name : str
        Lower-case words joined by hyphens.
    """
    snake = name.replace("-", "_")
    words = {
        "name": name,
        "module": module_of(name),
        "snake": snake,
        "Class": class_of(name),
        "NAME": snake.upper(),
        "type_id": f"0x{0x10000 | zlib.crc32(name.encode()) >> 4:X}",  # beyond the ids of ggml's types
        "what": kind.replace("-", " "),
        "year": str(date.today().year),
        "test": f"tests/test_{snake}.py",
    }
    words["entry"] = f"{module_of(name)}:{class_of(name)}" if kind in KINDS_WITH_STATE else words["module"]
    modules = [words["module"], f"{words['module']}_kernel"] if kind in KINDS_WITH_KERNEL else [words["module"]]
    words["modules"] = " ".join(f"{module}.py" for module in modules)
    words["included"] = ", ".join(f'"{module}.py"' for module in modules)
    words["about"] = _fill(kind, "about.md", words).rstrip("\n")
    words["usage"] = _fill(kind, "usage.sh", words).rstrip("\n")

    return {
        "pyproject.toml": _fill("common", "pyproject.toml", words),
        f"{words['module']}.py": _fill(kind, "module.py", words),
        **{f"{module}.py": _fill(kind, "kernel.py", words) for module in modules[1:]},
        words["test"]: _fill(kind, "test.py", words),
        "README.md": _fill("common", "README.md", words),
        "LICENSE": _fill("common", "LICENSE", words),
        ".gitignore": _fill("common", "gitignore", words),
        ".github/workflows/test.yml": _fill("common", "workflow.yml", words),
    }


def module_of(name: str) -> str:
    """Return the name of a plugin's module."""
    return f"llamafw_{name.replace('-', '_')}"


def class_of(name: str) -> str:
    """Return the name of a plugin's main class."""
    return "".join(word.capitalize() for word in name.split("-"))


def _fill(folder: str, file: str, words: dict[str, str]) -> str:
    text = (files("llamafw.cli") / "templates" / folder / f"{file}.tmpl").read_text("utf-8")
    return Template(text).substitute(words)


def _check_arguments(kind: str, name: str) -> None:
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f"; the kinds are {', '.join(KINDS)}"
        raise SettingsError(f"plugin new: unknown kind {kind!r}{hint}")
    if not NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        valid = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:MAX_NAME_LENGTH].rstrip("-")
        hint = f", such as {valid!r}" if NAME.fullmatch(valid) else ""
        rule = f"use lower-case words joined by hyphens, a letter first, at most {MAX_NAME_LENGTH} characters{hint}"
        raise SettingsError(f"plugin new: {name!r} is not a valid name: {rule}")


def _check_it_loads(kind: str, name: str, source: str) -> None:
    """Raise SettingsError if the plugin does not load together with the installed ones, which may use its name."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{module_of(name)}.py"
        path.write_text(source, "utf-8")

        broken = {record.name for record in Plugins(tolerant=True).records.values() if record.error}
        try:
            plugins = Plugins(extra=[str(path)], block=broken)
            document = spec.merged_document(plugins, Settings())
            if kind == "pages" and (f"/{name}" in document["paths"] or name == "docs"):
                raise SettingsError(f"the server already has /{name}")
            if kind == "command" and name in COMMANDS:
                raise SettingsError(f"{name!r} is a command of llamafw itself")
            collect_plugin_flags(plugins)
        except LlamafwError as error:
            reason = str(error).replace(str(path), f"llamafw-{name}").partition("; use --no-plugin")[0]
            raise SettingsError(f"plugin new: the name {name!r} cannot be used: {reason}") from None
